//! Who owns which index.
//!
//! A cycle of slots is dealt to the workers by smooth weighted round robin (the rule nginx uses for its
//! upstreams): index `i` belongs to the owner of slot `i mod length`. Users and arrivals use the same
//! cycle; where a load has fewer users than the cycle has slots, arrivals use only the slots that hold a
//! user. Within a worker, a slot belongs to one load thread, so an index has exactly one owning thread.

use std::num::NonZeroU32;

/// The longest cycle; it bounds the size of an epoch and of the tables made from it.
pub const HIGHEST_WEIGHT_SUM: u32 = 4_096;

/// Why a cycle cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Nobody to deal to.
    #[error("no worker has a weight above zero")]
    Empty,
    /// More slots than [`HIGHEST_WEIGHT_SUM`].
    #[error("the sum of weights is {sum}; the highest is {HIGHEST_WEIGHT_SUM}")]
    TooLong {
        /// The sum.
        sum: u64,
    },
}

/// The owners of the slots, as indices into the list of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    owners: Vec<u32>,
}

impl Cycle {
    /// Deals the slots.
    ///
    /// # Errors
    /// Where all weights are zero or their sum is too high.
    pub fn deal(weights: &[u32]) -> Result<Self, StripeError> {
        let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        if sum == 0 {
            return Err(StripeError::Empty);
        }
        if sum > u64::from(HIGHEST_WEIGHT_SUM) {
            return Err(StripeError::TooLong { sum });
        }
        let mut credit = vec![0_i64; weights.len()];
        let mut owners = Vec::new();
        for _ in 0..sum {
            let mut best = 0;
            for (i, &weight) in weights.iter().enumerate() {
                credit[i] += i64::from(weight);
                if credit[i] > credit[best] {
                    best = i;
                }
            }
            credit[best] -= sum.cast_signed();
            owners.push(u32::try_from(best).unwrap_or(u32::MAX));
        }
        Ok(Self { owners })
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.owners.len() as u64
    }

    /// Never: a cycle has at least one slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The share of thread `thread` of `threads` of `worker` in a set of `users` users.
    ///
    /// `users` cuts the cycle to the slots that hold a user, so the same call serves for the users
    /// themselves and for the arrivals that they take.
    #[must_use]
    pub fn stripe(&self, worker: u32, thread: u32, threads: NonZeroU32, users: u64) -> Stripe {
        let length = self.len().min(users).max(1);
        let mut rank = 0_u32;
        let mut slots = Vec::new();
        for (slot, &owner) in (0..length).zip(&self.owners) {
            if owner == worker {
                if rank % threads == thread {
                    slots.push(u32::try_from(slot).unwrap_or(u32::MAX));
                }
                rank += 1;
            }
        }
        if users == 0 {
            slots.clear();
        }
        Stripe { length, slots }
    }

    /// The worker that owns an index in a set of `users` users.
    #[must_use]
    pub fn owner(&self, index: u64, users: u64) -> Option<u32> {
        let length = self.len().min(users);
        let slot = usize::try_from(index.checked_rem(length)?).ok()?;
        self.owners.get(slot).copied()
    }

    /// The share of a whole worker; see [`Self::stripe`].
    #[must_use]
    pub fn worker_stripe(&self, worker: u32, users: u64) -> Stripe {
        self.stripe(worker, 0, NonZeroU32::MIN, users)
    }
}

/// One owner's indices: those whose place in the cycle is one of its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripe {
    length: u64,
    slots: Vec<u32>,
}

impl Stripe {
    /// Everything, or nothing.
    #[must_use]
    pub fn whole(everything: bool) -> Self {
        Self { length: 1, slots: if everything { vec![0] } else { Vec::new() } }
    }

    /// The `n`-th index of this share, from 0; `None` where it owns nothing.
    #[must_use]
    pub fn nth(&self, n: u64) -> Option<u64> {
        let width = self.slots.len() as u64;
        let slot = usize::try_from(n.checked_rem(width)?).ok().and_then(|place| self.slots.get(place))?;
        Some(n / width * self.length + u64::from(*slot))
    }

    /// How many indices below `end` belong to this share.
    #[must_use]
    pub fn count_below(&self, end: u64) -> u64 {
        let whole = end / self.length * self.slots.len() as u64;
        let rest = end % self.length;
        whole + self.slots.partition_point(|&slot| u64::from(slot) < rest) as u64
    }

    /// The indices below `end`, ascending.
    pub fn below(&self, end: u64) -> impl Iterator<Item = u64> + '_ {
        (0..self.count_below(end)).filter_map(|n| self.nth(n))
    }
}

/// Weights for workers with so many load threads each: by threads, or equal.
///
/// A weight is a multiple of its worker's threads where the sum allows it, so that the threads of a
/// worker share evenly.
#[must_use]
pub fn weights_for(threads: &[NonZeroU32], equal: bool) -> Vec<u32> {
    let workers = u32::try_from(threads.len()).unwrap_or(u32::MAX).max(1);
    if equal {
        let multiple = threads.iter().fold(1_u64, |lcm, n| {
            lcm / gcd(lcm, u64::from(n.get())) * u64::from(n.get()).min(u64::from(HIGHEST_WEIGHT_SUM))
        });
        let highest = HIGHEST_WEIGHT_SUM / workers;
        let weight = u32::try_from(multiple).unwrap_or(u32::MAX).min(highest).max(1);
        return vec![weight; threads.len()];
    }
    let sum: u64 = threads.iter().map(|n| u64::from(n.get())).sum();
    let shrink = sum.div_ceil(u64::from(HIGHEST_WEIGHT_SUM)).max(1);
    threads.iter().map(|n| u32::try_from(u64::from(n.get()) / shrink).unwrap_or(u32::MAX).max(1)).collect()
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn threads(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn slots_are_dealt_smoothly() {
        assert_eq!(Cycle::deal(&[5, 1, 1]).unwrap().owners, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(Cycle::deal(&[]), Err(StripeError::Empty));
        assert_eq!(Cycle::deal(&[4_096, 1]), Err(StripeError::TooLong { sum: 4_097 }));
    }

    #[test]
    fn arrivals_go_only_where_users_are() {
        let cycle = Cycle::deal(&[2, 2]).unwrap();
        assert_eq!(cycle.worker_stripe(0, 1).below(10).count(), 10);
        assert_eq!(cycle.worker_stripe(1, 1).below(10).count(), 0);
        assert_eq!(cycle.worker_stripe(0, 0).below(10).count(), 0);
    }

    #[test]
    fn equal_weights_divide_by_their_threads() {
        assert_eq!(weights_for(&[threads(2), threads(3)], true), [6, 6]);
        assert_eq!(weights_for(&[threads(2), threads(3)], false), [2, 3]);
        let many = vec![threads(64); 1_000];
        assert!(weights_for(&many, true).iter().sum::<u32>() <= HIGHEST_WEIGHT_SUM);
        assert!(weights_for(&many, false).iter().sum::<u32>() <= HIGHEST_WEIGHT_SUM);
    }

    proptest! {
        /// Invariant 2: the union of all shares is the whole, each index once, for users and arrivals,
        /// any workers, threads and weights; and users and arrivals of a load live on the same threads.
        #[test]
        fn splitting_conserves(
            workers in prop::collection::vec((0_u32..40, 1_u32..5), 1..9), users in 0_u64..300, arrivals in 0_u64..2_000
        ) {
            let weights: Vec<u32> = workers.iter().map(|&(weight, _)| weight).collect();
            let Ok(cycle) = Cycle::deal(&weights) else { return Ok(()) };
            let mut user_owner = vec![None; usize::try_from(users).unwrap()];
            let mut arrival_seen = vec![0; usize::try_from(arrivals).unwrap()];
            for (worker, &(_, n)) in (0..).zip(&workers) {
                let mut whole = Vec::new();
                for thread in 0..n {
                    let stripe = cycle.stripe(worker, thread, threads(n), users);
                    let own: Vec<u64> = stripe.below(users).collect();
                    prop_assert_eq!(own.len() as u64, stripe.count_below(users));
                    for &k in &own {
                        prop_assert_eq!(cycle.owner(k, users), Some(worker));
                        let owner = &mut user_owner[usize::try_from(k).unwrap()];
                        prop_assert_eq!(*owner, None);
                        *owner = Some((worker, thread));
                    }
                    for i in stripe.below(arrivals) {
                        prop_assert!(!own.is_empty(), "arrivals on a thread without users");
                        arrival_seen[usize::try_from(i).unwrap()] += 1;
                        whole.push(i);
                    }
                }
                whole.sort_unstable();
                prop_assert_eq!(whole, cycle.worker_stripe(worker, users).below(arrivals).collect::<Vec<_>>());
            }
            prop_assert!(user_owner.iter().all(Option::is_some));
            if users > 0 {
                prop_assert!(arrival_seen.iter().all(|&n| n == 1));
            }
        }
    }
}

//! Users that take turns at a fixed pace.
//!
//! Turn `i` (from 0) is due at `cycle · i / users` and belongs to user `i mod users`: every user has one turn
//! per cycle, and all turns of the grid are evenly spaced. A turn whose user is still busy is late; it is
//! never another's.

use std::time::Duration;

use super::{ScheduleError, Stripe};
use crate::time::nanos;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacedCurve {
    users: u64,
    cycle_ns: u64,
    length_ns: u64,
}

/// The most turns of one load; as for arrivals.
const MOST_TURNS: u128 = 1 << 42;

impl PacedCurve {
    /// A curve on which each of `users` has one turn in every `cycle`.
    ///
    /// # Errors
    /// Where it would hold more turns than a load may have, or no time passes between them.
    pub fn try_new(users: u64, cycle: Duration, length: Duration) -> Result<Self, ScheduleError> {
        let curve = Self { users, cycle_ns: nanos(cycle), length_ns: nanos(length) };
        if users > 0 && curve.cycle_ns == 0 || curve.turns() > MOST_TURNS {
            return Err(ScheduleError::TooMany { limit: 1 << 42 });
        }
        Ok(curve)
    }

    /// Length of the curve.
    #[must_use]
    pub const fn length(&self) -> Duration {
        Duration::from_nanos(self.length_ns)
    }

    /// How many users take turns.
    #[must_use]
    pub const fn users(&self) -> u64 {
        self.users
    }

    fn turns(&self) -> u128 {
        match self.cycle_ns {
            0 => 0,
            cycle => (u128::from(self.length_ns) * u128::from(self.users)).div_ceil(u128::from(cycle)),
        }
    }

    /// How many turns there are; one due exactly at the end does not happen.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::try_from(self.turns()).unwrap_or(u64::MAX)
    }

    /// When the `n`-th turn of a user is due; `None` past the last one.
    #[must_use]
    pub fn intended(&self, user: u64, n: u64) -> Option<Duration> {
        let turn = n.checked_mul(self.users)?.checked_add(user)?;
        if user >= self.users || turn >= self.total() {
            return None;
        }
        let ns = u128::from(self.cycle_ns) * u128::from(turn) / u128::from(self.users);
        Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }

    /// How many turns the users of a share have.
    #[must_use]
    pub fn turns_of(&self, share: &Stripe) -> u64 {
        if self.users == 0 {
            return 0;
        }
        let (whole, rest) = (self.total() / self.users, self.total() % self.users);
        share.count_below(self.users) * whole + share.count_below(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_evenly_spaced_and_each_users_own() {
        let curve = PacedCurve::try_new(4, Duration::from_secs(2), Duration::from_secs(5)).unwrap();
        assert_eq!(curve.total(), 10);
        assert_eq!(curve.intended(0, 0), Some(Duration::ZERO));
        assert_eq!(curve.intended(1, 0), Some(Duration::from_millis(500)));
        assert_eq!(curve.intended(1, 2), Some(Duration::from_millis(4_500)));
        assert_eq!((curve.intended(2, 2), curve.intended(4, 0)), (None, None));
        let turns: u64 = (0..4).map(|user| (0..).map_while(|n| curve.intended(user, n)).count() as u64).sum();
        assert_eq!(turns, 10);
        let all = super::super::Cycle::deal(&[1]).unwrap().worker_stripe(0, 4);
        assert_eq!(curve.turns_of(&all), 10);
        assert!(PacedCurve::try_new(1, Duration::ZERO, Duration::from_secs(1)).is_err());
        assert_eq!(PacedCurve::try_new(0, Duration::ZERO, Duration::from_secs(1)).unwrap().total(), 0);
    }
}

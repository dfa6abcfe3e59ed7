//! What the coordinator hands out while a phase goes on: blocks of shared iterations, and turns of sequential users.
//! Pure.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use loadgrid_common::id::WorkerId;
use loadgrid_common::plan::{LoadView, Phase};
use loadgrid_common::schedule::Cycle;
use loadgrid_common::time::Moment;

/// A block that lasts for less is followed by one twice as large.
const SHORT: Duration = Duration::from_millis(200);
/// A block that lasts for longer is followed by one half as large.
const LONG: Duration = Duration::from_millis(800);

/// A run of shared iterations: `[first, first + count)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// The shared iterations of one load: each is in one block, each block is one thread's.
///
/// Blocks grow where a thread is fast and shrink where it is slow and towards the end, so that nobody waits for a
/// slow worker's last block.
#[derive(Debug)]
struct Pool {
    total: u64,
    next: u64,
    /// Users of each thread, about: the size of a first block.
    first_size: u64,
    threads: u64,
    granted: BTreeMap<(WorkerId, u32), Vec<(Block, Moment)>>,
}

impl Pool {
    /// The `number`-th block (from 1) of a thread. The same answer however often it is asked; `None` for a number
    /// that cannot be next.
    fn block(&mut self, now: Moment, worker: &WorkerId, thread: u32, number: u64) -> Option<Block> {
        let remaining = self.total - self.next;
        let most = (remaining / (2 * self.threads.max(1))).max(1);
        let granted = self.granted.entry((worker.clone(), thread)).or_default();
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        if let Some((block, _)) = granted.get(place) {
            return Some(*block);
        }
        if place != granted.len() {
            return None;
        }
        if remaining == 0 {
            return Some(Block { first: self.next, count: 0 });
        }
        let size = match granted.last() {
            None => self.first_size,
            Some((block, at)) if now.since(*at) < SHORT => block.count.saturating_mul(2),
            Some((block, at)) if now.since(*at) > LONG => block.count / 2,
            Some((block, _)) => block.count,
        };
        let block = Block { first: self.next, count: size.clamp(1, most).min(remaining) };
        self.next += block.count;
        granted.push((block, now));
        Some(block)
    }
}

/// Whose turn it is among the sequential users of one load.
#[derive(Debug)]
struct Turns {
    users: u64,
    /// The user whose turn it is.
    current: u64,
    /// What was said last, and when.
    said: Option<(u64, Moment)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Grants {
    pools: BTreeMap<(u32, u32), Pool>,
    turns: BTreeMap<(u32, u32), Turns>,
}

impl Grants {
    /// A phase begins, on so many load threads.
    pub(super) fn begin(&mut self, number: u32, phase: &Phase, threads: &[NonZeroU32]) {
        let threads: u64 = threads.iter().map(|threads| u64::from(threads.get())).sum();
        for (load, shape) in (0_u32..).zip(&phase.loads) {
            match shape.view(phase) {
                Ok(LoadView::Shared(shared)) => {
                    let pool = Pool {
                        total: shared.iterations,
                        next: 0,
                        first_size: (shared.vus / threads.max(1)).max(1),
                        threads,
                        granted: BTreeMap::new(),
                    };
                    self.pools.insert((number, load), pool);
                }
                Ok(LoadView::Counted(counted)) if counted.sequential => {
                    let turns = Turns { users: counted.vus, current: 0, said: None };
                    self.turns.insert((number, load), turns);
                }
                _ => {}
            }
        }
    }

    /// The answer to a thread that wants its `number`-th block.
    pub(super) fn block(
        &mut self,
        now: Moment,
        (phase, load): (u32, u32),
        worker: &WorkerId,
        thread: u32,
        number: u64,
    ) -> Option<Block> {
        self.pools.get_mut(&(phase, load))?.block(now, worker, thread, number)
    }

    /// A worker has ended the turns of its users up to `ended` (1 + index).
    pub(super) fn ended(&mut self, phase: u32, load: u32, ended: u64) {
        if let Some(turns) = self.turns.get_mut(&(phase, load))
            && ended == turns.current + 1
        {
            turns.current = ended;
        }
    }

    /// The turns of a phase that are to be said now: (load, user, owner). Users whose owner is lost are skipped.
    pub(super) fn due_turns(
        &mut self,
        now: Moment,
        phase: u32,
        repeat: Duration,
        cycle: &Cycle,
        is_live: impl Fn(u32) -> bool,
    ) -> Vec<(u32, u64, u32)> {
        let mut out = Vec::new();
        for ((_, load), turns) in self.turns.iter_mut().filter(|((its, _), _)| *its == phase) {
            let owner = loop {
                if turns.current >= turns.users {
                    break None;
                }
                match cycle.owner(turns.current, turns.users) {
                    Some(owner) if is_live(owner) => break Some(owner),
                    _ => turns.current += 1,
                }
            };
            let Some(owner) = owner else { continue };
            let fresh = turns.said.is_none_or(|(user, at)| user != turns.current || now.since(at) >= repeat);
            if fresh {
                turns.said = Some((turns.current, now));
                out.push((*load, turns.current, owner));
            }
        }
        out
    }

    /// Iterations that were leased to a worker.
    pub(super) fn leased(&self, phase: u32, load: u32, worker: &WorkerId) -> u64 {
        let pool = self.pools.get(&(phase, load));
        let blocks = pool.iter().flat_map(|pool| &pool.granted).filter(|((its, _), _)| its == worker);
        blocks.flat_map(|(_, blocks)| blocks).map(|(block, _)| block.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use loadgrid_common::plan::{Counted, Load, Shared, load};
    use proptest::prelude::*;

    use super::*;

    fn phase(model: load::Model) -> Phase {
        let load = Load { user: 0, identity_base: 0, model: Some(model) };
        Phase { loads: vec![load], ..Phase::default() }
    }

    proptest! {
        /// Every iteration is leased once, whoever asks in which order and how often.
        #[test]
        fn blocks_are_the_whole_each_once(
            total in 1_u64..3_000, vus in 1_u64..50, asks in prop::collection::vec((0_u32..3, 0_u32..2, 0_u64..2_000), 1..60)
        ) {
            let shared = Shared { vus, iterations: total, max_duration_ns: 1 };
            let mut grants = Grants::default();
            let threads = [NonZeroU32::new(2).unwrap(); 3];
            grants.begin(0, &phase(load::Model::Shared(shared)), &threads);
            let mut now = Moment::from_nanos(1_000_000_000);
            let mut have: BTreeMap<(u32, u32), Vec<Block>> = BTreeMap::new();
            let mut ask = |worker: u32, thread: u32, now: Moment, have: &mut BTreeMap<(u32, u32), Vec<Block>>| {
                let id = WorkerId::from(format!("w{worker}"));
                let own = have.entry((worker, thread)).or_default();
                let number = own.len() as u64 + 1;
                let block = grants.block(now, (0, 0), &id, thread, number).unwrap();
                assert_eq!(grants.block(now, (0, 0), &id, thread, number), Some(block), "the same again");
                assert_eq!(grants.block(now, (0, 0), &id, thread, number + 2), None);
                if block.count > 0 {
                    own.push(block);
                }
                block.count
            };
            for (worker, thread, ms) in asks {
                now = now + Duration::from_millis(ms);
                ask(worker, thread, now, &mut have);
            }
            while ask(0, 0, now, &mut have) > 0 {}
            let mut all: Vec<Block> = have.into_values().flatten().collect();
            all.sort_by_key(|block| block.first);
            let mut next = 0;
            for block in all {
                prop_assert_eq!(block.first, next);
                next += block.count;
            }
            prop_assert_eq!(next, total);
        }
    }

    #[test]
    fn a_slow_thread_gets_small_blocks() {
        let shared = Shared { vus: 30, iterations: 100_000, max_duration_ns: 1 };
        let mut grants = Grants::default();
        grants.begin(0, &phase(load::Model::Shared(shared)), &[NonZeroU32::MIN; 3]);
        let (fast, slow) = (WorkerId::from("fast"), WorkerId::from("slow"));
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let mut block =
            |worker: &WorkerId, ms, number| grants.block(at(ms), (0, 0), worker, 0, number).unwrap().count;
        let fast_blocks: Vec<u64> = (0..6).map(|n| block(&fast, n * 50, n + 1)).collect();
        let slow_blocks: Vec<u64> = (0..6).map(|n| block(&slow, n * 2_000, n + 1)).collect();
        assert_eq!(fast_blocks, [10, 20, 40, 80, 160, 320]);
        assert_eq!(slow_blocks, [10, 5, 2, 1, 1, 1]);
        assert_eq!(grants.leased(0, 0, &slow), 20);
    }

    #[test]
    fn turns_go_round_and_skip_the_lost() {
        let counted = Counted { vus: 5, iterations: 1, sequential: true, ..Counted::default() };
        let mut grants = Grants::default();
        grants.begin(3, &phase(load::Model::Counted(counted)), &[NonZeroU32::MIN; 2]);
        let cycle = Cycle::deal(&[1, 1]).unwrap();
        let repeat = Duration::from_secs(1);
        let at = |s: u64| Moment::from_nanos(s * 1_000_000_000);
        assert_eq!(grants.due_turns(at(1), 3, repeat, &cycle, |_| true), [(0, 0, 0)]);
        assert!(grants.due_turns(at(1), 3, repeat, &cycle, |_| true).is_empty(), "said a moment ago");
        assert_eq!(grants.due_turns(at(3), 3, repeat, &cycle, |_| true), [(0, 0, 0)]);
        grants.ended(3, 0, 1);
        grants.ended(3, 0, 1);
        assert_eq!(grants.due_turns(at(3), 3, repeat, &cycle, |_| true), [(0, 1, 1)]);
        assert_eq!(grants.due_turns(at(4), 3, repeat, &cycle, |owner| owner == 0), [(0, 2, 0)]);
        grants.ended(3, 0, 3);
        assert_eq!(grants.due_turns(at(4), 3, repeat, &cycle, |owner| owner == 0), [(0, 4, 0)]);
        grants.ended(3, 0, 5);
        assert!(grants.due_turns(at(9), 3, repeat, &cycle, |_| true).is_empty());
    }
}

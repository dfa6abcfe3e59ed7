//! Caps: at most so many exchanges in any stretch of time.
//!
//! A cap of `n` in a window is `n` slots. An exchange takes the slot that is free first; its slot is free again a
//! window after the exchange was *over*. The request reached the target before that, so whatever the network does, no
//! window at the target ever holds more than `n` requests. What it costs is the time of the exchange itself: a slot is
//! used once in a window and an exchange.
//!
//! A cap of the whole grid is cut among the load threads by the stripe that cuts users, so the parts sum to the whole.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use loadgrid_common::plan;
use loadgrid_common::process::{Timer, now};
use loadgrid_common::time::Moment;
use tokio::sync::Semaphore;

/// A cap of the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct CapOp {
    pub(super) count: u64,
    window: Duration,
    pub(super) per: plan::CapPer,
}

impl CapOp {
    /// Reads a cap.
    pub(super) fn of(cap: &plan::Cap) -> Self {
        Self { count: cap.count, window: Duration::from_nanos(cap.window_ns), per: cap.per() }
    }
}

/// Which cap it is, and what it counts: everything, or one step. Two steps may stand at the same address with caps
/// that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CapKey {
    step: Option<u32>,
    own: bool,
    count: u64,
    window: Duration,
}

impl CapKey {
    fn of(cap: &CapOp, own: bool, step: u32) -> Self {
        let step = (own || cap.per == plan::CapPer::Step).then_some(step);
        Self { step, own, count: cap.count, window: cap.window }
    }
}

/// Slots of one cap on one thread, or of one user.
#[derive(Debug)]
pub(super) struct Slots {
    window: Duration,
    /// One permit for each slot that no exchange holds; given out in the order of asking.
    free: Semaphore,
    /// When each of them may be used again, ascending.
    at: RefCell<VecDeque<Moment>>,
}

impl Slots {
    fn new(count: u64, window: Duration) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let at = RefCell::new(VecDeque::from(vec![Moment::ZERO; count]));
        Self { window, free: Semaphore::new(count), at }
    }

    /// Waits for a slot and keeps it; it is given back unused unless it [begins](Slot::begin).
    pub(super) async fn take(self: Rc<Self>, timer: &Timer) -> Slot {
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        let at = self.at.borrow_mut().pop_front().unwrap_or(Moment::ZERO);
        let slot = Slot { slots: self, at: Some(at) };
        if at > now() {
            timer.sleep_until(at).await;
        }
        slot
    }
}

/// A slot that is held.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Rc<Slots>,
    /// While it is not used yet: when it may be. Given back unchanged, where nobody waits any more.
    at: Option<Moment>,
}

impl Slot {
    /// Its exchange begins: it is used until the value is dropped.
    pub(super) const fn begin(&mut self) {
        self.at = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let at = self.at.unwrap_or_else(|| now() + self.slots.window);
        let mut list = self.slots.at.borrow_mut();
        let place = list.partition_point(|known| *known <= at);
        list.insert(place, at);
        self.slots.free.add_permits(1);
    }
}

/// The caps of one load thread.
#[derive(Debug, Default)]
pub(super) struct Caps {
    /// This thread's part of a count.
    share: RefCell<HashMap<u64, u64>>,
    slots: RefCell<HashMap<CapKey, Rc<Slots>>>,
}

impl Caps {
    /// Sets this thread's parts of the counts that the plan has.
    pub(super) fn set_share(&self, counts: impl Iterator<Item = u64>, share: impl Fn(u64) -> u64) {
        self.share.borrow_mut().extend(counts.map(|count| (count, share(count))));
    }

    /// The slots of a cap; `own` is that of a step, otherwise it is the cap of all requests.
    pub(super) fn slots(&self, cap: &CapOp, own: bool, step: u32) -> Rc<Slots> {
        let part = || self.share.borrow().get(&cap.count).copied().unwrap_or(1).max(1);
        let mut slots = self.slots.borrow_mut();
        let key = CapKey::of(cap, own, step);
        slots.entry(key).or_insert_with(|| Rc::new(Slots::new(part(), cap.window))).clone()
    }
}

/// The caps of one user; they outlast its lives.
#[derive(Debug, Default)]
pub(super) struct OwnCaps(HashMap<CapKey, Rc<Slots>>);

impl OwnCaps {
    /// The slots of a cap that is each user's own; `own` is that of a step, otherwise it is the cap of all requests.
    pub(super) fn slots(&mut self, cap: &CapOp, own: bool, step: u32) -> Rc<Slots> {
        self.0
            .entry(CapKey::of(cap, own, step))
            .or_insert_with(|| Rc::new(Slots::new(cap.count, cap.window)))
            .clone()
    }
}

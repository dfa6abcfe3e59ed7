//! The worker's licence to start load.
//!
//! Invariant 14: a worker that has heard nothing for one lease stops by itself before anybody else may
//! be given its share. The worker's lease runs from the *send* time of its newest beat that the
//! coordinator echoed; the coordinator's runs from its receipt of that beat, which is later. So any
//! delay only shortens what the worker believes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Moment;

/// Until when load may be started; shared by a session and its load threads.
#[derive(Debug, Default)]
pub struct Lease {
    until_ns: AtomicU64,
}

impl Lease {
    /// Moves the end of the lease; it never moves back.
    pub fn renew(&self, until: Moment) {
        self.until_ns.fetch_max(until.as_nanos(), Ordering::Relaxed);
    }

    /// Ends the lease at once, for good reasons of the worker's own.
    pub fn revoke(&self) {
        self.until_ns.store(0, Ordering::Relaxed);
    }

    /// Whether load may be started at `now`.
    #[must_use]
    pub fn holds(&self, now: Moment) -> bool {
        now.as_nanos() < self.until_ns.load(Ordering::Relaxed)
    }
}

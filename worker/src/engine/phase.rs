//! One phase on one load thread: from its zero to the end of its last user.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::expression::Value;
use loadgrid_common::lease::Lease;
use loadgrid_common::plan::LoadView;
use loadgrid_common::process::{Timer, now};
use loadgrid_common::schedule::Stripe;
use loadgrid_common::time::Moment;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::program::Program;
use super::{closed, open};
use crate::client::ClientSettings;
use crate::record::Recorder;

/// What all users of a load thread share.
pub(super) struct Thread {
    pub(super) program: Arc<Program>,
    pub(super) timer: Timer,
    pub(super) recorder: Recorder,
    pub(super) client_settings: ClientSettings,
    pub(super) default_headers: http::HeaderMap,
    pub(super) secrets: Value,
    pub(super) run_value: Value,
    pub(super) run_hash: u64,
    pub(super) seed: u64,
    pub(super) lease: Arc<Lease>,
    /// Users alive now.
    pub(super) users: Cell<u32>,
    /// Set by `end: run`.
    pub(super) end_run: Cell<bool>,
}

/// How a phase is told to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    /// The run is to end: no new iterations, whatever is still due.
    pub(super) draining: CancellationToken,
    /// The phase is over: no new iterations but those that were due in it.
    pub(super) ending: CancellationToken,
    /// Iterations under way are dropped; lives still end in order.
    pub(super) cut: CancellationToken,
    /// Everything is dropped.
    pub(super) abort: CancellationToken,
}

impl Stops {
    /// Nothing new begins.
    pub(super) fn drain(&self) {
        self.draining.cancel();
        self.ending.cancel();
    }

    /// Everything is dropped.
    pub(super) fn abort(&self) {
        self.drain();
        self.cut.cancel();
        self.abort.cancel();
    }
}

/// How long the steps at the end of a life may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A phase as its loads see it.
pub(super) struct Phase {
    pub(super) thread: Rc<Thread>,
    pub(super) index: u32,
    /// Phase zero on the monotonic clock.
    pub(super) zero: Moment,
    pub(super) stops: Stops,
    pub(super) users: TaskTracker,
}

impl Phase {
    /// Waits until `at` after phase zero. Returns whether the phase goes on.
    pub(super) async fn until(&self, at: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stops.ending.cancelled() => false,
            () = self.thread.timer.sleep_until(self.zero + at) => !self.stops.ending.is_cancelled(),
        }
    }

    /// Waits until `at` after phase zero, for an arrival: it is started late rather than not at all. Returns
    /// whether it may be started.
    pub(super) async fn until_arrival(&self, at: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stops.draining.cancelled() => false,
            () = self.thread.timer.sleep_until(self.zero + at) => !self.stops.cut.is_cancelled(),
        }
    }

    /// Whether the worker still has its lease.
    pub(super) fn may_start(&self) -> bool {
        self.thread.lease.holds(loadgrid_common::process::boot_now())
    }

    /// Carries out the end of a life, within its limit.
    pub(super) async fn stop_user(&self, user: &mut super::user::VirtualUser) {
        tokio::select! {
            biased;
            () = self.stops.abort.cancelled() => {}
            ended = tokio::time::timeout(STOP_LIMIT, user.stop()) => {
                if ended.is_err() {
                    tracing::debug!("the end of a life took too long and was cut off");
                }
            }
        }
    }

    /// Counts a user as alive until the value is dropped.
    pub(super) fn alive(&self) -> Alive {
        self.thread.users.set(self.thread.users.get() + 1);
        Alive(self.thread.clone())
    }
}

/// A living user.
pub(super) struct Alive(Rc<Thread>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.users.set(self.0.users.get().saturating_sub(1));
    }
}

/// Carries out a phase. `stripe` gives this thread's share of a set of users.
pub(super) async fn run(phase: Rc<Phase>, stripe: impl Fn(u64) -> Stripe, seen_zero: impl FnOnce(i64)) {
    let program = phase.thread.program.clone();
    let Some(plan) = program.plan.phases.get(phase.index as usize) else { return };
    let loads: Vec<LoadView> = plan.loads.iter().filter_map(|load| load.view(plan).ok()).collect();
    let length = loads.iter().map(LoadView::length).max().unwrap_or_default();
    phase.thread.timer.sleep_until(phase.zero).await;
    seen_zero(now().minus(phase.zero));
    for (load, (number, view)) in plan.loads.iter().zip((0..).zip(loads)) {
        let stripe = stripe(view.users());
        let phase_of_load = phase.clone();
        let (kind, identity_base) = (load.user as usize, load.identity_base);
        match view {
            LoadView::Closed { curve } => closed::spawn(&phase, number, kind, identity_base, &curve, &stripe),
            LoadView::Open { max_vus, .. } => {
                let Some(arrivals) = view.arrivals(program.plan.seed, phase.index, number) else { continue };
                let load = open::OpenLoad::new(phase_of_load, number, kind, identity_base, max_vus, stripe);
                phase.users.spawn_local(load.run(arrivals));
            }
        }
    }
    phase.users.close();
    let users = phase.users.clone();
    let clock = async {
        let _goes_on = phase.until(length).await;
        phase.stops.ending.cancel();
        let began = now();
        phase.thread.timer.sleep_until(began + plan.graceful_stop()).await;
        phase.stops.cut.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = users.wait() => {}
        () = clock => {}
    }
    // All users have ended, perhaps before the phase has: its length is part of the result.
    let _goes_on = phase.until(length).await;
}

//! One phase on one load thread: from its zero to the end of its last user.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::expression::Value;
use loadgrid_common::lease::Lease;
use loadgrid_common::plan::{self, LoadView, PhaseKind};
use loadgrid_common::process::{Timer, now};
use loadgrid_common::schedule::Stripe;
use loadgrid_common::time::Moment;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cap::Caps;
use super::grants::Grants;
use super::open::OpenLoad;
use super::program::Program;
use super::seat::{Seat, Survivor};
use super::user::Identity;
use super::{closed, counted};
use crate::client::ConnectionSource;
use crate::record::Recorder;

/// How long a fenced user waits before it looks at its lease again.
const FENCED_PAUSE: Duration = Duration::from_millis(50);

/// What all users of a load thread share.
pub(super) struct Thread {
    pub(super) program: Arc<Program>,
    pub(super) timer: Timer,
    pub(super) recorder: Recorder,
    pub(super) connections: ConnectionSource,
    pub(super) default_headers: http::HeaderMap,
    pub(super) secrets: Value,
    pub(super) run_value: Value,
    pub(super) run_hash: u64,
    pub(super) seed: u64,
    pub(super) lease: Arc<Lease>,
    pub(super) caps: Caps,
    pub(super) grants: Grants,
    /// What `setup` yielded.
    pub(super) setup: RefCell<Value>,
    /// Setup has failed: a value that is missing in teardown is a consequence.
    pub(super) after_failure: Cell<bool>,
    /// What this thread's `setup` yielded as JSON, and why it failed, where it did.
    pub(super) yielded: RefCell<Option<(String, String)>>,
    /// Users that live on from the phase before.
    pub(super) survivors: RefCell<Survivors>,
    /// Users alive now.
    pub(super) users: Cell<u32>,
}

/// Users between two phases, by type and index.
pub(super) type Survivors = HashMap<(usize, u64), Survivor>;

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
    /// Phase zero on the monotonic clock; while users are prepared, nobody knows it.
    pub(super) zero: Cell<Moment>,
    pub(super) stops: Stops,
    pub(super) users: TaskTracker,
    /// Users of the phase before that nobody has taken over yet.
    pub(super) inherited: RefCell<Survivors>,
    /// Set by `end: run`.
    pub(super) end_run: Cell<bool>,
}

/// This thread's share of a load.
#[derive(Clone, Debug)]
pub(super) struct LoadShare {
    /// The load's number in its phase.
    pub(super) number: u32,
    /// Index of the type of user.
    pub(super) kind: usize,
    pub(super) identity_base: u64,
    /// Users of the whole load.
    pub(super) users: u64,
    pub(super) stripe: Stripe,
}

impl LoadShare {
    /// Users that this thread may have.
    pub(super) fn users_here(&self) -> u64 {
        self.stripe.count_below(self.users)
    }

    /// The identity of the user at a place of the load.
    pub(super) const fn identity(&self, phase: &Phase, place: u64) -> Identity {
        Identity {
            kind: self.kind,
            index: self.identity_base + place,
            place,
            users: self.users,
            phase: phase.index,
        }
    }

    /// The load's number in the run, for randomness.
    pub(super) fn key(&self, phase: &Phase) -> u64 {
        u64::from(phase.index) << 32 | u64::from(self.number)
    }
}

impl Phase {
    /// Phase zero on the monotonic clock.
    pub(super) const fn zero(&self) -> Moment {
        self.zero.get()
    }

    fn plan(&self) -> Option<&plan::Phase> {
        self.thread.program.plan.phases.get(self.index as usize)
    }

    /// What kind of phase it is.
    pub(super) fn kind(&self) -> PhaseKind {
        self.plan().map_or(PhaseKind::Load, plan::Phase::kind)
    }

    /// Whether its users go on in the next phase; not where it was ended before its time.
    pub(super) fn users_live_on(&self) -> bool {
        let next = self.thread.program.plan.phases.get(self.index as usize + 1);
        next.is_some_and(|next| next.continues) && !self.stops.draining.is_cancelled()
    }

    /// Takes over the user of the phase before with this identity.
    pub(super) fn adopt(&self, identity: &Identity) -> Option<Survivor> {
        self.inherited.borrow_mut().remove(&(identity.kind, identity.index))
    }

    /// Keeps a user for the next phase.
    pub(super) fn keep(&self, identity: &Identity, survivor: Survivor) {
        self.thread.survivors.borrow_mut().insert((identity.kind, identity.index), survivor);
    }

    /// Waits until `at` after phase zero. Returns whether the phase goes on.
    pub(super) async fn until(&self, at: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stops.ending.cancelled() => false,
            () = self.thread.timer.sleep_until(self.zero() + at) => !self.stops.ending.is_cancelled(),
        }
    }

    /// Waits until `at` after phase zero, for an arrival: it is started late rather than not at all. Returns
    /// whether it may be started.
    pub(super) async fn until_arrival(&self, at: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stops.draining.cancelled() => false,
            () = self.thread.timer.sleep_until(self.zero() + at) => !self.stops.cut.is_cancelled(),
        }
    }

    /// Whether the worker still has its lease.
    pub(super) fn may_start(&self) -> bool {
        self.thread.lease.holds(loadgrid_common::process::boot_now())
    }

    /// A pause of a fenced user.
    pub(super) async fn fenced_pause(&self) {
        self.thread.timer.sleep_until(now() + FENCED_PAUSE).await;
    }

    /// Carries out the end of a life, within its limit.
    pub(super) async fn stop_user(&self, user: &mut super::user::VirtualUser) {
        tokio::select! {
            biased;
            () = self.stops.abort.cancelled() => {}
            ended = tokio::time::timeout(STOP_LIMIT, user.stop()) => {
                if ended.is_err() {
                    tracing::debug!("the end of a life took too long and was cut off");
                } else {
                    user.end_life();
                }
            }
        }
    }

    /// Counts a user as alive until the value is dropped.
    pub(super) fn alive(&self) -> Alive {
        self.thread.users.set(self.thread.users.get() + 1);
        Alive(self.thread.clone())
    }

    /// Takes out the users of the phase before that have no place in this one.
    fn inherited_without(&self, has_place: impl Fn(&(usize, u64)) -> bool) -> Vec<Survivor> {
        let mut inherited = self.inherited.borrow_mut();
        let keys: Vec<(usize, u64)> = inherited.keys().filter(|key| !has_place(key)).copied().collect();
        keys.iter().filter_map(|key| inherited.remove(key)).collect()
    }

    /// Ends the lives of users with whom nobody goes on.
    async fn end_all(self: &Rc<Self>, users: Vec<Survivor>) {
        let ending = TaskTracker::new();
        for user in users {
            let phase = self.clone();
            ending.spawn_local(async move { user.end(&phase).await });
        }
        ending.close();
        ending.wait().await;
    }
}

/// A living user.
pub(super) struct Alive(Rc<Thread>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.users.set(self.0.users.get().saturating_sub(1));
    }
}

/// A load of the phase, with what was prepared for it.
enum Prepared {
    Open(Rc<OpenLoad>),
    Counted(Vec<Seat>),
    Nothing,
}

/// Makes ready what a load has before phase zero.
async fn prepare(phase: &Rc<Phase>, share: &LoadShare, view: &LoadView) -> Prepared {
    match view {
        LoadView::Open { prepared, queue, .. } => {
            let load = OpenLoad::new(phase.clone(), share.clone(), *queue);
            load.clone().prepare(*prepared).await;
            Prepared::Open(load)
        }
        LoadView::Counted(counted) if counted.at_once => {
            Prepared::Counted(counted::prepare(phase, share).await)
        }
        LoadView::Counted(_) | LoadView::Closed { .. } | LoadView::Shared(_) | LoadView::Paced(_) => {
            Prepared::Nothing
        }
    }
}

/// What a phase tells while it is carried out.
pub(super) trait Listener {
    /// Its prepared users wait for phase zero. The word must not be lost: nobody says it again.
    fn ready(&self) -> impl Future<Output = ()>;
    /// The pacer saw phase zero, so many nanoseconds after it.
    fn saw_zero(&self, seen_minus_zero_ns: i64);
}

/// Carries out a phase. `stripe` gives this thread's share of a set of users; `zero` comes where users are to be
/// prepared before it.
pub(super) async fn run(
    phase: Rc<Phase>,
    stripe: impl Fn(u64) -> Stripe,
    zero: Option<oneshot::Receiver<Moment>>,
    listener: impl Listener,
) {
    let program = phase.thread.program.clone();
    let Some(plan) = program.plan.phases.get(phase.index as usize) else { return };
    let views = (0..).zip(&plan.loads).filter_map(|(number, load)| {
        let view = load.view(plan).ok()?;
        let (users, kind) = (view.users(), load.user as usize);
        let share =
            LoadShare { number, kind, identity_base: load.identity_base, users, stripe: stripe(users) };
        Some((share, view))
    });
    let views: Vec<(LoadShare, LoadView)> = views.collect();
    let length = views.iter().map(|(_, view)| view.length()).max().unwrap_or_default();
    let limit = views.iter().map(|(_, view)| view.limit()).max().unwrap_or_default();
    // Users that have no place in this phase leave before it.
    let has_place = |(kind, index): &(usize, u64)| {
        let mut shares = views.iter().map(|(share, _)| share).filter(|share| share.kind == *kind);
        shares.any(|share| (share.identity_base..share.identity_base + share.users).contains(index))
    };
    let (leaving, surplus) = (phase.clone(), phase.inherited_without(has_place));
    phase.users.spawn_local(async move { leaving.end_all(surplus).await });
    let mut prepared = Vec::new();
    for (share, view) in &views {
        prepared.push(prepare(&phase, share, view).await);
    }
    if let Some(zero) = zero {
        listener.ready().await;
        tokio::select! {
            biased;
            () = phase.stops.ending.cancelled() => phase.zero.set(now()),
            // Dropped where the thread is told to end; then everything is dropped.
            at = zero => phase.zero.set(at.unwrap_or_else(|_| now())),
        }
    }
    if phase.until(Duration::ZERO).await {
        listener.saw_zero(now().minus(phase.zero()));
    }
    for ((share, view), prepared) in views.iter().zip(prepared) {
        spawn(&phase, share, view, prepared);
    }
    phase.users.close();
    let users = phase.users.clone();
    let clock = async {
        let _goes_on = phase.until(limit).await;
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
    if phase.users_live_on() {
        // Nobody needed them in this phase, perhaps somebody does in the next.
        let rest = std::mem::take(&mut *phase.inherited.borrow_mut());
        phase.thread.survivors.borrow_mut().extend(rest);
    } else {
        let rest = phase.inherited_without(|_| false);
        phase.end_all(rest).await;
    }
}

fn spawn(phase: &Rc<Phase>, share: &LoadShare, view: &LoadView, prepared: Prepared) {
    let seed = phase.thread.program.plan.seed;
    match (view, prepared) {
        (LoadView::Open { .. }, Prepared::Open(load)) => {
            if let Some(arrivals) = view.arrivals(seed, phase.index, share.number) {
                phase.users.spawn_local(load.run(arrivals));
            }
        }
        (LoadView::Open { .. }, _) => {}
        (LoadView::Closed { curve }, _) => closed::spawn(phase, share, curve),
        (LoadView::Counted(counted), prepared) => {
            let seats = if let Prepared::Counted(seats) = prepared { seats } else { Vec::new() };
            counted::spawn_counted(phase, share, counted, seats);
        }
        (LoadView::Shared(_), _) => counted::spawn_shared(phase, share, view.limit()),
        (LoadView::Paced(curve), _) => counted::spawn_paced(phase, share, *curve),
    }
}

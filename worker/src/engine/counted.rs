//! Models that count iterations: each user's own, all users' together, and turns at a pace.

use std::rc::Rc;
use std::time::Duration;

use loadgrid_common::plan::{Counted, PhaseKind};
use loadgrid_common::process::now;
use loadgrid_common::schedule::PacedCurve;
use loadgrid_common::time::Moment;

use super::closed::FAILED_START_PAUSE;
use super::grants::Blocks;
use super::phase::{LoadShare, Phase};
use super::seat::{Begun, Seat};
use super::user::{Ended, Pass};

/// The most that `setup` may capture: it travels with every start of a phase.
const MOST_YIELD_BYTES: usize = 1 << 20;

/// A user of a load that counts.
struct CountingUser {
    phase: Rc<Phase>,
    share: LoadShare,
    seat: Seat,
    /// The longest the load may go on, from phase zero.
    limit: Duration,
}

/// What became of a user's turn.
enum Turn {
    /// It was carried out; how it ended.
    Done(Ended),
    /// The phase is over, or the user's life cannot go on.
    Over,
}

impl CountingUser {
    fn goes_on(&self) -> bool {
        !self.phase.stops.ending.is_cancelled() && now() < self.phase.zero() + self.limit
    }

    /// Waits while the worker is fenced. Returns whether the load goes on.
    async fn licensed(&self) -> bool {
        while !self.phase.may_start() {
            self.phase.fenced_pause().await;
            if !self.goes_on() {
                return false;
            }
        }
        true
    }

    /// One iteration, due at `due`; a life begins before it, where there is none. `None` where nothing was started.
    async fn iterate(&mut self, pass: Pass, due: Moment) -> Option<Turn> {
        if !self.licensed().await {
            return None;
        }
        let recorder = &self.phase.thread.recorder;
        let number = self.share.number;
        if !self.seat.has_rows(&self.phase, pass) {
            return None;
        }
        let guard = recorder.iteration(number, Duration::ZERO);
        let cut = self.phase.stops.cut.clone();
        let outcome = tokio::select! {
            biased;
            () = cut.cancelled() => None,
            outcome = begin_and_iterate(&self.phase, &mut self.seat, pass, due) => Some(outcome),
        };
        let Some(Outcome { ok, ended, began }) = outcome else { return Some(Turn::Over) };
        guard.end(ok, now().since(due));
        if !began && ended != Ended::Run {
            self.pause().await;
        }
        match ended {
            Ended::Complete | Ended::Iteration => {}
            Ended::User => self.seat.end(&self.phase).await,
            Ended::Run => self.phase.end_run.set(true),
        }
        Some(Turn::Done(ended))
    }

    /// After a life that could not begin; no part of any figure.
    async fn pause(&self) {
        tokio::select! {
            biased;
            () = self.phase.stops.ending.cancelled() => {}
            () = self.phase.thread.timer.sleep_until(now() + FAILED_START_PAUSE) => {}
        }
    }

    /// Iterations that were planned and do not begin any more: there was no time left for them, or the run ends.
    fn give_up(&self, iterations: u64) {
        let recorder = &self.phase.thread.recorder;
        let run_ends = self.phase.stops.draining.is_cancelled() || self.phase.end_run.get();
        if run_ends || !self.phase.may_start() {
            recorder.never_started(self.share.number, iterations);
        } else {
            recorder.dropped_many(self.share.number, iterations);
        }
    }

    /// Ends or keeps the user, unless everything is dropped.
    async fn leave(&mut self) {
        let abort = self.phase.stops.abort.clone();
        tokio::select! {
            biased;
            () = abort.cancelled() => {}
            () = self.seat.leave(&self.phase) => {}
        }
    }
}

/// How an iteration ended, and whether it began: a life may not.
struct Outcome {
    ok: bool,
    ended: Ended,
    began: bool,
}

async fn begin_and_iterate(phase: &Phase, seat: &mut Seat, pass: Pass, due: Moment) -> Outcome {
    let due = match seat.begin(phase, due, pass).await {
        // The wait stands in the first exchange of `start`; the loop is due now.
        Begun::Ready { waited: true } => now(),
        Begun::Ready { waited: false } => due,
        Begun::Not(ended) => {
            let ended = if ended == Ended::Run { Ended::Run } else { Ended::Iteration };
            return Outcome { ok: false, ended, began: false };
        }
    };
    let result = seat.iterate(pass, due).await;
    if !result.waited {
        // A loop without a request or a pause must not keep the thread to itself.
        tokio::task::yield_now().await;
    }
    Outcome { ok: result.ok, ended: result.ended, began: true }
}

/// Makes the seats of `at-once`, whose users begin their lives before phase zero.
pub(super) async fn prepare(phase: &Rc<Phase>, share: &LoadShare) -> Vec<Seat> {
    let mut preparing = tokio::task::JoinSet::new();
    for k in share.stripe.below(share.users) {
        let (phase, mut seat) = (phase.clone(), Seat::new(share.identity(phase, k)));
        preparing.spawn_local(async move {
            let first = Pass::Iteration { iteration: 0 };
            if !seat.has_rows(&phase, first) {
                return seat;
            }
            let ending = phase.stops.ending.clone();
            tokio::select! {
                biased;
                () = ending.cancelled() => {}
                begun = seat.begin(&phase, now(), first) => {
                    if begun == Begun::Not(Ended::Run) {
                        phase.end_run.set(true);
                    }
                }
            }
            seat
        });
    }
    let mut seats = Vec::new();
    while let Some(seat) = preparing.join_next().await {
        // A task of ours is not cancelled and does not panic.
        seats.extend(seat.ok());
    }
    seats
}

/// Spawns users that each carry out a number of iterations. `seats` are those that are prepared.
pub(super) fn spawn_counted(phase: &Rc<Phase>, share: &LoadShare, counted: &Counted, seats: Vec<Seat>) {
    let limit = Duration::from_nanos(counted.max_duration_ns);
    let user = |seat| CountingUser { phase: phase.clone(), share: share.clone(), seat, limit };
    if counted.at_once {
        for seat in seats {
            phase.users.spawn_local(at_once(user(seat)));
        }
        return;
    }
    for k in share.stripe.below(counted.vus) {
        let user = user(Seat::new(share.identity(phase, k)));
        if counted.sequential {
            phase.users.spawn_local(in_turn(user, k, counted.iterations));
        } else {
            phase.users.spawn_local(one_after_the_other(user, counted.iterations));
        }
    }
}

/// One iteration at phase zero.
async fn at_once(mut user: CountingUser) {
    let (recorder, number) = (user.phase.thread.recorder.clone(), user.share.number);
    if user.seat.has_rows(&user.phase, Pass::Iteration { iteration: 0 }) {
        let due = user.phase.zero();
        let done = match user.goes_on() {
            true => user.iterate(Pass::Iteration { iteration: 0 }, due).await,
            false => None,
        };
        if done.is_none() {
            user.give_up(1);
        }
    } else {
        recorder.dropped(number);
    }
    user.leave().await;
}

/// A number of iterations, and what is left of them when the time is up.
async fn one_after_the_other(mut user: CountingUser, iterations: u64) {
    let completed = iterate_all(&mut user, iterations).await;
    if user.phase.kind() == PhaseKind::Setup {
        *user.phase.thread.yielded.borrow_mut() = Some(yields(&user, completed));
    }
    user.leave().await;
}

/// What `setup` captured, as JSON, and why it failed, where it did. What it captured before it failed may be needed to
/// clear up behind it.
fn yields(user: &CountingUser, completed: bool) -> (String, String) {
    let Some(own) = user.seat.user() else {
        return (serde_json::Value::Null.to_string(), "it ended before its last step".to_owned());
    };
    let json = own.yields().to_string();
    if json.len() > MOST_YIELD_BYTES {
        return (String::new(), format!("it captured {} bytes; at most 1 MiB are passed on", json.len()));
    }
    let failure = own.failure.clone().filter(|_| own.failed_before);
    let unfinished = || match user.phase.end_run.get() {
        true => "it said `end: run`".to_owned(),
        false => format!("it was not over within {}", loadgrid_common::units::show_duration(user.limit)),
    };
    (json, failure.or_else(|| (!completed).then(unfinished)).unwrap_or_default())
}

/// Returns whether none was left out or cut off.
async fn iterate_all(user: &mut CountingUser, iterations: u64) -> bool {
    let (recorder, number) = (user.phase.thread.recorder.clone(), user.share.number);
    for iteration in 0..iterations {
        let pass = Pass::Iteration { iteration };
        if !user.seat.has_rows(&user.phase, pass) {
            recorder.dropped_many(number, iterations - iteration);
            return false;
        }
        // The intended start is the moment the user was ready.
        let turn = if user.goes_on() { user.iterate(pass, now()).await } else { None };
        match turn {
            None => {
                user.give_up(iterations - iteration);
                return false;
            }
            Some(Turn::Done(Ended::Complete | Ended::Iteration | Ended::User)) => {}
            Some(Turn::Done(Ended::Run) | Turn::Over) => {
                user.give_up(iterations - iteration - 1);
                return false;
            }
        }
    }
    true
}

/// The same, once it is this user's turn.
async fn in_turn(mut user: CountingUser, k: u64, iterations: u64) {
    let (phase, number) = (user.phase.clone(), user.share.number);
    let is_its_turn = tokio::select! {
        biased;
        () = phase.stops.ending.cancelled() => false,
        () = phase.thread.timer.sleep_until(phase.zero() + user.limit) => false,
        () = phase.thread.grants.turn(phase.index, number, k) => true,
    };
    if is_its_turn {
        iterate_all(&mut user, iterations).await;
    } else {
        user.give_up(iterations);
    }
    // The turn is over when the life is: the next user finds the target as this one left it.
    user.leave().await;
    phase.thread.grants.turn_ended(phase.index, number, k);
}

/// Spawns users that share a number of iterations.
pub(super) fn spawn_shared(phase: &Rc<Phase>, share: &LoadShare, limit: Duration) {
    let blocks = phase.thread.grants.blocks(phase.index, share.number);
    for k in share.stripe.below(share.users) {
        let seat = Seat::new(share.identity(phase, k));
        let user = CountingUser { phase: phase.clone(), share: share.clone(), seat, limit };
        blocks.join();
        phase.users.spawn_local(share_iterations(user, blocks.clone()));
    }
}

async fn share_iterations(mut user: CountingUser, blocks: Rc<Blocks>) {
    let (phase, number) = (user.phase.clone(), user.share.number);
    // A user without a row of its own takes nothing from those who have one.
    let has_own_rows = user.seat.has_own_rows(&phase);
    while has_own_rows && user.goes_on() {
        let next = tokio::select! {
            biased;
            () = phase.stops.ending.cancelled() => None,
            () = phase.thread.timer.sleep_until(phase.zero() + user.limit) => None,
            next = blocks.next() => next,
        };
        let Some(iteration) = next else { break };
        // The same values, whoever carries it out.
        let pass = Pass::Arrival { load: user.share.key(&phase), arrival: iteration };
        if !user.seat.has_rows(&phase, pass) {
            phase.thread.recorder.dropped(number);
            tokio::task::yield_now().await;
            continue;
        }
        match user.iterate(pass, now()).await {
            None => {
                user.give_up(1);
                break;
            }
            Some(Turn::Done(Ended::Complete | Ended::Iteration | Ended::User)) => {}
            Some(Turn::Done(Ended::Run) | Turn::Over) => break,
        }
    }
    user.leave().await;
    // What is left of this thread's block when its last user goes is nobody's.
    user.give_up(blocks.left_by());
}

/// Spawns users that take turns at a pace.
pub(super) fn spawn_paced(phase: &Rc<Phase>, share: &LoadShare, curve: PacedCurve) {
    for k in share.stripe.below(curve.users()) {
        let seat = Seat::new(share.identity(phase, k));
        let limit = curve.length();
        let user = CountingUser { phase: phase.clone(), share: share.clone(), seat, limit };
        phase.users.spawn_local(take_turns(user, k, curve));
    }
}

async fn take_turns(mut user: CountingUser, k: u64, curve: PacedCurve) {
    let (phase, number) = (user.phase.clone(), user.share.number);
    let recorder = phase.thread.recorder.clone();
    let turns = (0..).map_while(|n| curve.intended(k, n)).count() as u64;
    for n in 0..turns {
        let Some(at) = curve.intended(k, n) else { break };
        let pass = Pass::Iteration { iteration: n };
        if !user.seat.has_rows(&phase, pass) {
            recorder.dropped_many(number, turns - n);
            break;
        }
        if !phase.until(at).await {
            // The user was busy with others until the time was up.
            user.give_up(turns - n);
            break;
        }
        // A turn counts from when it was due, also where its user was busy.
        match user.iterate(pass, phase.zero() + at).await {
            None => user.give_up(1),
            Some(Turn::Done(Ended::Complete | Ended::Iteration | Ended::User)) => {}
            Some(Turn::Done(Ended::Run) | Turn::Over) => {
                user.give_up(turns - n - 1);
                break;
            }
        }
    }
    user.leave().await;
}

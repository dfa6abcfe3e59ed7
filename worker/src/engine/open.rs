//! The open model: arrivals come at their own rate, whatever the target does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use loadgrid_common::process::now;
use loadgrid_common::schedule::Arrivals;
use loadgrid_common::time::Moment;
use tokio_util::task::TaskTracker;

use super::phase::{LoadShare, Phase};
use super::seat::{Begun, Seat};
use super::user::{Ended, Pass};

/// Arrivals handed out between two looks at other work, where the pacer is behind.
const BREATH: u64 = 64;

/// One open load on one thread.
pub(super) struct OpenLoad {
    phase: Rc<Phase>,
    share: LoadShare,
    /// Users this thread may have.
    most_users: u64,
    /// Whether arrivals wait for a free user.
    queues: bool,
    pool: RefCell<Pool>,
}

/// Users that are free, the one used last on top: its connection is warm.
#[derive(Default)]
struct Pool {
    free: Vec<Seat>,
    made: u64,
    /// Arrivals that wait for a user, first come first served: number and intended start.
    waiting: VecDeque<(u64, Moment)>,
}

impl OpenLoad {
    pub(super) fn new(phase: Rc<Phase>, share: LoadShare, queues: bool) -> Rc<Self> {
        let most_users = share.users_here();
        Rc::new(Self { phase, share, most_users, queues, pool: RefCell::default() })
    }

    /// Lets the first users of the grid begin their lives, as far as they are this thread's.
    pub(super) async fn prepare(self: Rc<Self>, users: u64) {
        let preparing = TaskTracker::new();
        for _ in 0..self.share.stripe.count_below(users) {
            let Some(mut seat) = self.seat() else { break };
            let load = self.clone();
            preparing.spawn_local(async move {
                let ending = load.phase.stops.ending.clone();
                tokio::select! {
                    biased;
                    () = ending.cancelled() => {}
                    begun = seat.begin(&load.phase, now(), Pass::Life { life: 0, stop: false }) => {
                        if begun == Begun::Not(Ended::Run) {
                            load.phase.end_run.set(true);
                        }
                    }
                }
                load.pool.borrow_mut().free.push(seat);
            });
        }
        preparing.close();
        preparing.wait().await;
    }

    /// Hands out this thread's arrivals, each at its intended start and never before; then ends its users.
    pub(super) async fn run(self: Rc<Self>, mut arrivals: Arrivals) {
        let recorder = &self.phase.thread.recorder;
        let number = self.share.number;
        let total = arrivals.curve().total();
        let share = self.share.stripe.count_below(total);
        let serving = TaskTracker::new();
        for n in 0..share {
            let Some((arrival, at)) = self.share.stripe.nth(n).and_then(|i| Some((i, arrivals.intended(i)?)))
            else {
                break;
            };
            if !self.phase.until_arrival(at).await {
                recorder.never_started(number, share - n);
                break;
            }
            if !self.phase.may_start() {
                // Fenced: the arrival is not late, it is lost.
                recorder.never_started(number, 1);
                continue;
            }
            let due = self.phase.zero() + at;
            match self.seat() {
                Some(seat) => {
                    serving.spawn_local(self.clone().serve(seat, arrival, due));
                }
                None if self.queues => self.pool.borrow_mut().waiting.push_back((arrival, due)),
                None => recorder.dropped(number),
            }
            if n % BREATH == BREATH - 1 {
                tokio::task::yield_now().await;
            }
        }
        serving.close();
        serving.wait().await;
        let (seats, left) = {
            let mut pool = self.pool.borrow_mut();
            (std::mem::take(&mut pool.free), pool.waiting.len() as u64)
        };
        // Whoever still waits when the last user is cut off found no free user; unless the run was ended before.
        if self.phase.stops.draining.is_cancelled() {
            recorder.never_started(number, left);
        } else {
            recorder.dropped_many(number, left);
        }
        for mut seat in seats {
            let phase = self.phase.clone();
            serving.spawn_local(async move { seat.leave(&phase).await });
        }
        serving.wait().await;
    }

    fn seat(&self) -> Option<Seat> {
        let mut pool = self.pool.borrow_mut();
        if let Some(seat) = pool.free.pop() {
            return Some(seat);
        }
        loop {
            let n = pool.made;
            let place = self.share.stripe.nth(n).filter(|_| n < self.most_users)?;
            pool.made += 1;
            let seat = Seat::new(self.share.identity(&self.phase, place));
            if seat.has_own_rows(&self.phase) {
                return Some(seat);
            }
        }
    }

    /// Serves an arrival, and whoever waits behind it.
    async fn serve(self: Rc<Self>, mut seat: Seat, mut arrival: u64, mut due: Moment) {
        let cut = self.phase.stops.cut.clone();
        loop {
            let pass = Pass::Arrival { load: self.share.key(&self.phase), arrival };
            if !seat.has_rows(&self.phase, pass) {
                // Rows are taken in turn and there is none left: nobody serves this arrival or a later one.
                self.phase.thread.recorder.dropped(self.share.number);
                break;
            }
            let guard = self.phase.thread.recorder.iteration(self.share.number, now().since(due));
            let outcome = tokio::select! {
                biased;
                () = cut.cancelled() => None,
                outcome = self.iterate(&mut seat, pass, due) => Some(outcome),
            };
            // Cut: its request in the air is dropped, and the guard counts its iteration; its life still ends in order.
            let Some((ok, ended)) = outcome else { break };
            guard.end(ok, now().since(due));
            match ended {
                Ended::Complete | Ended::Iteration => {}
                Ended::User => seat.end(&self.phase).await,
                Ended::Run => self.phase.end_run.set(true),
            }
            let next = if self.may_serve() { self.pool.borrow_mut().waiting.pop_front() } else { None };
            let Some(next) = next else { break };
            (arrival, due) = next;
        }
        self.pool.borrow_mut().free.push(seat);
    }

    /// Whether an arrival that waited may still be started.
    fn may_serve(&self) -> bool {
        !self.phase.stops.cut.is_cancelled()
            && !self.phase.stops.draining.is_cancelled()
            && self.phase.may_start()
    }

    async fn iterate(&self, seat: &mut Seat, pass: Pass, due: Moment) -> (bool, Ended) {
        let body_due = match seat.begin(&self.phase, due, pass).await {
            // The arrival's wait stands in the first exchange of `start`; the loop is due now.
            Begun::Ready { waited: true } => now(),
            Begun::Ready { waited: false } => due,
            Begun::Not(Ended::Run) => return (false, Ended::Run),
            Begun::Not(_) => return (false, Ended::Iteration),
        };
        let result = seat.iterate(pass, body_due).await;
        (result.ok, result.ended)
    }
}

//! The open model: arrivals come at their own rate, whatever the target does.

use std::cell::RefCell;
use std::rc::Rc;

use loadgrid_common::process::now;
use loadgrid_common::schedule::{Arrivals, Stripe};
use loadgrid_common::time::Moment;

use super::phase::{Alive, Phase};
use super::user::{Ended, Identity, Pass, VirtualUser};

/// Arrivals handed out between two looks at other work, where the pacer is behind.
const BREATH: u64 = 64;

/// One open load on one thread.
pub(super) struct OpenLoad {
    phase: Rc<Phase>,
    number: u32,
    kind: usize,
    identity_base: u64,
    stripe: Stripe,
    /// Users this thread may have.
    most_users: u64,
    pool: RefCell<Pool>,
}

/// Users that are free, the one used last on top: its connection is warm.
#[derive(Default)]
struct Pool {
    free: Vec<Seat>,
    made: u64,
}

/// A user's place: it keeps its identity, also between lives.
struct Seat {
    identity: Identity,
    life: u64,
    user: Option<(Box<VirtualUser>, Alive)>,
}

impl OpenLoad {
    pub(super) fn new(
        phase: Rc<Phase>,
        number: u32,
        kind: usize,
        identity_base: u64,
        max_vus: u64,
        stripe: Stripe,
    ) -> Rc<Self> {
        let most_users = stripe.count_below(max_vus);
        Rc::new(Self { phase, number, kind, identity_base, stripe, most_users, pool: RefCell::default() })
    }

    /// Hands out this thread's arrivals, each at its intended start and never before; then ends its users.
    pub(super) async fn run(self: Rc<Self>, mut arrivals: Arrivals) {
        let recorder = &self.phase.thread.recorder;
        let total = arrivals.curve().total();
        let share = self.stripe.count_below(total);
        let serving = tokio_util::task::TaskTracker::new();
        for n in 0..share {
            let Some((arrival, at)) = self.stripe.nth(n).and_then(|i| Some((i, arrivals.intended(i)?)))
            else {
                break;
            };
            if !self.phase.until_arrival(at).await {
                recorder.never_started(self.number, share - n);
                break;
            }
            if !self.phase.may_start() {
                // Fenced: the arrival is not late, it is lost.
                recorder.never_started(self.number, 1);
                continue;
            }
            match self.seat() {
                Some(seat) => {
                    serving.spawn_local(self.clone().serve(seat, arrival, self.phase.zero + at));
                }
                None => recorder.dropped(self.number),
            }
            if n % BREATH == BREATH - 1 {
                tokio::task::yield_now().await;
            }
        }
        serving.close();
        serving.wait().await;
        let seats = std::mem::take(&mut self.pool.borrow_mut().free);
        for seat in seats {
            if let Some((mut user, alive)) = seat.user {
                let phase = self.phase.clone();
                serving.spawn_local(async move {
                    phase.stop_user(&mut user).await;
                    drop(alive);
                });
            }
        }
        serving.wait().await;
    }

    fn seat(&self) -> Option<Seat> {
        let mut pool = self.pool.borrow_mut();
        if let Some(seat) = pool.free.pop() {
            return Some(seat);
        }
        let n = pool.made;
        let index = self.stripe.nth(n).filter(|_| n < self.most_users)?;
        pool.made += 1;
        let identity =
            Identity { kind: self.kind, index: self.identity_base + index, phase: self.phase.index };
        Some(Seat { identity, life: 0, user: None })
    }

    async fn serve(self: Rc<Self>, mut seat: Seat, arrival: u64, due: Moment) {
        let guard = self.phase.thread.recorder.iteration(self.number, now().since(due));
        let cut = self.phase.stops.cut.clone();
        let outcome = tokio::select! {
            biased;
            () = cut.cancelled() => None,
            outcome = self.iterate(&mut seat, arrival, due) => Some(outcome),
        };
        let Some((ok, ended)) = outcome else {
            // Its request in the air is dropped, and the guard counts its iteration; its life still ends in order.
            self.pool.borrow_mut().free.push(seat);
            return;
        };
        guard.end(ok, now().since(due));
        match ended {
            Ended::Complete | Ended::Iteration => {}
            Ended::User => self.end_life(&mut seat).await,
            Ended::Run => self.phase.thread.end_run.set(true),
        }
        self.pool.borrow_mut().free.push(seat);
    }

    async fn iterate(&self, seat: &mut Seat, arrival: u64, due: Moment) -> (bool, Ended) {
        let load = u64::from(self.phase.index) << 32 | u64::from(self.number);
        let mut body_due = due;
        if seat.user.is_none() {
            let user = match VirtualUser::new(&self.phase.thread, seat.identity, seat.life) {
                Ok(user) => user,
                Err(error) => {
                    self.phase.thread.recorder.scenario_error(&format!("a user cannot be made: {error}"));
                    return (false, Ended::Complete);
                }
            };
            let (user, _) = seat.user.insert((Box::new(user), self.phase.alive()));
            let started = user.start(due).await;
            if started.waited {
                // The arrival's wait stands in the first exchange of `start`; the loop is due now.
                body_due = now();
            }
            if started.ended != Ended::Complete {
                self.end_life(seat).await;
                return (false, if started.ended == Ended::Run { Ended::Run } else { Ended::Iteration });
            }
        }
        let Some((user, _)) = &mut seat.user else { return (false, Ended::Complete) };
        let result = user.iterate(Pass::Arrival { load, arrival }, body_due).await;
        (result.ok, result.ended)
    }

    async fn end_life(&self, seat: &mut Seat) {
        if let Some((mut user, _alive)) = seat.user.take() {
            self.phase.stop_user(&mut user).await;
        }
        seat.life += 1;
    }
}

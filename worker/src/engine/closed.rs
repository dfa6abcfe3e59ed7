//! The closed model: a number of users, each waiting for its own answers.

use std::rc::Rc;
use std::time::Duration;

use loadgrid_common::process::now;
use loadgrid_common::schedule::{Life, UserCurve};

use super::phase::{LoadShare, Phase};
use super::seat::{Begun, Seat};
use super::user::{Ended, Pass};

/// A pause after a life that could not begin, so that a broken target is not hammered with logins.
pub(super) const FAILED_START_PAUSE: Duration = Duration::from_millis(100);

/// Spawns the users of this thread's share.
pub(super) fn spawn(phase: &Rc<Phase>, share: &LoadShare, curve: &UserCurve) {
    for k in share.stripe.below(curve.peak()) {
        let seat = Seat::new(share.identity(phase, k));
        let user = ClosedUser { phase: phase.clone(), number: share.number, seat, iteration: 0 };
        phase.users.spawn_local(user.run(curve.lives(k), curve.length()));
    }
}

struct ClosedUser {
    phase: Rc<Phase>,
    number: u32,
    seat: Seat,
    iteration: u64,
}

impl ClosedUser {
    async fn run(mut self, lives: Vec<Life>, end: Duration) {
        for life in lives {
            if !self.phase.until(life.from).await {
                return;
            }
            while self.goes_on(life) && self.has_rows() {
                let abort = self.phase.stops.abort.clone();
                // Boxed, so that a user that sleeps until its time is small.
                let lived = Box::pin(self.live(life, end));
                tokio::select! {
                    biased;
                    () = abort.cancelled() => return,
                    () = lived => {}
                }
                // A life without a request or a pause must not keep the thread to itself.
                tokio::task::yield_now().await;
            }
        }
    }

    fn goes_on(&self, life: Life) -> bool {
        !self.phase.stops.ending.is_cancelled() && now() < self.phase.zero() + life.until
    }

    fn has_rows(&self) -> bool {
        self.seat.has_rows(&self.phase, Pass::Iteration { iteration: self.iteration })
    }

    /// From `start` to `stop`.
    async fn live(&mut self, life: Life, end: Duration) {
        if !self.licensed(life).await {
            return;
        }
        let cut = self.phase.stops.cut.clone();
        let first = Pass::Iteration { iteration: self.iteration };
        let begin = self.seat.begin(&self.phase, now(), first);
        let begun = tokio::select! {
            biased;
            () = cut.cancelled() => {
                self.seat.end(&self.phase).await;
                return;
            }
            begun = begin => begun,
        };
        if let Begun::Not(ended) = begun {
            self.phase.end_run.set(self.phase.end_run.get() || ended == Ended::Run);
            self.phase.thread.timer.sleep_until(now() + FAILED_START_PAUSE).await;
            return;
        }
        self.iterate(life).await;
        // Users that live at the end of the phase may live on in the next; others have left before.
        if life.until >= end && self.seat.user().is_some() {
            self.seat.leave(&self.phase).await;
        } else {
            self.seat.end(&self.phase).await;
        }
    }

    async fn iterate(&mut self, life: Life) {
        while self.goes_on(life) && self.licensed(life).await && self.has_rows() {
            // The intended start is the moment the user was ready.
            let due = now();
            let guard = self.phase.thread.recorder.iteration(self.number, Duration::ZERO);
            let cut = self.phase.stops.cut.clone();
            let result = tokio::select! {
                biased;
                // Its request in the air is dropped, and the guard counts its iteration.
                () = cut.cancelled() => return,
                result = self.seat.iterate(Pass::Iteration { iteration: self.iteration }, due) => result,
            };
            guard.end(result.ok, now().since(due));
            self.iteration += 1;
            match result.ended {
                Ended::Complete | Ended::Iteration => {}
                Ended::User => {
                    self.seat.end(&self.phase).await;
                    return;
                }
                Ended::Run => {
                    self.phase.end_run.set(true);
                    self.phase.stops.ending.cancelled().await;
                    return;
                }
            }
            if !result.waited {
                // A loop without a request or a pause must not keep the thread to itself.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits while the worker is fenced. Returns whether the life goes on.
    async fn licensed(&self, life: Life) -> bool {
        while !self.phase.may_start() {
            self.phase.fenced_pause().await;
            if !self.goes_on(life) {
                return false;
            }
        }
        true
    }
}

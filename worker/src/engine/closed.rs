//! The closed model: a number of users, each waiting for its own answers.

use std::rc::Rc;
use std::time::Duration;

use loadgrid_common::process::now;
use loadgrid_common::schedule::{Life, Stripe, UserCurve};

use super::phase::Phase;
use super::user::{Ended, Identity, Pass, VirtualUser};

/// How long a fenced user waits before it looks at its lease again.
const FENCED_PAUSE: Duration = Duration::from_millis(50);
/// A pause after a life that could not begin, so that a broken target is not hammered with logins.
const FAILED_START_PAUSE: Duration = Duration::from_millis(100);

/// Spawns the users of this thread's share.
pub(super) fn spawn(
    phase: &Rc<Phase>,
    number: u32,
    kind: usize,
    identity_base: u64,
    curve: &UserCurve,
    stripe: &Stripe,
) {
    for k in stripe.below(curve.peak()) {
        let user = ClosedUser {
            phase: phase.clone(),
            number,
            identity: Identity { kind, index: identity_base + k, phase: phase.index },
            life: 0,
            iteration: 0,
        };
        phase.users.spawn_local(user.run(curve.lives(k)));
    }
}

struct ClosedUser {
    phase: Rc<Phase>,
    number: u32,
    identity: Identity,
    life: u64,
    iteration: u64,
}

impl ClosedUser {
    async fn run(mut self, lives: Vec<Life>) {
        for life in lives {
            if !self.phase.until(life.from).await {
                return;
            }
            while self.goes_on(life) {
                let abort = self.phase.stops.abort.clone();
                // Boxed, so that a user that sleeps until its time is small.
                let lived = Box::pin(self.live(life));
                tokio::select! {
                    biased;
                    () = abort.cancelled() => return,
                    () = lived => {}
                }
                self.life += 1;
                // A life without a request or a pause must not keep the thread to itself.
                tokio::task::yield_now().await;
            }
        }
    }

    fn goes_on(&self, life: Life) -> bool {
        !self.phase.stops.ending.is_cancelled() && now() < self.phase.zero + life.until
    }

    /// From `start` to `stop`.
    async fn live(&mut self, life: Life) {
        let _alive = self.phase.alive();
        if !self.licensed(life).await {
            return;
        }
        let mut user = match VirtualUser::new(&self.phase.thread, self.identity, self.life) {
            Ok(user) => user,
            Err(error) => {
                self.phase.thread.recorder.scenario_error(&format!("a user cannot be made: {error}"));
                self.phase.thread.timer.sleep_until(now() + FAILED_START_PAUSE).await;
                return;
            }
        };
        let cut = self.phase.stops.cut.clone();
        let started = tokio::select! {
            biased;
            () = cut.cancelled() => return,
            started = user.start(now()) => started,
        };
        if started.ended == Ended::Complete {
            self.iterate(&mut user, life).await;
        } else {
            self.phase.thread.end_run.set(self.phase.thread.end_run.get() || started.ended == Ended::Run);
            self.phase.thread.timer.sleep_until(now() + FAILED_START_PAUSE).await;
        }
        self.phase.stop_user(&mut user).await;
    }

    async fn iterate(&mut self, user: &mut VirtualUser, life: Life) {
        while self.goes_on(life) && self.licensed(life).await {
            // The intended start is the moment the user was ready.
            let due = now();
            let guard = self.phase.thread.recorder.iteration(self.number, Duration::ZERO);
            let cut = self.phase.stops.cut.clone();
            let result = tokio::select! {
                biased;
                // Its request in the air is dropped, and the guard counts its iteration.
                () = cut.cancelled() => return,
                result = user.iterate(Pass::Iteration { iteration: self.iteration }, due) => result,
            };
            guard.end(result.ok, now().since(due));
            self.iteration += 1;
            match result.ended {
                Ended::Complete | Ended::Iteration => {}
                Ended::User => return,
                Ended::Run => {
                    self.phase.thread.end_run.set(true);
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
            self.phase.thread.timer.sleep_until(now() + FENCED_PAUSE).await;
            if !self.goes_on(life) {
                return false;
            }
        }
        true
    }
}

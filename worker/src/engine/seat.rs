//! A user's place in a load: it keeps its identity from life to life, and from phase to phase where users live on.

use std::cell::RefCell;
use std::rc::Rc;

use super::cap::OwnCaps;
use super::phase::{Alive, Phase};
use super::user::{Ended, Identity, Pass, PassResult, VirtualUser};
use loadgrid_common::time::Moment;

/// See the module.
pub(super) struct Seat {
    pub(super) identity: Identity,
    life: u64,
    user: Option<(Box<VirtualUser>, Alive)>,
    /// Whether its user has come to the end of `start`; not where that was cut off.
    ready: bool,
    /// What it may send is not more because it lives again.
    caps: Rc<RefCell<OwnCaps>>,
}

/// A user that goes on in the next phase.
pub(super) struct Survivor {
    life: u64,
    user: Box<VirtualUser>,
    alive: Alive,
    caps: Rc<RefCell<OwnCaps>>,
}

/// How a life began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The user is ready; whether it had to wait for anything.
    Ready { waited: bool },
    /// It is not; how `start` ended.
    Not(Ended),
}

impl Seat {
    /// A place without a user.
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, life: 0, user: None, ready: false, caps: Rc::default() }
    }

    /// Whether its user has a row for a pass, or needs none.
    pub(super) fn has_rows(&self, phase: &Phase, pass: Pass) -> bool {
        phase.thread.program.has_rows(&self.identity, pass.sequence(&self.identity))
    }

    /// Whether its user has the rows that are its own for good, or needs none.
    pub(super) fn has_own_rows(&self, phase: &Phase) -> bool {
        phase.thread.program.has_own_rows(&self.identity)
    }

    /// Sees to it that a user is there: the one that lives on from the phase before, or one that begins a life now,
    /// with the rows of the pass that it begins for.
    pub(super) async fn begin(&mut self, phase: &Phase, due: Moment, first: Pass) -> Begun {
        if self.user.is_some() {
            return match self.ready {
                true => Begun::Ready { waited: false },
                false => Begun::Not(Ended::Iteration),
            };
        }
        if let Some(survivor) = phase.adopt(&self.identity) {
            let Survivor { life, mut user, alive, caps } = survivor;
            user.continue_in(self.identity);
            self.life = life;
            self.caps = caps;
            self.user = Some((user, alive));
            self.ready = true;
            return Begun::Ready { waited: false };
        }
        let user = match VirtualUser::new(&phase.thread, self.identity, self.life, &self.caps) {
            Ok(user) => user,
            Err(error) => {
                phase.thread.recorder.scenario_error(&format!("a user cannot be made: {error}"));
                return Begun::Not(Ended::Iteration);
            }
        };
        let (user, _) = self.user.insert((Box::new(user), phase.alive()));
        let started = user.start(due, first).await;
        match started.ended {
            Ended::Complete => {
                self.ready = true;
                Begun::Ready { waited: started.waited }
            }
            ended => {
                self.end(phase).await;
                Begun::Not(ended)
            }
        }
    }

    /// Carries out the loop once. The user must be there.
    pub(super) async fn iterate(&mut self, pass: Pass, due: Moment) -> PassResult {
        match &mut self.user {
            Some((user, _)) => user.iterate(pass, due).await,
            None => PassResult { ended: Ended::Iteration, ok: false, waited: false },
        }
    }

    /// The user, where there is one.
    pub(super) fn user(&self) -> Option<&VirtualUser> {
        self.user.as_ref().map(|(user, _)| &**user)
    }

    /// Ends the life: carries out `stop`.
    pub(super) async fn end(&mut self, phase: &Phase) {
        if let Some((mut user, _alive)) = self.user.take() {
            self.ready = false;
            self.life += 1;
            phase.stop_user(&mut user).await;
        }
    }

    /// The load is over for this user: it lives on in the next phase, or its life ends.
    pub(super) async fn leave(&mut self, phase: &Phase) {
        if !self.ready || !phase.users_live_on() {
            self.end(phase).await;
            return;
        }
        if let Some((user, alive)) = self.user.take() {
            let caps = self.caps.clone();
            phase.keep(&self.identity, Survivor { life: self.life, user, alive, caps });
        }
    }
}

impl Survivor {
    /// Nobody goes on with this user: its life ends.
    pub(super) async fn end(mut self, phase: &Phase) {
        phase.stop_user(&mut self.user).await;
        drop(self.alive);
    }
}

//! What a run does next. Pure: no sockets, no clock, no tasks; time comes as an argument.
//!
//! ```text
//!             enough workers      all armed          all committed        last phase ended
//!  waiting ──────────────▶ arming ─────────▶ opening ─────────────▶ in phase ─────────────▶ draining ─▶ ended
//!     │ time is up            │ refused, too few    ▲    │ Start at T    │ ▲ ▲                  ▲ │ all sealed
//!     ▼                       ▼                     └────┘ a worker lost └─┘ └─ warming: users   │ ▼ or time is up
//!   ended                   ended                                 next phase    begin before zero│
//!                                     stop, interrupt, abort ─▶ ending ─▶ teardown, if any ──────┘
//! ```
//!
//! `setup` and `teardown` are phases that one worker carries out alone. Teardown follows however the run ends, once
//! its first phase was ordered.
//!
//! Orders are level-triggered: what a worker should hear next follows from how far it says it is, and is
//! repeated until it has come so far. So any message may be lost, doubled or late. A run ends exactly once,
//! with one reason.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::plan::{self, GridSettings, Phase, PhaseKind, Plan};
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb::{self, from_coordinator::Message as Order};

use super::grants::Grants;

/// An order that is not obeyed is repeated after this long.
pub(super) const REPEAT: Duration = Duration::from_millis(500);
/// Arming takes as long as the plan's data needs to travel; each byte that arrives is progress, silence is not.
pub(super) const ARMING_LIMIT: Duration = Duration::from_secs(120);
/// How long users may take to begin their lives before phase zero.
pub(super) const WARMING_LIMIT: Duration = Duration::from_secs(120);
/// Two-phase opening of an epoch.
pub(super) const OPENING_LIMIT: Duration = Duration::from_secs(15);
/// How far ahead a start is ordered: it has to reach every worker before it is due.
pub(super) const LEAD: Duration = Duration::from_millis(250);
/// What a phase may take beyond its length, its graceful stop and the end of lives.
pub(super) const SLACK: Duration = Duration::from_secs(10);
/// The end of lives: `stop` flows.
pub(super) const STOP_FLOWS: Duration = Duration::from_secs(30);
/// How long sealing may take once nothing runs any more.
pub(super) const SEAL_LIMIT: Duration = Duration::from_secs(15);

/// What a run is told when it begins.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The run's name.
    pub run: String,
    /// What it asks of the grid.
    pub grid: GridSettings,
    /// Workers to wait for.
    pub expect_workers: u32,
    /// How long.
    pub wait: Duration,
    /// Its phases.
    pub phases: Vec<Phase>,
    /// The smallest count of a cap that the whole grid shares: every load thread needs a part of it.
    pub smallest_cap: Option<u64>,
    /// How long workers may wait for the target before they are armed.
    pub wait_for_target: Duration,
    /// The order that begins it.
    pub prepare: pb::Prepare,
    /// Tables by hash.
    pub tables: BTreeMap<String, Vec<u8>>,
}

impl RunConfig {
    /// The smallest cap of a plan that the whole grid shares.
    #[must_use]
    pub fn smallest_cap_of(plan: &Plan) -> Option<u64> {
        fn of_steps(steps: &[plan::Step]) -> Option<u64> {
            use plan::step::Step;
            let of = |step: &plan::Step| match step.step.as_ref()? {
                Step::Http(http) => http.cap.as_ref().and_then(of_cap),
                Step::Choose(choose) => {
                    choose.branches.iter().filter_map(|branch| of_steps(&branch.steps)).min()
                }
                Step::If(step) => of_steps(&step.then).into_iter().chain(of_steps(&step.otherwise)).min(),
                Step::Repeat(step) => of_steps(&step.steps),
                Step::Group(group) => of_steps(&group.steps),
                _ => None,
            };
            steps.iter().filter_map(of).min()
        }
        fn of_cap(cap: &plan::Cap) -> Option<u64> {
            (cap.per() != plan::CapPer::User).then_some(cap.count)
        }
        let whole = plan.http.as_ref().and_then(|http| http.cap.as_ref()).and_then(of_cap);
        let users = plan.users.iter();
        let steps = users.flat_map(|user| [&user.start, &user.body, &user.stop]);
        whole.into_iter().chain(steps.filter_map(|steps| of_steps(steps))).min()
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// A worker is there (again).
    Present {
        /// Its name.
        worker: WorkerId,
        /// Which life.
        incarnation: Incarnation,
        /// Load threads.
        threads: NonZeroU32,
    },
    /// A worker said how far it is.
    Progress {
        /// Its name.
        worker: WorkerId,
        /// Which life.
        incarnation: Incarnation,
        /// How far.
        progress: Box<pb::Progress>,
    },
    /// A worker's lease has ended.
    Lost {
        /// Its name.
        worker: WorkerId,
        /// Which life.
        incarnation: Incarnation,
        /// When its lease ended.
        lease_end: Moment,
    },
    /// A worker's seal, and everything before it, is committed.
    Sealed {
        /// Its name.
        worker: WorkerId,
    },
    /// Somebody wants it to end.
    Stop {
        /// Ctrl-C of the submitter; otherwise through the API.
        interrupted: bool,
        /// Drop what is under way.
        abort: bool,
    },
    /// A threshold fails that ends the run.
    Threshold(String),
    /// The coordinator itself cannot go on.
    Failed(String),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum RunEffect {
    /// Give an order.
    Send {
        /// To whom.
        worker: WorkerId,
        /// What.
        order: Box<Order>,
    },
    /// A phase was ordered to begin.
    PhaseBegins(PhaseSpan),
    /// A phase is over on every worker that is left.
    PhaseEnded {
        /// Which.
        phase: u32,
        /// When.
        at: Moment,
    },
    /// A worker is lost.
    WorkerLost(LostWorker),
    /// The run has ended. Comes once, and last.
    Ended(EndReason),
}

/// When a phase was ordered to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseSpan {
    /// Which.
    pub phase: u32,
    /// Phase zero.
    pub zero: Moment,
}

/// A worker that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostWorker {
    /// Its name.
    pub worker: WorkerId,
    /// The end of its lease: the last instant at which it may have started load.
    pub lease_end: Moment,
}

/// Why a run has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// All phases were carried out.
    Completed,
    /// The scenario said `end: run`.
    EndedByScenario,
    /// Ctrl-C.
    Interrupted,
    /// Through the API.
    Stopped,
    /// Too few workers came.
    NotEnoughWorkers {
        /// How many were there.
        present: usize,
        /// How many were needed.
        needed: usize,
    },
    /// A worker cannot carry out the plan.
    Refused {
        /// Its name.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// The clocks are not known well enough for the skew that the scenario asks for.
    ClocksUncertain {
        /// The worst.
        worker: WorkerId,
        /// Its uncertainty in nanoseconds.
        uncertainty_ns: u64,
    },
    /// A step of `setup` failed.
    SetupFailed(String),
    /// A threshold failed that ends the run.
    Threshold(String),
    /// A cap of the whole grid is smaller than the number of load threads among which it is cut.
    CapTooSmall {
        /// The cap's count.
        cap: u64,
        /// Parts that are needed.
        parts: u64,
    },
    /// All workers were lost.
    NoWorkersLeft,
    /// Something took longer than it may.
    TimedOut(String),
    /// The coordinator itself could not go on.
    Failed(String),
}

/// Where the run is, for views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// For workers.
    Waiting,
    /// Plan and data travel.
    Preparing,
    /// A phase is under way, or the next one is about to be.
    Running,
    /// Nothing new begins.
    Draining,
    /// Over.
    Ended,
}

#[derive(Debug)]
pub(super) enum State {
    Waiting {
        until: Moment,
    },
    Arming {
        until: Moment,
    },
    Opening {
        epoch: u32,
        until: Moment,
    },
    /// Users of a phase begin their lives before its zero.
    Warming {
        phase: u32,
        until: Moment,
    },
    InPhase {
        phase: u32,
        zero: Moment,
        until: Moment,
    },
    /// The run is to end: the phase is ended before teardown.
    Ending {
        phase: u32,
        until: Moment,
        aborting: bool,
    },
    Draining {
        reason: EndReason,
        until: Moment,
        aborting: bool,
    },
    Ended,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) incarnation: Incarnation,
    pub(super) threads: NonZeroU32,
    pub(super) progress: pb::Progress,
    pub(super) live: bool,
    pub(super) sealed: bool,
    /// It was lost and is back: it holds measures that count, but must not start load.
    pub(super) back: bool,
    /// Which order went out last, and when.
    pub(super) ordered: Option<(u64, Moment)>,
}

/// See the module.
#[derive(Debug)]
pub struct RunCore {
    pub(super) config: RunConfig,
    pub(super) state: State,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) epoch: u32,
    pub(super) shares: Vec<(WorkerId, Incarnation, u32)>,
    pub(super) run_zero: Option<Moment>,
    /// Who carries out setup or teardown.
    pub(super) performer: Option<WorkerId>,
    /// What `setup` yielded.
    pub(super) setup_json: String,
    /// Why the run is to end before all phases were carried out.
    pub(super) reason: Option<EndReason>,
    /// How often somebody wanted everything dropped.
    pub(super) aborts: u32,
    pub(super) grants: Grants,
    /// How long it may wait for workers in all.
    pub(super) wait_until: Moment,
}

impl RunCore {
    /// A run that waits for its workers.
    #[must_use]
    pub fn new(now: Moment, config: RunConfig) -> Self {
        let until = now + config.wait;
        Self {
            config,
            state: State::Waiting { until },
            workers: BTreeMap::new(),
            epoch: 0,
            shares: Vec::new(),
            run_zero: None,
            performer: None,
            setup_json: String::new(),
            reason: None,
            aborts: 0,
            grants: Grants::default(),
            wait_until: until,
        }
    }

    /// Where the run is.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.state {
            State::Waiting { .. } => Stage::Waiting,
            State::Arming { .. } | State::Opening { .. } => Stage::Preparing,
            State::Warming { .. } | State::InPhase { .. } => Stage::Running,
            State::Ending { .. } | State::Draining { .. } => Stage::Draining,
            State::Ended => Stage::Ended,
        }
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The origin of run time, once the first phase was ordered.
    #[must_use]
    pub const fn run_zero(&self) -> Option<Moment> {
        self.run_zero
    }

    /// The owners of the newest epoch with their weights, in slot order.
    #[must_use]
    pub fn shares(&self) -> &[(WorkerId, Incarnation, u32)] {
        &self.shares
    }

    /// Whether a worker was lost: its share may be another's, so its lease must not be renewed.
    #[must_use]
    pub fn is_fenced(&self, worker: &WorkerId) -> bool {
        self.workers.get(worker).is_some_and(|worker| !worker.live)
    }

    /// Workers of this run, and how many of them are live.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.workers.values().filter(|worker| worker.live).count(), self.workers.len())
    }

    /// How far each worker is.
    pub fn progress(&self) -> impl Iterator<Item = (&WorkerId, &pb::Progress, bool)> {
        self.workers.iter().map(|(id, worker)| (id, &worker.progress, worker.live))
    }

    /// How many workers it waits for.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.config.expect_workers.max(self.config.grid.min_workers).max(1) as usize
    }

    /// When [`RunEvent::Tick`] should come, if nothing else happens.
    #[must_use]
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let limit = match self.state {
            State::Waiting { until }
            | State::Arming { until }
            | State::Opening { until, .. }
            | State::Warming { until, .. }
            | State::InPhase { until, .. }
            | State::Ending { until, .. }
            | State::Draining { until, .. } => until,
            State::Ended => return None,
        };
        Some(limit.min(now + REPEAT))
    }

    /// Takes note of what happened at `now` and says what to do.
    pub fn handle(&mut self, now: Moment, event: RunEvent) -> Vec<RunEffect> {
        let mut out = Vec::new();
        if self.is_ended() {
            return out;
        }
        match event {
            RunEvent::Present { worker, incarnation, threads } => self.present(worker, incarnation, threads),
            RunEvent::Progress { worker, incarnation, progress } => {
                self.granted(now, &worker, incarnation, &progress, &mut out);
                self.progressed(&worker, incarnation, *progress)
            }
            RunEvent::Lost { worker, incarnation, lease_end } => {
                self.lost(now, worker, incarnation, lease_end, &mut out)
            }
            RunEvent::Sealed { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.sealed = true;
                }
            }
            RunEvent::Stop { interrupted, abort } => {
                let reason = if interrupted { EndReason::Interrupted } else { EndReason::Stopped };
                self.stop(now, reason, abort);
            }
            RunEvent::Threshold(text) if self.may_be_broken_off() => {
                self.stop(now, EndReason::Threshold(text), false);
            }
            RunEvent::Threshold(_) => {}
            RunEvent::Failed(reason) => self.stop(now, EndReason::Failed(reason), true),
            RunEvent::Tick => {}
        }
        self.settle(now, &mut out);
        if !self.is_ended() {
            self.send_orders(now, &mut out);
        }
        out
    }

    fn present(&mut self, id: WorkerId, incarnation: Incarnation, threads: NonZeroU32) {
        // Workers that come after the shares were dealt are not part of this run.
        if matches!(self.state, State::Waiting { .. } | State::Arming { .. }) {
            let fresh = Worker {
                incarnation,
                threads,
                progress: pb::Progress::default(),
                live: true,
                sealed: false,
                back: false,
                ordered: None,
            };
            let worker = self.workers.entry(id).or_insert(fresh);
            if worker.incarnation != incarnation {
                worker.incarnation = incarnation;
                worker.progress = pb::Progress::default();
            }
            worker.live = true;
        } else if let Some(worker) =
            self.workers.get_mut(&id).filter(|worker| worker.incarnation == incarnation)
        {
            worker.back = !worker.live;
        }
    }

    fn progressed(&mut self, id: &WorkerId, incarnation: Incarnation, progress: pb::Progress) {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.incarnation == incarnation) else {
            return;
        };
        // Beats may overtake each other; a run's progress only grows, so the further one is the newer one.
        let rank = |p: &pb::Progress| {
            (
                p.sealed,
                p.draining,
                p.ended,
                p.started,
                p.ready,
                p.committed_epoch,
                p.prepared_epoch,
                p.armed,
                p.missing_data.is_empty(),
                p.missing_offset,
            )
        };
        let of_this_run = progress.run == self.config.run;
        if of_this_run && rank(&progress) >= rank(&worker.progress) || worker.progress.run != self.config.run
        {
            worker.progress = progress;
        }
    }

    fn lost(
        &mut self,
        now: Moment,
        id: WorkerId,
        incarnation: Incarnation,
        lease_end: Moment,
        out: &mut Vec<RunEffect>,
    ) {
        let Some(worker) =
            self.workers.get_mut(&id).filter(|worker| worker.incarnation == incarnation && worker.live)
        else {
            return;
        };
        if worker.sealed {
            // It has said its last word; nothing of it is missing.
            return;
        }
        worker.live = false;
        match self.state {
            // Nothing has begun: the run goes on as if the worker had never been there.
            State::Waiting { .. } => drop(self.workers.remove(&id)),
            State::Arming { .. } | State::Opening { .. } if self.run_zero.is_none() => {
                self.workers.remove(&id);
                if self.epoch > 0 && self.live().count() >= self.needed() {
                    self.open_epoch(now);
                }
            }
            State::Ended => {}
            State::Arming { .. }
            | State::Opening { .. }
            | State::Warming { .. }
            | State::InPhase { .. }
            | State::Ending { .. }
            | State::Draining { .. } => {
                out.push(RunEffect::WorkerLost(LostWorker { worker: id, lease_end }));
            }
        }
    }

    pub(super) fn stop(&mut self, now: Moment, reason: EndReason, abort: bool) {
        self.aborts += u32::from(abort);
        let drained = |graceful: Duration| match abort {
            true => now + SEAL_LIMIT,
            false => now + graceful + STOP_FLOWS + SLACK,
        };
        match &mut self.state {
            State::Ended => {}
            State::Waiting { .. } | State::Arming { .. } | State::Opening { .. } => {
                let reason = self.reason.take().unwrap_or(reason);
                self.state = State::Draining { reason, until: drained(Duration::ZERO), aborting: abort };
            }
            // Stopping twice in earnest: what was asked to drain is now dropped.
            State::Draining { aborting, until, .. } | State::Ending { aborting, until, .. } => {
                if abort && !*aborting {
                    *aborting = true;
                    *until = now + SEAL_LIMIT;
                }
            }
            State::Warming { phase, .. } | State::InPhase { phase, .. } => {
                let phase = *phase;
                let shape = self.config.phases.get(phase as usize);
                let graceful = shape.map(Phase::graceful_stop).unwrap_or_default();
                let tearing_down = shape.is_some_and(|shape| shape.kind() == PhaseKind::Teardown);
                let hopeless = matches!(reason, EndReason::Failed(_));
                let reason = self.reason.get_or_insert(reason).clone();
                if tearing_down && self.aborts < 2 && !hopeless {
                    // It is the last thing that is done, and bounded: dropped only where somebody insists.
                } else if tearing_down || hopeless || !self.has_an_aftermath(phase) {
                    self.state = State::Draining { reason, until: drained(graceful), aborting: abort };
                } else {
                    self.state = State::Ending { phase, until: drained(graceful), aborting: abort };
                }
            }
        }
    }

    /// Whether something follows a phase that is broken off: teardown, or the end of users that would have lived on.
    fn has_an_aftermath(&self, phase: u32) -> bool {
        let next = self.config.phases.get(phase as usize + 1);
        self.teardown().is_some() || next.is_some_and(|next| next.continues)
    }

    /// The phase that is carried out or prepared.
    #[must_use]
    pub const fn phase(&self) -> Option<u32> {
        match &self.state {
            State::Warming { phase, .. } | State::InPhase { phase, .. } | State::Ending { phase, .. } => {
                Some(*phase)
            }
            State::Waiting { .. }
            | State::Arming { .. }
            | State::Opening { .. }
            | State::Draining { .. }
            | State::Ended => None,
        }
    }

    /// Whether there is something left that a broken threshold could end.
    #[must_use]
    pub fn may_be_broken_off(&self) -> bool {
        match &self.state {
            State::Waiting { .. } | State::Arming { .. } | State::Opening { .. } => true,
            State::Warming { phase, .. } | State::InPhase { phase, .. } => {
                self.kind_of(*phase) != PhaseKind::Teardown
            }
            State::Ending { .. } | State::Draining { .. } | State::Ended => false,
        }
    }

    /// The index of the teardown phase, where there is one.
    pub(super) fn teardown(&self) -> Option<u32> {
        let place = self.config.phases.iter().position(|phase| phase.kind() == PhaseKind::Teardown)?;
        u32::try_from(place).ok()
    }

    pub(super) fn kind_of(&self, phase: u32) -> PhaseKind {
        self.config.phases.get(phase as usize).map_or(PhaseKind::Load, Phase::kind)
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter().filter(|(_, worker)| worker.live)
    }

    /// Iterations that were leased to a worker.
    #[must_use]
    pub fn leased(&self, phase: u32, load: u32, worker: &WorkerId) -> u64 {
        self.grants.leased(phase, load, worker)
    }
}

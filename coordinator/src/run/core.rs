//! What a run does next. Pure: no sockets, no clock, no tasks; time comes as an argument.
//!
//! ```text
//!             enough workers      all armed          all committed        last phase ended
//!  waiting ──────────────▶ arming ─────────▶ opening ─────────────▶ in phase ─────────────▶ draining ─▶ ended
//!     │ time is up            │ refused, too few    ▲    │ Start at T    │ ▲                    ▲ │ all sealed
//!     ▼                       ▼                     └────┘ a worker lost └─┘ next phase         │ ▼ or time is up
//!   ended                   ended                                  stop, interrupt, abort ──────┘
//! ```
//!
//! Orders are level-triggered: what a worker should hear next follows from how far it says it is, and is
//! repeated until it has come so far. So any message may be lost, doubled or late. A run ends exactly once,
//! with one reason.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::plan::{GridSettings, Plan};
use loadgrid_common::schedule::weights_for;
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb::{self, from_coordinator::Message as Order};

/// An order that is not obeyed is repeated after this long.
const REPEAT: Duration = Duration::from_millis(500);
/// Arming takes as long as the plan's data needs to travel; each byte that arrives is progress, silence is not.
const ARMING_LIMIT: Duration = Duration::from_secs(120);
/// Two-phase opening of an epoch.
const OPENING_LIMIT: Duration = Duration::from_secs(15);
/// How far ahead a start is ordered: it has to reach every worker before it is due.
const LEAD: Duration = Duration::from_millis(250);
/// What a phase may take beyond its length, its graceful stop and the end of lives.
const SLACK: Duration = Duration::from_secs(10);
/// The end of lives: `stop` flows.
const STOP_FLOWS: Duration = Duration::from_secs(30);
/// How long sealing may take once nothing runs any more.
const SEAL_LIMIT: Duration = Duration::from_secs(15);

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
    /// Length and graceful stop of each phase.
    pub phases: Vec<(Duration, Duration)>,
    /// The order that begins it.
    pub prepare: pb::Prepare,
    /// Tables by hash.
    pub tables: BTreeMap<String, Vec<u8>>,
}

impl RunConfig {
    /// The spans of a plan's phases.
    #[must_use]
    pub fn phases_of(plan: &Plan) -> Vec<(Duration, Duration)> {
        plan.phases.iter().map(|phase| (phase.length(), phase.graceful_stop())).collect()
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
enum State {
    Waiting { until: Moment },
    Arming { until: Moment },
    Opening { epoch: u32, until: Moment },
    InPhase { phase: u32, zero: Moment, until: Moment },
    Draining { reason: EndReason, until: Moment, aborting: bool },
    Ended,
}

#[derive(Debug)]
struct Worker {
    incarnation: Incarnation,
    threads: NonZeroU32,
    progress: pb::Progress,
    live: bool,
    sealed: bool,
    /// It was lost and is back: it holds measures that count, but must not start load.
    back: bool,
    /// Which order went out last, and when.
    ordered: Option<(u64, Moment)>,
}

/// See the module.
#[derive(Debug)]
pub struct RunCore {
    config: RunConfig,
    state: State,
    workers: BTreeMap<WorkerId, Worker>,
    epoch: u32,
    shares: Vec<(WorkerId, Incarnation, u32)>,
    run_zero: Option<Moment>,
    /// How long it may wait for workers in all.
    wait_until: Moment,
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
            wait_until: until,
        }
    }

    /// Where the run is.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self.state {
            State::Waiting { .. } => Stage::Waiting,
            State::Arming { .. } | State::Opening { .. } => Stage::Preparing,
            State::InPhase { .. } => Stage::Running,
            State::Draining { .. } => Stage::Draining,
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
            | State::InPhase { until, .. }
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
            State::Arming { .. } | State::Opening { .. } | State::InPhase { .. } | State::Draining { .. } => {
                out.push(RunEffect::WorkerLost(LostWorker { worker: id, lease_end }));
            }
            State::Ended => {}
        }
    }

    fn stop(&mut self, now: Moment, reason: EndReason, abort: bool) {
        let graceful = match &self.state {
            State::InPhase { phase, .. } => {
                self.config.phases.get(*phase as usize).map_or(Duration::ZERO, |phase| phase.1)
            }
            _ => Duration::ZERO,
        };
        match &mut self.state {
            // Stopping twice in earnest: what was asked to drain is now dropped.
            State::Draining { aborting, until, .. } => {
                if abort && !*aborting {
                    *aborting = true;
                    *until = now + SEAL_LIMIT;
                }
            }
            State::Ended => {}
            State::Waiting { .. } | State::Arming { .. } | State::Opening { .. } | State::InPhase { .. } => {
                let limit = if abort { SEAL_LIMIT } else { graceful + STOP_FLOWS + SLACK };
                self.state = State::Draining { reason, until: now + limit, aborting: abort };
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter().filter(|(_, worker)| worker.live)
    }

    /// What follows from the state alone; each turn may allow the next.
    fn settle(&mut self, now: Moment, out: &mut Vec<RunEffect>) {
        while self.settle_once(now, out) {}
    }

    fn settle_once(&mut self, now: Moment, out: &mut Vec<RunEffect>) -> bool {
        let present = self.live().count();
        match &self.state {
            State::Waiting { until } => {
                if present >= self.needed() {
                    self.state = State::Arming { until: now + ARMING_LIMIT };
                    return true;
                }
                if now >= *until {
                    self.end(EndReason::NotEnoughWorkers { present, needed: self.needed() }, out);
                }
                false
            }
            State::Arming { until } => {
                let until = *until;
                if self.waits_again(now, present) {
                    return false;
                }
                if let Some(reason) = self.cannot_begin(present) {
                    self.stop(now, reason, true);
                    return true;
                }
                if self
                    .live()
                    .all(|(_, worker)| worker.progress.armed && worker.progress.run == self.config.run)
                {
                    return self.open_if_clocks_allow(now, until);
                }
                self.give_up_after(now, until, "preparing the workers")
            }
            State::Opening { epoch, until } => {
                let (epoch, until) = (*epoch, *until);
                if self.waits_again(now, present) {
                    return false;
                }
                if let Some(reason) = self.cannot_begin(present) {
                    self.stop(now, reason, true);
                    return true;
                }
                if self.live().all(|(_, worker)| worker.progress.committed_epoch >= epoch) {
                    self.begin_phase(now, 0, out);
                    return true;
                }
                self.give_up_after(now, until, "agreeing on the shares")
            }
            State::InPhase { phase, until, .. } => {
                let (phase, until) = (*phase, *until);
                if present == 0 {
                    self.end(EndReason::NoWorkersLeft, out);
                    return false;
                }
                if self.live().any(|(_, worker)| worker.progress.end_run) {
                    self.stop(now, EndReason::EndedByScenario, false);
                    return true;
                }
                if self.live().all(|(_, worker)| worker.progress.ended > phase) {
                    out.push(RunEffect::PhaseEnded { phase, at: now });
                    if (phase as usize) + 1 < self.config.phases.len() {
                        self.begin_phase(now, phase + 1, out);
                    } else {
                        self.state = State::Draining {
                            reason: EndReason::Completed,
                            until: now + SEAL_LIMIT,
                            aborting: false,
                        };
                    }
                    return true;
                }
                self.give_up_after(now, until, "ending a phase")
            }
            State::Draining { until, aborting, reason } => {
                let (until, aborting, reason) = (*until, *aborting, reason.clone());
                let holding = self
                    .workers
                    .values()
                    .filter(|worker| worker.live && worker.progress.run == self.config.run);
                let mut holding = holding.filter(|worker| !worker.sealed).peekable();
                if holding.peek().is_none() {
                    self.end(reason, out);
                    return false;
                }
                if now >= until {
                    if aborting {
                        self.end(reason, out);
                        return false;
                    }
                    self.state = State::Draining { reason, until: now + SEAL_LIMIT, aborting: true };
                }
                false
            }
            State::Ended => false,
        }
    }

    /// Why a run that has not begun cannot begin.
    fn cannot_begin(&self, present: usize) -> Option<EndReason> {
        let refused = self.live().find(|(_, worker)| {
            !worker.progress.refused.is_empty() && worker.progress.run == self.config.run
        });
        if let Some((worker, refused)) = refused {
            return Some(EndReason::Refused {
                worker: worker.clone(),
                reason: refused.progress.refused.clone(),
            });
        }
        (present < self.needed()).then(|| EndReason::NotEnoughWorkers { present, needed: self.needed() })
    }

    fn open_if_clocks_allow(&mut self, now: Moment, until: Moment) -> bool {
        let allowed = match self.config.grid.start_skew_ns {
            0 => u64::MAX,
            skew => skew,
        };
        let worst = self.live().max_by_key(|(_, worker)| worker.progress.clock_uncertainty_ns);
        let Some((worst, uncertainty_ns)) =
            worst.map(|(id, worker)| (id.clone(), worker.progress.clock_uncertainty_ns))
        else {
            return false;
        };
        if uncertainty_ns < allowed {
            self.open_epoch(now);
            return true;
        }
        // The first beats are still under way, or the network is too slow for the skew asked for.
        if now >= until {
            self.stop(now, EndReason::ClocksUncertain { worker: worst, uncertainty_ns }, true);
            return true;
        }
        false
    }

    fn open_epoch(&mut self, now: Moment) {
        let threads: Vec<NonZeroU32> = self.live().map(|(_, worker)| worker.threads).collect();
        let equal = self.config.grid.weights == i32::from(loadgrid_common::plan::Weights::Equal);
        let weights = weights_for(&threads, equal);
        self.shares = self
            .live()
            .zip(weights)
            .map(|((id, worker), weight)| (id.clone(), worker.incarnation, weight))
            .collect();
        self.epoch += 1;
        self.state = State::Opening { epoch: self.epoch, until: now + OPENING_LIMIT };
    }

    fn begin_phase(&mut self, now: Moment, phase: u32, out: &mut Vec<RunEffect>) {
        let zero = now + LEAD;
        let (length, graceful) = self.config.phases.get(phase as usize).copied().unwrap_or_default();
        self.run_zero.get_or_insert(zero);
        self.state = State::InPhase { phase, zero, until: zero + length + graceful + STOP_FLOWS + SLACK };
        out.push(RunEffect::PhaseBegins(PhaseSpan { phase, zero }));
    }

    /// Before the first phase a worker may be lost while there is time for another: then the run waits on.
    fn waits_again(&mut self, now: Moment, present: usize) -> bool {
        if present >= self.needed() || now >= self.wait_until {
            return false;
        }
        self.state = State::Waiting { until: self.wait_until };
        true
    }

    fn give_up_after(&mut self, now: Moment, until: Moment, what: &str) -> bool {
        if now < until {
            return false;
        }
        self.stop(now, EndReason::TimedOut(format!("{what} took too long")), true);
        true
    }

    fn end(&mut self, reason: EndReason, out: &mut Vec<RunEffect>) {
        // Workers that still hold the run let go of it; one that does not hear this finds out when it
        // presents itself again.
        for (id, worker) in self.workers.iter().filter(|(_, worker)| worker.live) {
            if worker.progress.run == self.config.run {
                let release = pb::Release { run: self.config.run.clone() };
                out.push(RunEffect::Send { worker: id.clone(), order: Box::new(Order::Release(release)) });
            }
        }
        self.state = State::Ended;
        out.push(RunEffect::Ended(reason));
    }

    /// Gives every live worker the order that it has not obeyed yet.
    fn send_orders(&mut self, now: Moment, out: &mut Vec<RunEffect>) {
        let ids: Vec<WorkerId> = self.workers.keys().cloned().collect();
        for id in ids {
            let Some((kind, order)) = self.workers.get(&id).and_then(|worker| self.order_for(worker)) else {
                continue;
            };
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let recently =
                matches!(worker.ordered, Some((last, at)) if last == kind && now.since(at) < REPEAT);
            if recently {
                continue;
            }
            worker.ordered = Some((kind, now));
            out.push(RunEffect::Send { worker: id, order: Box::new(order) });
        }
    }

    fn order_for(&self, worker: &Worker) -> Option<(u64, Order)> {
        let run = self.config.run.clone();
        let progress = &worker.progress;
        let holds = progress.run == run;
        if !worker.live {
            let order = if worker.sealed {
                (6, Order::Release(pb::Release { run }))
            } else {
                (5, Order::Abort(pb::Abort { run, reason: "its lease had ended".to_owned() }))
            };
            return (worker.back && holds).then_some(order);
        }
        match &self.state {
            State::Waiting { .. } | State::Ended => None,
            State::Arming { .. } | State::Opening { .. } if !holds => {
                Some((1, Order::Prepare(self.config.prepare.clone())))
            }
            State::Arming { .. } | State::Opening { .. } if !progress.missing_data.is_empty() => {
                // Data goes on as fast as the worker says that it has come, so the offset tells orders apart.
                let chunk = self.chunk(&progress.missing_data, progress.missing_offset);
                chunk.map(|chunk| (2 | progress.missing_offset << 8, Order::Data(chunk)))
            }
            State::Arming { .. } => None,
            State::Opening { epoch, .. } => self.opening_order(*epoch, progress),
            State::InPhase { phase, zero, .. } => (holds && progress.started <= *phase).then(|| {
                let start = pb::Start {
                    run,
                    phase: *phase,
                    epoch: self.epoch,
                    at_ns: zero.as_nanos(),
                    run_zero_ns: self.run_zero.unwrap_or(*zero).as_nanos(),
                };
                // The phase is part of the kind, or the start of the next one would look like a repetition.
                (3 | u64::from(*phase) << 8, Order::Start(start))
            }),
            State::Draining { aborting, .. } => {
                if !holds {
                    None
                } else if worker.sealed {
                    Some((6, Order::Release(pb::Release { run })))
                } else if *aborting {
                    Some((5, Order::Abort(pb::Abort { run, reason: String::new() })))
                } else {
                    (!progress.draining).then(|| (4, Order::Drain(pb::Drain { run, reason: String::new() })))
                }
            }
        }
    }

    fn opening_order(&self, number: u32, progress: &pb::Progress) -> Option<(u64, Order)> {
        let run = self.config.run.clone();
        if progress.prepared_epoch < number {
            let shares = self.shares.iter().map(|(worker, incarnation, weight)| pb::Share {
                worker: worker.as_str().to_owned(),
                incarnation: incarnation.0,
                weight: *weight,
            });
            return Some((
                7 | u64::from(number) << 8,
                Order::Epoch(pb::Epoch { run, number, shares: shares.collect(), loads: Vec::new() }),
            ));
        }
        // Nobody commits before all are prepared.
        let all_prepared = self.live().all(|(_, worker)| worker.progress.prepared_epoch >= number);
        (all_prepared && progress.committed_epoch < number)
            .then(|| (8 | u64::from(number) << 8, Order::Commit(pb::EpochCommit { run, number })))
    }

    fn chunk(&self, hash: &str, offset: u64) -> Option<pb::DataChunk> {
        let table = self.config.tables.get(hash)?;
        let begin = usize::try_from(offset).ok()?.min(table.len());
        let end = (begin + loadgrid_common::wire::PIECE_BYTES).min(table.len());
        Some(pb::DataChunk {
            hash: hash.to_owned(),
            offset,
            total: table.len() as u64,
            bytes: table[begin..end].to_vec().into(),
        })
    }
}

//! What a worker does next. Pure: no sockets, no clock, no tasks; time comes as an argument.
//!
//! ```text
//!            Prepare            data, compiled        Epoch, EpochCommit        Start
//! idle ───────────────▶ fetching ─────────▶ armed ───────────────────▶ owner ─────────▶ in a phase
//!   ▲                      │ refused                                     ▲                │ all users ended
//!   │ Release              ▼                                             └────────────────┘
//! sealed ◀─────────── draining (Drain, Abort: also from any state) ◀── last phase, Drain
//! ```
//!
//! Orders come as often as they like; one that is obeyed already is answered by a beat that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::lease::Lease;
use loadgrid_common::schedule::Cycle;
use loadgrid_common::stats::Measures;
use loadgrid_common::time::{Moment, nanos};
use loadgrid_common::wire::pb::{self, from_coordinator::Message as Order, from_worker::Message as Word};

use super::clock::{ClockEstimate, Probe};
use super::outbox::{Interval, Outbox};

/// Beats of the first moments come fast, so that the clocks are known before the start.
const FIRST_BEATS: u64 = 8;
const FIRST_BEAT_INTERVAL: Duration = Duration::from_millis(20);
/// A seal is repeated until the coordinator releases the run.
const SEAL_INTERVAL: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A new line to the coordinator stands and the hello was sent.
    Connected,
    /// The coordinator said something.
    Said(Order),
    /// The plan is compiled and the load threads wait.
    Armed,
    /// The plan cannot be carried out here.
    Refused(String),
    /// A load thread measured an interval.
    Measured {
        /// Which thread.
        thread: u32,
        /// Phase.
        phase: u32,
        /// Begin in run time.
        from: Duration,
        /// End in run time.
        to: Duration,
        /// The counts.
        measures: Box<Measures>,
        /// Users alive.
        users: u32,
    },
    /// A load thread saw phase zero.
    Zero {
        /// Phase.
        phase: u32,
        /// On this machine's clock.
        seen_minus_zero_ns: i64,
    },
    /// The prepared users of a load thread wait for phase zero.
    Ready {
        /// Which thread.
        thread: u32,
        /// Phase.
        phase: u32,
    },
    /// A load thread has carried out `setup`.
    Yielded {
        /// What its steps captured, as JSON.
        json: String,
        /// Why it failed, where it did.
        failed: String,
    },
    /// A load thread wants a block of shared iterations.
    Wanted {
        /// Which thread.
        thread: u32,
        /// Phase.
        phase: u32,
        /// Load.
        load: u32,
        /// Which of its blocks, from 1.
        number: u64,
    },
    /// The turn of a sequential user is over.
    TurnEnded {
        /// Phase.
        phase: u32,
        /// Load.
        load: u32,
        /// 1 + index of the user.
        user: u64,
    },
    /// A load thread has ended a phase.
    PhaseEnded {
        /// Which thread.
        thread: u32,
        /// Phase.
        phase: u32,
    },
    /// The scenario said `end: run`.
    EndRun,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Say this to the coordinator.
    Say(Box<Word>),
    /// Compile this plan with these tables and start load threads.
    Load {
        /// The order.
        prepare: Box<pb::Prepare>,
        /// Tables by hash.
        tables: BTreeMap<String, Vec<u8>>,
    },
    /// Begin a phase.
    Begin(Begin),
    /// The zero of a phase whose users are prepared, on this machine's clock.
    Zero {
        /// Phase.
        phase: u32,
        /// Phase zero.
        zero: Moment,
    },
    /// A phase is over: nothing new begins in it.
    EndPhase {
        /// Phase.
        phase: u32,
        /// Drop what is under way.
        abort: bool,
    },
    /// Iterations for a load thread.
    Block(pb::IterationBlock),
    /// It is a user's turn.
    Turn(pb::Turn),
    /// Start no new iteration.
    Drain,
    /// Drop what is under way.
    Abort,
    /// End the load threads and forget the run.
    Forget,
    /// The coordinator refuses this worker.
    Rejected(String),
}

/// A phase to begin; times on this machine's clock.
#[derive(Clone, Debug)]
pub struct Begin {
    /// Phase.
    pub phase: u32,
    /// Phase zero; `None`: its users are prepared, and it comes later.
    pub zero: Option<Moment>,
    /// Origin of run time.
    pub run_zero: Moment,
    /// Who owns which slot.
    pub cycle: Arc<Cycle>,
    /// This worker's place among the owners.
    pub owner: Option<u32>,
    /// Set where one worker carries the phase out alone; whether it is this one.
    pub alone: Option<bool>,
    /// What `setup` yielded, as JSON.
    pub setup_json: Arc<str>,
    /// Setup has failed.
    pub after_failure: bool,
}

/// See the module.
#[derive(Debug)]
pub struct SessionCore {
    worker: String,
    incarnation: u64,
    threads: u32,
    lease: Arc<Lease>,
    timing: Timing,
    clock: ClockEstimate,
    beats: u64,
    next_beat: Moment,
    run: Option<Run>,
}

/// What the coordinator's welcome sets.
#[derive(Clone, Copy, Debug)]
struct Timing {
    lease: Duration,
    beat: Duration,
}

/// One run on this worker.
#[derive(Debug)]
struct Run {
    id: String,
    stage: Stage,
    prepared: Option<pb::Epoch>,
    committed: Option<Committed>,
    /// 1 + the phase that the load threads were told to begin last.
    begun: u32,
    /// 1 + the phase whose prepared users wait, and the threads that are there.
    ready: u32,
    ready_threads: BTreeSet<u32>,
    /// 1 + the phase whose zero is known.
    started: u32,
    /// 1 + the phase whose users have ended.
    ended: u32,
    /// How far each thread has reported in the current phase; for ever, once it has ended it.
    reported: BTreeMap<u32, Duration>,
    draining: bool,
    next_seal: Option<Moment>,
    end_run: bool,
    /// Origin of run time on this machine's clock, once it is known.
    run_zero: Option<Moment>,
    setup_json: String,
    setup_failed: String,
    /// Blocks that threads want: by (phase, load, thread).
    wanted: BTreeMap<(u32, u32, u32), u64>,
    /// Turns given and ended: by (phase, load).
    turns: BTreeMap<(u32, u32), (u64, u64)>,
    zeros: Vec<pb::PhaseZero>,
    users: u32,
    gathered: BTreeMap<Duration, Gathered>,
    outbox: Outbox,
}

#[derive(Debug)]
enum Stage {
    Fetching {
        prepare: Box<pb::Prepare>,
        tables: BTreeMap<String, Vec<u8>>,
        missing: Vec<String>,
        partial: Vec<u8>,
    },
    Compiling,
    Armed,
    Refused(String),
}

#[derive(Debug)]
struct Committed {
    number: u32,
    cycle: Arc<Cycle>,
    owner: Option<u32>,
}

/// What the threads reported of one interval.
#[derive(Debug, Default)]
struct Gathered {
    from: Duration,
    phase: u32,
    measures: Measures,
    users: u32,
}

impl SessionCore {
    /// A worker that knows nobody yet.
    #[must_use]
    pub fn new(worker: String, incarnation: u64, threads: u32, lease: Arc<Lease>) -> Self {
        Self {
            worker,
            incarnation,
            threads,
            lease,
            timing: Timing { lease: Duration::from_secs(5), beat: Duration::from_millis(500) },
            clock: ClockEstimate::default(),
            beats: 0,
            next_beat: Moment::ZERO,
            run: None,
        }
    }

    /// When [`Event::Tick`] should come, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        let seal = self.run.as_ref().and_then(|run| run.next_seal).unwrap_or(Moment::from_nanos(u64::MAX));
        self.next_beat.min(seal)
    }

    /// Whether a run is under way here.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.run.is_some()
    }

    /// Snapshots that are not acknowledged.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.outbox.backlog())
    }

    /// Takes note of what happened at `now` and says what to do.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Connected => {
                self.beats = 0;
                self.next_beat = now;
                if let Some(run) = &mut self.run {
                    run.outbox.resend_all();
                }
            }
            Event::Said(order) => self.obey(now, order, &mut out),
            Event::Armed => self.changed(now, |run| {
                if matches!(run.stage, Stage::Compiling) {
                    run.stage = Stage::Armed;
                }
            }),
            Event::Refused(reason) => self.changed(now, |run| run.stage = Stage::Refused(reason)),
            Event::Measured { thread, phase, from, to, measures, users } => {
                let threads = self.threads;
                if let Some(run) = &mut self.run {
                    let fresh = || Gathered { from, phase, ..Gathered::default() };
                    let gathered = run.gathered.entry(to).or_insert_with(fresh);
                    gathered.from = gathered.from.min(from);
                    gathered.measures.merge(&measures);
                    gathered.users += users;
                    run.reported.insert(thread, to);
                    run.flush(threads);
                }
            }
            Event::Zero { phase, seen_minus_zero_ns } => {
                self.changed(now, |run| run.saw_zero(phase, seen_minus_zero_ns))
            }
            Event::Ready { thread, phase } => {
                let threads = self.threads;
                self.changed(now, |run| run.thread_ready(threads, thread, phase));
            }
            Event::Yielded { json, failed } => {
                self.changed(now, |run| (run.setup_json, run.setup_failed) = (json, failed));
            }
            Event::Wanted { thread, phase, load, number } => self.changed(now, |run| {
                run.wanted.insert((phase, load, thread), number);
            }),
            Event::TurnEnded { phase, load, user } => self.changed(now, |run| {
                let turn = run.turns.entry((phase, load)).or_default();
                turn.1 = turn.1.max(user);
            }),
            Event::PhaseEnded { thread, phase } => {
                let threads = self.threads;
                self.changed(now, |run| run.thread_ended(threads, thread, phase));
            }
            Event::EndRun => self.changed(now, |run| run.end_run = true),
            Event::Tick => {}
        }
        self.settle(now, &mut out);
        out
    }

    /// Changes the run, if there is one, and lets the coordinator know at once.
    fn changed(&mut self, now: Moment, change: impl FnOnce(&mut Run)) {
        if let Some(run) = &mut self.run {
            change(run);
            self.next_beat = now;
        }
    }

    fn obey(&mut self, now: Moment, order: Order, out: &mut Vec<Effect>) {
        match order {
            Order::Welcome(welcome) => self.welcomed(&welcome, out),
            Order::Reject(reject) => out.push(Effect::Rejected(reject.reason)),
            Order::Echo(echo) => self.echoed(now, &echo),
            Order::Prepare(prepare) => self.prepare(now, prepare, out),
            Order::Data(chunk) => self.data(now, &chunk, out),
            Order::Ack(ack) => {
                if let Some(run) = self.run_named(&ack.run) {
                    run.outbox.acknowledged(ack.seq);
                }
            }
            Order::Epoch(epoch) => {
                if let Some(run) = self.run_named(&epoch.run) {
                    run.prepare_epoch(epoch);
                    self.next_beat = now;
                }
            }
            Order::Commit(commit) => {
                let (worker, incarnation) = (self.worker.clone(), self.incarnation);
                if let Some(run) = self.run_named(&commit.run) {
                    run.commit_epoch(commit.number, &worker, incarnation);
                    self.next_beat = now;
                }
            }
            Order::Start(start) => self.start(now, &start, out),
            Order::EndPhase(end) => self.end_phase(now, &end, out),
            Order::Turn(turn) => {
                if let Some(run) = self.run_named(&turn.run) {
                    let given = run.turns.entry((turn.phase, turn.load)).or_default();
                    given.0 = given.0.max(turn.user);
                    out.push(Effect::Turn(turn));
                }
            }
            Order::Block(block) => {
                if let Some(run) = self.run_named(&block.run) {
                    let key = (block.phase, block.load, block.thread);
                    // Wanted until the thread asks for its next one: a thread takes each block once, and waits for one
                    // that it did not get.
                    if run.wanted.get(&key) == Some(&block.number) {
                        out.push(Effect::Block(block));
                    }
                }
            }
            Order::Drain(drain) => self.drain(now, &drain.run, false, out),
            Order::Abort(abort) => self.drain(now, &abort.run, true, out),
            Order::Release(release) => {
                if self.run_named(&release.run).is_some() {
                    self.run = None;
                    self.next_beat = now;
                    out.push(Effect::Forget);
                }
            }
        }
    }

    fn run_named(&mut self, id: &str) -> Option<&mut Run> {
        self.run.as_mut().filter(|run| run.id == id)
    }

    fn welcomed(&mut self, welcome: &pb::Welcome, out: &mut Vec<Effect>) {
        self.timing = Timing {
            lease: Duration::from_nanos(welcome.lease_ns),
            beat: Duration::from_nanos(welcome.beat_interval_ns.max(1_000_000)),
        };
        match &mut self.run {
            Some(run) if run.id == welcome.run => run.outbox.acknowledged(welcome.committed_seq),
            Some(_) => {
                // The coordinator knows nothing of this run any more; nobody will ask for its measures.
                self.run = None;
                self.lease.revoke();
                out.push(Effect::Forget);
            }
            None => {}
        }
    }

    fn echoed(&mut self, now: Moment, echo: &pb::BeatEcho) {
        let sent = Moment::from_nanos(echo.sent_ns);
        self.lease.renew(sent + self.timing.lease);
        self.clock.add(Probe {
            sent,
            received: Moment::from_nanos(echo.received_ns),
            echoed: Moment::from_nanos(echo.echoed_ns),
            returned: now,
        });
    }

    fn prepare(&mut self, now: Moment, prepare: pb::Prepare, out: &mut Vec<Effect>) {
        self.next_beat = now;
        match &self.run {
            Some(run) if run.id == prepare.run => return,
            // The coordinator has one live run; an order for another means that the old one is over.
            Some(_) => out.push(Effect::Forget),
            None => {}
        }
        let plan = loadgrid_common::plan::decode(&prepare.plan);
        let stage = match plan {
            _ if loadgrid_common::plan::hash(&prepare.plan) != prepare.plan_hash => {
                Stage::Refused("the plan's hash does not match".to_owned())
            }
            Err(error) => Stage::Refused(error.to_string()),
            Ok(plan) => {
                let tables = plan.sources.into_iter().filter_map(|source| match source.kind {
                    Some(loadgrid_common::plan::source::Kind::TableHash(hash)) => Some(hash),
                    _ => None,
                });
                let missing: BTreeSet<String> = tables.chain(plan.blobs).collect();
                let missing = missing.into_iter().collect();
                Stage::Fetching {
                    prepare: Box::new(prepare.clone()),
                    tables: BTreeMap::new(),
                    missing,
                    partial: Vec::new(),
                }
            }
        };
        self.run = Some(Run {
            outbox: Outbox::new(prepare.run.clone()),
            id: prepare.run,
            stage,
            prepared: None,
            committed: None,
            begun: 0,
            ready: 0,
            ready_threads: BTreeSet::new(),
            started: 0,
            ended: 0,
            reported: BTreeMap::new(),
            draining: false,
            next_seal: None,
            end_run: false,
            run_zero: None,
            setup_json: String::new(),
            setup_failed: String::new(),
            wanted: BTreeMap::new(),
            turns: BTreeMap::new(),
            zeros: Vec::new(),
            users: 0,
            gathered: BTreeMap::new(),
        });
        self.load_if_complete(out);
    }

    fn data(&mut self, now: Moment, chunk: &pb::DataChunk, out: &mut Vec<Effect>) {
        let Some(Run { stage: Stage::Fetching { tables, missing, partial, .. }, .. }) = &mut self.run else {
            return;
        };
        if missing.first() != Some(&chunk.hash) || chunk.offset != partial.len() as u64 {
            return;
        }
        partial.extend_from_slice(&chunk.bytes);
        if partial.len() as u64 >= chunk.total {
            let bytes = std::mem::take(partial);
            tables.insert(missing.remove(0), bytes);
        }
        self.next_beat = now;
        self.load_if_complete(out);
    }

    fn load_if_complete(&mut self, out: &mut Vec<Effect>) {
        let Some(run) = &mut self.run else { return };
        if !matches!(&run.stage, Stage::Fetching { missing, .. } if missing.is_empty()) {
            return;
        }
        if let Stage::Fetching { prepare, tables, .. } = std::mem::replace(&mut run.stage, Stage::Compiling) {
            out.push(Effect::Load { prepare, tables });
        }
    }

    fn start(&mut self, now: Moment, start: &pb::Start, out: &mut Vec<Effect>) {
        let offset = self.clock.offset(now).map_or(0, |offset| offset.nanos);
        let local = |ns| Moment::from_nanos(ns).shifted(-offset);
        let is_performer = start.performer == self.worker;
        self.next_beat = now;
        let Some(run) = self.run_named(&start.run) else { return };
        let known = matches!(&run.committed, Some(committed) if committed.number == start.epoch);
        if !known || run.draining || run.started > start.phase {
            return;
        }
        let zero = (!start.prepare).then(|| local(start.at_ns));
        if run.begun == start.phase + 1 {
            // Its users are prepared, or being prepared; now its zero is known.
            if let Some(zero) = zero {
                run.started = run.begun;
                out.push(Effect::Zero { phase: start.phase, zero });
            }
            return;
        }
        if run.begun != run.ended || run.begun > start.phase {
            return;
        }
        let run_zero = *run.run_zero.get_or_insert(local(start.run_zero_ns));
        let Some((cycle, owner)) = run.shares() else { return };
        run.begin(start.phase, zero.is_some());
        out.push(Effect::Begin(Begin {
            phase: start.phase,
            zero,
            run_zero,
            cycle,
            owner,
            alone: (!start.performer.is_empty()).then_some(is_performer),
            setup_json: start.setup_json.as_str().into(),
            after_failure: start.after_failure,
        }));
    }

    fn end_phase(&mut self, now: Moment, end: &pb::EndPhase, out: &mut Vec<Effect>) {
        self.next_beat = now;
        let Some(run) = self.run_named(&end.run).filter(|run| run.ended <= end.phase) else { return };
        if run.begun <= end.phase && run.begun == run.ended {
            // It never began here. Users that wait for it leave all the same, and that is measured as part of it.
            let (Some(run_zero), Some((cycle, owner))) = (run.run_zero, run.shares()) else {
                run.skip(end.phase);
                return;
            };
            run.begin(end.phase, true);
            let (setup_json, after_failure) = (Arc::from(""), false);
            let (phase, zero, alone) = (end.phase, Some(now), Some(false));
            out.push(Effect::Begin(Begin {
                phase,
                zero,
                run_zero,
                cycle,
                owner,
                alone,
                setup_json,
                after_failure,
            }));
        }
        out.push(Effect::EndPhase { phase: end.phase, abort: end.abort });
    }

    fn drain(&mut self, now: Moment, id: &str, abort: bool, out: &mut Vec<Effect>) {
        let Some(run) = self.run_named(id) else { return };
        let first = !std::mem::replace(&mut run.draining, true);
        if abort {
            out.push(Effect::Abort);
        } else if first {
            out.push(Effect::Drain);
        }
        self.next_beat = now;
    }

    /// What follows from the state alone.
    fn settle(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if let Some(run) = &mut self.run {
            out.extend(
                run.outbox
                    .due(now)
                    .into_iter()
                    .map(|snapshot| Effect::Say(Box::new(Word::Snapshot(snapshot)))),
            );
            let quiet = run.begun == run.ended && run.gathered.is_empty() && run.outbox.is_empty();
            if run.draining && quiet && run.next_seal.is_none_or(|at| now >= at) {
                run.next_seal = Some(now + SEAL_INTERVAL);
                out.push(Effect::Say(Box::new(Word::Seal(run.outbox.seal()))));
            }
        }
        if now >= self.next_beat {
            self.beats += 1;
            let interval = if self.beats < FIRST_BEATS { FIRST_BEAT_INTERVAL } else { self.timing.beat };
            self.next_beat = now + interval;
            let beat =
                pb::Beat { seq: self.beats, sent_ns: now.as_nanos(), progress: Some(self.progress(now)) };
            out.push(Effect::Say(Box::new(Word::Beat(beat))));
        }
    }

    fn progress(&self, now: Moment) -> pb::Progress {
        let offset = self.clock.offset(now);
        let mut progress = pb::Progress {
            clock_offset_ns: offset.map_or(0, |offset| offset.nanos),
            clock_uncertainty_ns: offset.map_or(u64::MAX, |offset| nanos(offset.uncertainty)),
            ..Default::default()
        };
        let Some(run) = &self.run else { return progress };
        progress.run.clone_from(&run.id);
        match &run.stage {
            Stage::Fetching { missing, partial, .. } => {
                progress.missing_data = missing.first().cloned().unwrap_or_default();
                progress.missing_offset = partial.len() as u64;
            }
            Stage::Compiling => {}
            Stage::Armed => progress.armed = true,
            Stage::Refused(reason) => progress.refused.clone_from(reason),
        }
        progress.prepared_epoch = run.prepared.as_ref().map_or(0, |epoch| epoch.number);
        progress.committed_epoch = run.committed.as_ref().map_or(0, |committed| committed.number);
        progress.started = run.started;
        progress.ended = run.ended;
        progress.zeros.clone_from(&run.zeros);
        progress.draining = run.draining;
        progress.sealed = run.next_seal.is_some();
        progress.users = run.users;
        progress.end_run = run.end_run;
        progress.ready = run.ready;
        progress.setup_json.clone_from(&run.setup_json);
        progress.setup_failed.clone_from(&run.setup_failed);
        progress.wanted = run
            .wanted
            .iter()
            .map(|(&(phase, load, thread), &number)| pb::BlockWanted { phase, load, thread, number })
            .collect();
        progress.turns = run
            .turns
            .iter()
            .map(|(&(phase, load), &(given, ended))| pb::TurnProgress { phase, load, given, ended })
            .collect();
        progress
    }
}

impl Run {
    fn prepare_epoch(&mut self, epoch: pb::Epoch) {
        let newer = self.prepared.as_ref().is_none_or(|prepared| epoch.number > prepared.number);
        if newer && matches!(self.stage, Stage::Armed) {
            self.prepared = Some(epoch);
        }
    }

    fn commit_epoch(&mut self, number: u32, worker: &str, incarnation: u64) {
        let Some(epoch) = self.prepared.as_ref().filter(|epoch| epoch.number == number) else { return };
        if self.committed.as_ref().is_some_and(|committed| committed.number >= number) {
            return;
        }
        let weights: Vec<u32> = epoch.shares.iter().map(|share| share.weight).collect();
        match Cycle::deal(&weights) {
            Ok(cycle) => {
                let owner = epoch
                    .shares
                    .iter()
                    .position(|share| share.worker == worker && share.incarnation == incarnation);
                let owner = owner.and_then(|place| u32::try_from(place).ok());
                self.committed = Some(Committed { number, cycle: Arc::new(cycle), owner });
            }
            Err(error) => self.stage = Stage::Refused(format!("epoch {number} cannot be used: {error}")),
        }
    }

    /// Who owns which slot, and this worker's place.
    fn shares(&self) -> Option<(Arc<Cycle>, Option<u32>)> {
        self.committed.as_ref().map(|committed| (committed.cycle.clone(), committed.owner))
    }

    /// The load threads are told to begin a phase.
    fn begin(&mut self, phase: u32, zero_is_known: bool) {
        self.begun = phase + 1;
        if zero_is_known {
            self.started = self.begun;
        }
        self.reported.clear();
        self.ready_threads.clear();
        self.wanted.clear();
        self.turns.clear();
    }

    /// A phase is over before it began.
    fn skip(&mut self, phase: u32) {
        (self.begun, self.ready, self.started, self.ended) = (phase + 1, phase + 1, phase + 1, phase + 1);
    }

    fn thread_ready(&mut self, threads: u32, thread: u32, phase: u32) {
        if phase + 1 == self.begun {
            self.ready_threads.insert(thread);
            if self.ready_threads.len() >= threads as usize {
                self.ready = self.begun;
            }
        }
    }

    fn saw_zero(&mut self, phase: u32, seen_minus_at_ns: i64) {
        // The thread that saw it worst speaks for the worker.
        match self.zeros.iter_mut().find(|zero| zero.phase == phase) {
            Some(zero) if seen_minus_at_ns.unsigned_abs() > zero.seen_minus_at_ns.unsigned_abs() => {
                zero.seen_minus_at_ns = seen_minus_at_ns;
            }
            Some(_) => {}
            None => self.zeros.push(pb::PhaseZero { phase, seen_minus_at_ns }),
        }
    }

    /// Lets go of the intervals that every thread has reported.
    fn flush(&mut self, threads: u32) {
        let all = self.reported.len() >= threads as usize;
        let horizon = self.reported.values().min().copied().filter(|_| all).unwrap_or_default();
        while self.gathered.first_key_value().is_some_and(|(to, _)| *to <= horizon) {
            self.flush_first();
        }
    }

    fn flush_first(&mut self) {
        let epoch = self.committed.as_ref().map_or(0, |committed| committed.number);
        if let Some((to, gathered)) = self.gathered.pop_first() {
            let Gathered { from, phase, measures, users, .. } = gathered;
            self.users = users;
            self.outbox.push(Interval { epoch, phase, from, to, measures, users });
        }
    }

    fn thread_ended(&mut self, threads: u32, thread: u32, phase: u32) {
        if phase + 1 != self.begun {
            return;
        }
        self.reported.insert(thread, Duration::MAX);
        self.flush(threads);
        let ended = self.reported.values().filter(|to| **to == Duration::MAX).count();
        if ended >= threads as usize {
            self.users = 0;
            (self.ready, self.started, self.ended) = (self.begun, self.begun, self.begun);
        }
    }
}

//! One run's measures, merged. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::plan::Plan;
use loadgrid_common::stats::{Fingerprint, Measures};
use loadgrid_common::wire::{SnapshotError, measures_from_wire, measures_to_wire, pb};

use super::{Sequence, Windows};

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It was counted.
    Fresh,
    /// It was counted before.
    Duplicate,
}

/// One worker's part of the truth.
#[derive(Clone, Debug)]
pub struct WorkerTotals {
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Snapshots that were counted.
    pub sequence: Sequence,
    /// Sum over what was counted.
    pub fingerprint: Fingerprint,
    /// By phase: iterations begun and ended, exchanges sent and ended.
    pub phases: BTreeMap<u32, pb::PhaseTotals>,
    /// Its last word, once it is here.
    pub seal: Option<pb::Seal>,
    /// How far in run time it has reported.
    pub reported: Duration,
    /// Iterations begun, ended, dropped and given up, by (phase, load).
    pub loads: BTreeMap<(u32, u32), LoadTotals>,
}

/// A worker's counts for one load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTotals {
    /// Iterations begun.
    pub started: u64,
    /// Iterations ended.
    pub ended: u64,
    /// Arrivals dropped.
    pub dropped: u64,
    /// Arrivals given up.
    pub never_started: u64,
}

impl WorkerTotals {
    /// Whether the worker's last word is here and says what was counted.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.seal.is_some() && self.mismatch().is_none()
    }

    /// Where its last word and what was counted differ.
    #[must_use]
    pub fn mismatch(&self) -> Option<String> {
        let seal = self.seal.as_ref()?;
        if self.sequence.contiguous() != seal.last_seq {
            return Some(format!("it sent {} snapshots, {} were counted", seal.last_seq, self.sequence.contiguous()));
        }
        if Fingerprint::from_bytes(&seal.fingerprint) != Some(self.fingerprint) {
            return Some("the fingerprints of its histograms differ".to_owned());
        }
        let same = seal.phases.iter().all(|phase| self.phases.get(&phase.phase).copied().unwrap_or_default() == *phase);
        (!same).then(|| "its totals differ from the sum of its snapshots".to_owned())
    }

    /// Exchanges sent, and iterations begun.
    #[must_use]
    pub fn sent_and_started(&self) -> (u64, u64) {
        self.phases.values().fold((0, 0), |(sent, started), phase| {
            (sent + phase.exchanges_sent, started + phase.iterations_started)
        })
    }
}

/// What a commit to the store holds: measures folded over workers, and who is counted up to where.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    /// By phase.
    pub measures: BTreeMap<u32, Measures>,
    /// (worker, incarnation, sequence number up to which everything is in).
    pub committed: Vec<(WorkerId, Incarnation, u64)>,
}

impl Fold {
    /// The measures as messages, for the store.
    #[must_use]
    pub fn deltas(&self) -> Vec<(u32, pb::Delta)> {
        self.measures
            .iter()
            .map(|(&phase, measures)| (phase, measures_to_wire(measures, phase, &mut Fingerprint::default())))
            .collect()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Ingest {
    limits: Limits,
    workers: BTreeMap<WorkerId, WorkerTotals>,
    totals: BTreeMap<u32, Measures>,
    windows: Windows,
    fold: BTreeMap<u32, Measures>,
    /// Workers with something that is not committed yet.
    touched: std::collections::BTreeSet<WorkerId>,
}

/// How many of each kind the plan has; an index at or above is refused.
#[derive(Clone, Copy, Debug)]
struct Limits {
    phases: u32,
    steps: u32,
    loads: u32,
    counters: u32,
    actions: u32,
    checks: u32,
}

fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

impl Ingest {
    /// For a run of this plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let limits = Limits {
            phases: length(&plan.phases),
            steps: length(&plan.steps),
            loads: plan.phases.iter().map(|phase| length(&phase.loads)).max().unwrap_or(0),
            counters: length(&plan.counters),
            actions: length(&plan.actions),
            checks: length(&plan.checks),
        };
        let interval = Duration::from_nanos(plan.grid.map_or(1_000_000_000, |grid| grid.snapshot_ns));
        Self {
            limits,
            workers: BTreeMap::new(),
            totals: BTreeMap::new(),
            windows: Windows::new(interval),
            fold: BTreeMap::new(),
            touched: std::collections::BTreeSet::new(),
        }
    }

    /// Counts a snapshot, once.
    ///
    /// # Errors
    /// Where it cannot be read; then nothing of it is counted.
    pub fn snapshot(&mut self, worker: &WorkerId, incarnation: Incarnation, snapshot: &pb::Snapshot) -> Result<Accepted, SnapshotError> {
        let number = u32::try_from(self.workers.keys().position(|known| known == worker).unwrap_or(self.workers.len())).unwrap_or(u32::MAX);
        let known = self.worker(worker, incarnation);
        if snapshot.seq == 0 {
            return Err(SnapshotError::Missing("sequence number"));
        }
        let mut sequence = known.sequence.clone();
        if !sequence.insert(snapshot.seq) {
            // It comes again because it was not acknowledged: the next commit does that.
            self.touched.insert(worker.clone());
            return Ok(Accepted::Duplicate);
        }
        let delta = snapshot.delta.as_ref().ok_or(SnapshotError::Missing("measures"))?;
        self.limits.check(snapshot.phase, delta)?;
        let mut fingerprint = Fingerprint::default();
        let measures = measures_from_wire(delta, snapshot.phase, &mut fingerprint)?;
        let (from, to) = (Duration::from_micros(snapshot.start_us), Duration::from_micros(snapshot.end_us));

        let known = self.worker(worker, incarnation);
        known.sequence = sequence;
        known.fingerprint.merge(fingerprint);
        known.reported = known.reported.max(to);
        known.add(snapshot.phase, &measures);
        self.windows.add(number, snapshot.phase, from, to, snapshot.users.into(), &measures);
        self.totals.entry(snapshot.phase).or_default().merge(&measures);
        self.fold.entry(snapshot.phase).or_default().merge(&measures);
        self.touched.insert(worker.clone());
        Ok(Accepted::Fresh)
    }

    /// Takes a worker's last word.
    pub fn seal(&mut self, worker: &WorkerId, incarnation: Incarnation, seal: pb::Seal) {
        self.worker(worker, incarnation).seal = Some(seal);
        self.touched.insert(worker.clone());
    }

    /// A worker belongs to the run, whether it ever reports or not.
    pub fn joined(&mut self, worker: &WorkerId, incarnation: Incarnation) {
        self.worker(worker, incarnation);
    }

    /// A worker will not report any more, as far as live views are concerned.
    pub fn lost(&mut self, worker: &WorkerId) {
        if let Some(number) = self.workers.keys().position(|known| known == worker) {
            self.windows.gone(u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    fn worker(&mut self, worker: &WorkerId, incarnation: Incarnation) -> &mut WorkerTotals {
        self.workers.entry(worker.clone()).or_insert_with(|| WorkerTotals {
            incarnation,
            sequence: Sequence::default(),
            fingerprint: Fingerprint::default(),
            phases: BTreeMap::new(),
            seal: None,
            reported: Duration::ZERO,
            loads: BTreeMap::new(),
        })
    }

    /// What was counted since the last call, for the store.
    pub fn take_fold(&mut self) -> Fold {
        let committed = std::mem::take(&mut self.touched).into_iter().filter_map(|id| {
            let worker = self.workers.get(&id)?;
            Some((id, worker.incarnation, worker.sequence.contiguous()))
        });
        Fold { committed: committed.collect(), measures: std::mem::take(&mut self.fold) }
    }

    /// Whether there is something to commit.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Totals by phase.
    #[must_use]
    pub const fn totals(&self) -> &BTreeMap<u32, Measures> {
        &self.totals
    }

    /// The run over time.
    #[must_use]
    pub const fn windows(&self) -> &Windows {
        &self.windows
    }

    /// All workers that belong to the run.
    #[must_use]
    pub const fn workers(&self) -> &BTreeMap<WorkerId, WorkerTotals> {
        &self.workers
    }
}

impl WorkerTotals {
    fn add(&mut self, phase: u32, measures: &Measures) {
        let totals = self.phases.entry(phase).or_insert_with(|| pb::PhaseTotals { phase, ..Default::default() });
        for (&load, stats) in &measures.loads {
            totals.iterations_started += stats.started;
            totals.iterations_ended += stats.ended();
            let own = self.loads.entry((phase, load)).or_default();
            own.started += stats.started;
            own.ended += stats.ended();
            own.dropped += stats.dropped;
            own.never_started += stats.never_started;
        }
        for step in measures.steps.values() {
            totals.exchanges_sent += step.sent;
            totals.exchanges_ended += step.ended();
        }
    }
}

impl Limits {
    fn check(&self, phase: u32, delta: &pb::Delta) -> Result<(), SnapshotError> {
        let within = |what, index, limit| if index < limit { Ok(()) } else { Err(SnapshotError::Unknown { what, index }) };
        within("phase", phase, self.phases)?;
        delta.steps.iter().try_for_each(|step| within("step", step.step, self.steps))?;
        delta.loads.iter().try_for_each(|load| within("load", load.load, self.loads))?;
        delta.counters.iter().try_for_each(|counter| within("counter", counter.counter, self.counters))?;
        delta.actions.iter().try_for_each(|action| within("action", action.action, self.actions))?;
        delta.checks.iter().try_for_each(|check| within("check", check.check, self.checks))
    }
}

//! One run's measures, merged. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::plan::Plan;
use loadgrid_common::stats::{Fingerprint, Measures};
use loadgrid_common::wire::{SnapshotError, measures_from_wire, measures_to_wire, pb};

use super::windows::Window;
use super::{Place, Sequence, Windows};

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It was counted.
    Fresh,
    /// It was counted before.
    Duplicate,
    /// It waits for those before it, or was dropped to come again.
    Held,
}

/// Snapshots of one worker that may wait for those before them. A worker has at most 32 under way.
const MOST_HELD: usize = 64;

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
    /// Whether somebody waits for its reports.
    waits: Waits,
    /// Iterations begun, ended, dropped and given up, by (phase, load).
    pub loads: BTreeMap<(u32, u32), LoadTotals>,
    /// Snapshots that came before their turn.
    held: BTreeMap<u64, pb::Snapshot>,
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

/// Whether more reports of a worker are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// It reports every interval.
    Now,
    /// It has ended its part of the phase.
    NextPhase,
    /// It is lost. Should it come back, it is heard, and nobody waits for it.
    Never,
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
        if self.sequence.counted() != seal.last_seq {
            return Some(format!(
                "it sent {} snapshots, {} were counted",
                seal.last_seq,
                self.sequence.counted()
            ));
        }
        if Fingerprint::from_bytes(&seal.fingerprint) != Some(self.fingerprint) {
            return Some("the fingerprints of its histograms differ".to_owned());
        }
        let same = seal
            .phases
            .iter()
            .all(|phase| self.phases.get(&phase.phase).copied().unwrap_or_default() == *phase);
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
    /// Adds another fold.
    pub fn merge(&mut self, other: Self) {
        for (phase, measures) in other.measures {
            self.measures.entry(phase).or_default().merge(&measures);
        }
        self.committed.extend(other.committed);
    }

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
    /// Measures of single intervals, by number and phase; kept only for thresholds that are watched.
    intervals: Option<BTreeMap<u64, BTreeMap<u32, Measures>>>,
    /// Behind the last one that was taken.
    next_interval: u64,
    /// What came when its interval was taken.
    late: BTreeMap<u32, Measures>,
    /// The phase that began last.
    phase: u32,
    interval: Duration,
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
    groups: u32,
    observed: u32,
    users: u32,
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
            groups: length(&plan.groups),
            observed: length(&plan.observed),
            users: length(&plan.users),
        };
        let interval = Duration::from_nanos(plan.grid.map_or(1_000_000_000, |grid| grid.snapshot_ns));
        Self {
            limits,
            workers: BTreeMap::new(),
            totals: BTreeMap::new(),
            windows: Windows::new(interval),
            fold: BTreeMap::new(),
            intervals: None,
            next_interval: 0,
            late: BTreeMap::new(),
            phase: 0,
            interval: interval.max(Duration::from_millis(1)),
            touched: std::collections::BTreeSet::new(),
        }
    }

    /// From here on, measures of single intervals are kept for [`Self::take_interval`].
    pub fn keep_intervals(&mut self) {
        self.intervals.get_or_insert_default();
    }

    /// The next interval that every worker has reported whole, with its measures by phase; with `last`, whatever is left.
    pub fn take_interval(&mut self, last: bool) -> Option<((Duration, Duration), BTreeMap<u32, Measures>)> {
        let horizon = if last { Duration::MAX } else { self.horizon()? };
        let (&number, _) = self.intervals.as_ref()?.first_key_value()?;
        let from = self.interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let span = (from, from + self.interval);
        if span.1 > horizon {
            return None;
        }
        let measures = self.intervals.as_mut()?.remove(&number)?;
        self.next_interval = number + 1;
        Some((span, measures))
    }

    /// What has come since the last call for intervals that were taken before, by phase.
    pub fn take_late(&mut self) -> BTreeMap<u32, Measures> {
        std::mem::take(&mut self.late)
    }

    /// Counts a snapshot, once, and in the order of its worker.
    ///
    /// # Errors
    /// Where it cannot be read; then nothing of it is counted.
    pub fn snapshot(
        &mut self,
        worker: &WorkerId,
        incarnation: Incarnation,
        snapshot: &pb::Snapshot,
    ) -> Result<Accepted, SnapshotError> {
        if snapshot.seq == 0 {
            return Err(SnapshotError::Missing("sequence number"));
        }
        let known = self.worker(worker, incarnation);
        match known.sequence.place(snapshot.seq) {
            Place::Counted => {
                // It comes again because it was not acknowledged: the next commit does that.
                self.touched.insert(worker.clone());
                return Ok(Accepted::Duplicate);
            }
            Place::Ahead => {
                // Where there is no room it comes again, like everything that is not acknowledged.
                if known.held.len() < MOST_HELD {
                    known.held.insert(snapshot.seq, snapshot.clone());
                }
                return Ok(Accepted::Held);
            }
            Place::Next => self.count(worker, incarnation, snapshot)?,
        }
        while let Some(next) = self.next_held(worker) {
            self.count(worker, incarnation, &next)?;
        }
        Ok(Accepted::Fresh)
    }

    fn next_held(&mut self, worker: &WorkerId) -> Option<pb::Snapshot> {
        let known = self.workers.get_mut(worker)?;
        let first = known.held.first_entry()?;
        (known.sequence.place(*first.key()) == Place::Next).then(|| first.remove())
    }

    fn count(
        &mut self,
        worker: &WorkerId,
        incarnation: Incarnation,
        snapshot: &pb::Snapshot,
    ) -> Result<(), SnapshotError> {
        let delta = snapshot.delta.as_ref().ok_or(SnapshotError::Missing("measures"))?;
        self.limits.check(snapshot.phase, delta)?;
        let mut fingerprint = Fingerprint::default();
        let measures = measures_from_wire(delta, snapshot.phase, &mut fingerprint)?;
        let (from, to) = (Duration::from_micros(snapshot.start_us), Duration::from_micros(snapshot.end_us));
        let known = self.worker(worker, incarnation);
        known.sequence.advance();
        known.fingerprint.merge(fingerprint);
        known.reported = known.reported.max(to);
        known.add(snapshot.phase, &measures);
        let number =
            self.workers.keys().position(|known| known == worker).and_then(|place| u32::try_from(place).ok());
        self.windows.add(
            number.unwrap_or(u32::MAX),
            snapshot.phase,
            from,
            to,
            snapshot.users.into(),
            &measures,
        );
        if let Some(intervals) = &mut self.intervals {
            let middle = from + to.saturating_sub(from) / 2;
            let number = u64::try_from(middle.as_nanos() / self.interval.as_nanos()).unwrap_or(u64::MAX);
            let place = match number < self.next_interval {
                true => &mut self.late,
                false => intervals.entry(number).or_default(),
            };
            place.entry(snapshot.phase).or_default().merge(&measures);
        }
        self.totals.entry(snapshot.phase).or_default().merge(&measures);
        self.fold.entry(snapshot.phase).or_default().merge(&measures);
        self.touched.insert(worker.clone());
        Ok(())
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

    /// Nobody waits for this worker's reports any more.
    pub fn lost(&mut self, worker: &WorkerId) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.waits = Waits::Never;
        }
    }

    /// A phase is carried out, or prepared: every worker will report it.
    pub fn phase_begins(&mut self, phase: u32) {
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        for known in self.workers.values_mut().filter(|known| known.waits == Waits::NextPhase) {
            known.waits = Waits::Now;
        }
    }

    /// A worker has ended its phases below `ended`: it reports nothing until the next one.
    pub fn has_ended(&mut self, worker: &WorkerId, ended: u32) {
        let phase = self.phase;
        if let Some(known) = self.workers.get_mut(worker).filter(|known| known.waits == Waits::Now)
            && ended > phase
        {
            known.waits = Waits::NextPhase;
        }
    }

    /// Up to where everybody has reported who does; `None` before everybody has begun to.
    fn horizon(&self) -> Option<Duration> {
        let of = |waits| {
            self.workers.values().filter(move |known| known.waits == waits).map(|known| known.reported)
        };
        // Between two phases the newest interval is not over: the next phase may begin in it.
        let horizon = of(Waits::Now).min().or_else(|| of(Waits::NextPhase).max())?;
        (!horizon.is_zero()).then_some(horizon)
    }

    /// The newest window that everybody has reported whole.
    #[must_use]
    pub fn newest_window(&self) -> Option<&Window> {
        self.windows.newest_until(self.horizon()?)
    }

    fn worker(&mut self, worker: &WorkerId, incarnation: Incarnation) -> &mut WorkerTotals {
        self.workers.entry(worker.clone()).or_insert_with(|| WorkerTotals {
            incarnation,
            sequence: Sequence::default(),
            fingerprint: Fingerprint::default(),
            phases: BTreeMap::new(),
            seal: None,
            reported: Duration::ZERO,
            waits: Waits::Now,
            loads: BTreeMap::new(),
            held: BTreeMap::new(),
        })
    }

    /// What was counted since the last call, for the store.
    pub fn take_fold(&mut self) -> Fold {
        let committed = std::mem::take(&mut self.touched).into_iter().filter_map(|id| {
            let worker = self.workers.get(&id)?;
            Some((id, worker.incarnation, worker.sequence.counted()))
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
        let totals =
            self.phases.entry(phase).or_insert_with(|| pb::PhaseTotals { phase, ..Default::default() });
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
        let within = |what, index, limit| {
            if index < limit { Ok(()) } else { Err(SnapshotError::Unknown { what, index }) }
        };
        within("phase", phase, self.phases)?;
        delta.steps.iter().try_for_each(|step| within("step", step.step, self.steps))?;
        delta.loads.iter().try_for_each(|load| within("load", load.load, self.loads))?;
        delta.counters.iter().try_for_each(|counter| within("counter", counter.counter, self.counters))?;
        delta.actions.iter().try_for_each(|action| within("action", action.action, self.actions))?;
        delta.groups.iter().try_for_each(|group| within("group", group.group, self.groups))?;
        delta.observed.iter().try_for_each(|o| within("observed value", o.observed, self.observed))?;
        delta.lives.iter().try_for_each(|lives| within("user type", lives.user, self.users))?;
        let mut of_lives = delta.lives.iter().flat_map(|lives| &lives.counters);
        of_lives.try_for_each(|counter| within("counter", counter.counter, self.counters))?;
        delta.checks.iter().try_for_each(|check| within("check", check.check, self.checks))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> Plan {
        Plan {
            steps: vec!["s".to_owned()],
            phases: vec![loadgrid_common::plan::Phase::default()],
            ..Plan::default()
        }
    }

    fn snapshot(seq: u64) -> pb::Snapshot {
        let mut measures = Measures::default();
        let step = measures.steps.entry(0).or_default();
        (step.sent, step.ok) = (seq, seq);
        (0..seq).for_each(|n| step.response.record(100 * n + seq));
        let delta = measures_to_wire(&measures, 0, &mut Fingerprint::default());
        let (start_us, end_us) = ((seq - 1) * 1_000_000, seq * 1_000_000);
        pb::Snapshot {
            run: "r".to_owned(),
            seq,
            start_us,
            end_us,
            delta: Some(delta),
            ..pb::Snapshot::default()
        }
    }

    #[test]
    fn an_interval_is_complete_when_everybody_has_reported_who_does() {
        let second = Duration::from_secs;
        let [a, b, c] = ["a", "b", "c"].map(WorkerId::from);
        let mut ingest = Ingest::new(&plan());
        ingest.keep_intervals();
        [&a, &b, &c].into_iter().for_each(|worker| ingest.joined(worker, Incarnation(1)));
        ingest.phase_begins(0);
        let report = |ingest: &mut Ingest, worker, seq| {
            ingest.snapshot(worker, Incarnation(1), &snapshot(seq)).map(drop).unwrap();
        };
        let taken = |ingest: &mut Ingest| {
            let (span, by_phase) = ingest.take_interval(false)?;
            Some((span.1, by_phase[&0].steps[&0].sent))
        };
        report(&mut ingest, &a, 1);
        report(&mut ingest, &b, 1);
        assert_eq!(taken(&mut ingest), None, "nobody has heard of c");
        report(&mut ingest, &c, 1);
        assert_eq!(taken(&mut ingest), Some((second(1), 3)));
        // a ends its part, b is lost and comes back with what it had to say: nobody waits for them.
        report(&mut ingest, &c, 2);
        ingest.has_ended(&a, 1);
        assert_eq!(taken(&mut ingest), None);
        ingest.lost(&b);
        assert_eq!(taken(&mut ingest), Some((second(2), 2)));
        report(&mut ingest, &b, 2);
        report(&mut ingest, &c, 3);
        assert_eq!(taken(&mut ingest), Some((second(3), 3)));
        assert_eq!(ingest.take_late()[&0].steps[&0].sent, 2, "late, and not lost");
        assert!(ingest.take_late().is_empty());
        // The next phase is reported by everybody again.
        ingest.phase_begins(1);
        report(&mut ingest, &c, 4);
        assert_eq!(taken(&mut ingest), None);
        ingest.has_ended(&a, 1);
        assert_eq!(taken(&mut ingest), None, "an old word");
        ingest.has_ended(&a, 2);
        assert_eq!(taken(&mut ingest), Some((second(4), 4)));
    }

    proptest! {
        /// Invariant 6: under any interleaving, duplication and delay, what is counted is the beginning of
        /// each worker's sequence that has come whole, each number once.
        #[test]
        fn the_ledger_counts_once(arrivals in prop::collection::vec((0_u64..3, 1_u64..12), 0..120)) {
            let mut ingest = Ingest::new(&plan());
            let mut come = BTreeMap::<u64, std::collections::BTreeSet<u64>>::new();
            for (worker, seq) in arrivals {
                let id = WorkerId::from(format!("w{worker}"));
                ingest.snapshot(&id, Incarnation(worker), &snapshot(seq)).unwrap();
                come.entry(worker).or_default().insert(seq);
            }
            let whole = |seqs: &std::collections::BTreeSet<u64>| (1..).take_while(|seq| seqs.contains(seq)).collect::<Vec<u64>>();
            let expected: u64 = come.values().flat_map(whole).sum();
            let step = ingest.totals().get(&0).and_then(|measures| measures.steps.get(&0));
            prop_assert_eq!(step.map_or(0, |step| step.ok), expected);
            prop_assert_eq!(step.map_or(0, |step| step.response.count), expected);
            for (worker, seqs) in come {
                let totals = &ingest.workers()[&WorkerId::from(format!("w{worker}"))];
                prop_assert_eq!(totals.sequence.counted(), whole(&seqs).last().copied().unwrap_or(0));
            }
        }
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_is_not_counted() {
        let mut ingest = Ingest::new(&plan());
        let mut bad = snapshot(1);
        bad.delta.as_mut().unwrap().steps[0].step = 7;
        assert_eq!(
            ingest.snapshot(&"w".into(), Incarnation(1), &bad),
            Err(SnapshotError::Unknown { what: "step", index: 7 })
        );
        assert_eq!(ingest.snapshot(&"w".into(), Incarnation(1), &snapshot(1)), Ok(Accepted::Fresh));
        assert_eq!(ingest.snapshot(&"w".into(), Incarnation(1), &snapshot(1)), Ok(Accepted::Duplicate));
    }
}

//! Measures on their way out: gathered by interval, numbered, resent until acknowledged.
//!
//! What is not yet numbered merges by addition, so memory is bounded by the number of series and by the
//! window of unacknowledged snapshots, however long the coordinator is away.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use loadgrid_common::stats::{Fingerprint, Measures};
use loadgrid_common::time::{Moment, micros};
use loadgrid_common::wire::{measures_to_wire, pb};

/// Snapshots that may be unacknowledged at once.
const WINDOW: usize = 32;
/// An unacknowledged snapshot is sent again after this long.
const RESEND: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    run: String,
    next_seq: u64,
    held: VecDeque<Held>,
    /// By interval: what is complete, in order, and not numbered.
    waiting: VecDeque<Interval>,
    fingerprint: Fingerprint,
    totals: BTreeMap<u32, pb::PhaseTotals>,
}

#[derive(Debug)]
struct Held {
    snapshot: pb::Snapshot,
    sent: Option<Moment>,
}

/// The measures of a worker in one interval.
#[derive(Debug)]
pub struct Interval {
    /// Epoch under which it was measured.
    pub epoch: u32,
    /// Phase.
    pub phase: u32,
    /// Begin in run time.
    pub from: Duration,
    /// End in run time.
    pub to: Duration,
    /// The counts.
    pub measures: Measures,
    /// Users alive at its end.
    pub users: u32,
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new(run: String) -> Self {
        Self {
            run,
            next_seq: 1,
            held: VecDeque::new(),
            waiting: VecDeque::new(),
            fingerprint: Fingerprint::default(),
            totals: BTreeMap::new(),
        }
    }

    /// Takes an interval that is complete.
    pub fn push(&mut self, interval: Interval) {
        let totals = self
            .totals
            .entry(interval.phase)
            .or_insert_with(|| pb::PhaseTotals { phase: interval.phase, ..Default::default() });
        for load in interval.measures.loads.values() {
            totals.iterations_started += load.started;
            totals.iterations_ended += load.ended();
        }
        for step in interval.measures.steps.values() {
            totals.exchanges_sent += step.sent;
            totals.exchanges_ended += step.ended();
        }
        if self.held.len() >= WINDOW
            && let Some(last) = self.waiting.back_mut()
            && (last.epoch, last.phase) == (interval.epoch, interval.phase)
        {
            last.measures.merge(&interval.measures);
            last.to = interval.to;
            last.users = interval.users;
            return;
        }
        self.waiting.push_back(interval);
    }

    /// The snapshots that should go out now.
    pub fn due(&mut self, now: Moment) -> Vec<pb::Snapshot> {
        while self.held.len() < WINDOW
            && let Some(interval) = self.waiting.pop_front()
        {
            let delta = measures_to_wire(&interval.measures, interval.phase, &mut self.fingerprint);
            let snapshot = pb::Snapshot {
                run: self.run.clone(),
                seq: self.next_seq,
                epoch: interval.epoch,
                phase: interval.phase,
                start_us: micros(interval.from),
                end_us: micros(interval.to),
                delta: Some(delta),
                users: interval.users,
                due: Vec::new(),
            };
            self.next_seq += 1;
            self.held.push_back(Held { snapshot, sent: None });
        }
        let mut due = Vec::new();
        for held in &mut self.held {
            if held.sent.is_none_or(|sent| now.since(sent) >= RESEND) {
                held.sent = Some(now);
                due.push(held.snapshot.clone());
            }
        }
        due
    }

    /// Every snapshot up to `seq` is committed.
    pub fn acknowledged(&mut self, seq: u64) {
        while self.held.front().is_some_and(|held| held.snapshot.seq <= seq) {
            self.held.pop_front();
        }
    }

    /// The line was lost: what is unacknowledged must go out again.
    pub fn resend_all(&mut self) {
        self.held.iter_mut().for_each(|held| held.sent = None);
    }

    /// Whether everything is committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// How many snapshots are not acknowledged.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.held.len() + self.waiting.len()
    }

    /// The last word.
    #[must_use]
    pub fn seal(&self) -> pb::Seal {
        pb::Seal {
            run: self.run.clone(),
            last_seq: self.next_seq - 1,
            fingerprint: self.fingerprint.to_bytes().to_vec().into(),
            phases: self.totals.values().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(second: u64) -> Interval {
        let mut measures = Measures::default();
        let step = measures.steps.entry(0).or_default();
        (step.sent, step.ok) = (1, 1);
        step.response.record(second + 1);
        let (from, to) = (Duration::from_secs(second), Duration::from_secs(second + 1));
        Interval { epoch: 1, phase: 0, from, to, measures, users: 1 }
    }

    #[test]
    fn unacknowledged_snapshots_are_sent_again_and_the_rest_merges() {
        let mut outbox = Outbox::new("r".to_owned());
        let mut now = Moment::from_nanos(1);
        for second in 0..1_000 {
            outbox.push(interval(second));
            let sent: Vec<u64> = outbox.due(now).iter().map(|snapshot| snapshot.seq).collect();
            assert_eq!(sent, if second < WINDOW as u64 { vec![second + 1] } else { vec![] });
        }
        assert_eq!(outbox.backlog(), WINDOW + 1, "memory does not grow while the coordinator is away");
        now = now + RESEND;
        assert_eq!(outbox.due(now).len(), WINDOW);
        outbox.acknowledged(WINDOW as u64);
        let rest = outbox.due(now);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].delta.as_ref().unwrap().steps[0].sent, 1_000 - WINDOW as u64);
        outbox.acknowledged(WINDOW as u64 + 1);
        assert!(outbox.is_empty());
        assert_eq!(
            (outbox.seal().last_seq, outbox.seal().phases[0].exchanges_sent),
            (WINDOW as u64 + 1, 1_000)
        );
    }
}

//! The recorder: what one load thread measured since it was last asked.
//!
//! One per thread, no lock; recording never waits and never fails. What has begun and not ended is held
//! by a guard, so that an exchange or iteration that is dropped in the middle counts as unknown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use loadgrid_common::stats::{
    ActionStats, CheckStats, CounterStats, Distribution, ErrorKind, GroupStats, Layout, LifeStats, LoadStats,
    Measures, StepStats,
};
use loadgrid_common::time::micros;

/// A thread's recorder. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    counts: Rc<RefCell<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By step; grown on touch, so that the hot path indexes instead of searching.
    steps: Vec<Option<Box<StepStats>>>,
    loads: Vec<Option<Box<LoadStats>>>,
    counters: BTreeMap<u32, CounterStats>,
    actions: BTreeMap<u32, ActionStats>,
    checks: Vec<CheckStats>,
    groups: BTreeMap<u32, GroupStats>,
    observed: BTreeMap<u32, Distribution>,
    lives: BTreeMap<u32, LifeStats>,
    scenario_errors: u64,
    scenario_error: Option<String>,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExchangeRecord {
    /// From the intended start to the end.
    pub response: Duration,
    /// From the send to the end.
    pub service: Duration,
    /// Name look-up and TCP, where a connection was opened.
    pub connect: Option<Duration>,
    /// TLS handshake, where there was one.
    pub tls: Option<Duration>,
    /// To the first byte, where one came.
    pub first_byte: Option<Duration>,
    /// Status, where one came.
    pub status: Option<u16>,
    /// Bytes of the request.
    pub bytes_sent: u64,
    /// Bytes of the answer.
    pub bytes_received: u64,
    /// Why it failed, where it did.
    pub error: Option<ErrorKind>,
}

fn slot<T: Default>(list: &mut Vec<Option<Box<T>>>, index: u32) -> &mut T {
    let index = index as usize;
    if list.len() <= index {
        list.resize_with(index + 1, || None);
    }
    list[index].get_or_insert_default()
}

impl Recorder {
    /// An exchange goes out. It counts as unknown unless the guard is told how it ended.
    #[must_use]
    pub fn exchange(&self, step: u32) -> ExchangeGuard {
        slot(&mut self.counts.borrow_mut().steps, step).sent += 1;
        ExchangeGuard { recorder: self.clone(), step, open: true }
    }

    /// An iteration begins, `lateness` after its intended start.
    #[must_use]
    pub fn iteration(&self, load: u32, lateness: Duration) -> IterationGuard {
        let mut counts = self.counts.borrow_mut();
        let stats = slot(&mut counts.loads, load);
        stats.started += 1;
        stats.lateness.record(micros(lateness));
        IterationGuard { recorder: self.clone(), load, open: true }
    }

    /// An arrival found no free user.
    pub fn dropped(&self, load: u32) {
        slot(&mut self.counts.borrow_mut().loads, load).dropped += 1;
    }

    /// Arrivals that will not be started.
    pub fn never_started(&self, load: u32, count: u64) {
        if count > 0 {
            slot(&mut self.counts.borrow_mut().loads, load).never_started += count;
        }
    }

    /// A named branch was carried out.
    pub fn action(&self, action: u32, ok: bool) {
        let mut counts = self.counts.borrow_mut();
        let stats = counts.actions.entry(action).or_default();
        stats.chosen += 1;
        *(if ok { &mut stats.ok } else { &mut stats.failed }) += 1;
    }

    /// A counter of the scenario.
    pub fn count(&self, counter: u32, amount: f64) {
        let mut counts = self.counts.borrow_mut();
        let stats = counts.counters.entry(counter).or_default();
        // Saturates where the amount is beyond what millionths in 64 bits can say.
        stats.sum_millionths = stats.sum_millionths.saturating_add((amount * 1e6).round() as i64);
        stats.count += 1;
    }

    /// A value of `observe`, not negative.
    pub fn observe(&self, observed: u32, value: f64) {
        let mut counts = self.counts.borrow_mut();
        let values = counts.observed.entry(observed);
        values.or_insert_with(|| Distribution::new(Layout::Values)).record((value * 1e3).round() as u64);
    }

    /// An exchange waited for its turn under a cap.
    pub fn cap_wait(&self, step: u32, wait: Duration) {
        slot(&mut self.counts.borrow_mut().steps, step).cap_wait.record(micros(wait));
    }

    /// A failed attempt is repeated.
    pub fn retry(&self, step: u32) {
        slot(&mut self.counts.borrow_mut().steps, step).retries += 1;
    }

    /// A group of steps begins.
    #[must_use]
    pub fn group(&self, group: u32) -> GroupGuard {
        GroupGuard { recorder: self.clone(), group, open: true }
    }

    /// A life begins.
    #[must_use]
    pub fn life(&self, user: u32) -> LifeGuard {
        self.counts.borrow_mut().lives.entry(user).or_default().begun += 1;
        LifeGuard { recorder: self.clone(), user, open: true }
    }

    /// Arrivals for which no user was free.
    pub fn dropped_many(&self, load: u32, count: u64) {
        if count > 0 {
            slot(&mut self.counts.borrow_mut().loads, load).dropped += count;
        }
    }

    /// A check on an answer.
    pub fn check(&self, check: u32, passed: bool) {
        let index = check as usize;
        let mut counts = self.counts.borrow_mut();
        if counts.checks.len() <= index {
            counts.checks.resize(index + 1, CheckStats::default());
        }
        let stats = &mut counts.checks[index];
        *(if passed { &mut stats.passed } else { &mut stats.failed }) += 1;
    }

    /// The scenario itself failed.
    pub fn scenario_error(&self, text: &str) {
        let mut counts = self.counts.borrow_mut();
        counts.scenario_errors += 1;
        counts.scenario_error.get_or_insert_with(|| text.chars().take(300).collect());
    }

    /// Takes all that was recorded since the last time.
    #[must_use]
    pub fn take(&self) -> Measures {
        let counts = std::mem::take(&mut *self.counts.borrow_mut());
        Measures {
            steps: dense(counts.steps),
            loads: dense(counts.loads),
            counters: counts.counters,
            actions: counts.actions,
            groups: counts.groups,
            observed: counts.observed,
            lives: counts.lives,
            checks: (0..).zip(counts.checks).filter(|(_, stats)| *stats != CheckStats::default()).collect(),
            scenario_errors: counts.scenario_errors,
            scenario_error: counts.scenario_error,
        }
    }
}

fn dense<T>(list: Vec<Option<Box<T>>>) -> BTreeMap<u32, T> {
    (0..).zip(list).filter_map(|(index, stats)| Some((index, *stats?))).collect()
}

/// An exchange under way.
#[derive(Debug)]
pub struct ExchangeGuard {
    recorder: Recorder,
    step: u32,
    open: bool,
}

impl ExchangeGuard {
    /// It ended.
    pub fn end(mut self, record: &ExchangeRecord) {
        self.open = false;
        let mut counts = self.recorder.counts.borrow_mut();
        let stats = slot(&mut counts.steps, self.step);
        match record.error {
            None => stats.ok += 1,
            Some(kind) => {
                stats.failed += 1;
                stats.errors.add(kind);
            }
        }
        if let Some(status) = record.status {
            stats.statuses.add(status, 1);
        }
        stats.bytes_sent += record.bytes_sent;
        stats.bytes_received += record.bytes_received;
        stats.response.record(micros(record.response));
        stats.service.record(micros(record.service));
        for (time, distribution) in [
            (record.connect, &mut stats.connect),
            (record.tls, &mut stats.tls),
            (record.first_byte, &mut stats.first_byte),
        ] {
            if let Some(time) = time {
                distribution.record(micros(time));
            }
        }
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        if self.open {
            slot(&mut self.recorder.counts.borrow_mut().steps, self.step).unknown += 1;
        }
    }
}

/// An iteration under way.
#[derive(Debug)]
pub struct IterationGuard {
    recorder: Recorder,
    load: u32,
    open: bool,
}

impl IterationGuard {
    /// It ended, after so long.
    pub fn end(mut self, ok: bool, duration: Duration) {
        self.open = false;
        let mut counts = self.recorder.counts.borrow_mut();
        let stats = slot(&mut counts.loads, self.load);
        *(if ok { &mut stats.ok } else { &mut stats.failed }) += 1;
        stats.iteration.record(micros(duration) / 1_000);
    }
}

impl Drop for IterationGuard {
    fn drop(&mut self) {
        if self.open {
            slot(&mut self.recorder.counts.borrow_mut().loads, self.load).unknown += 1;
        }
    }
}

/// A group of steps under way.
#[derive(Debug)]
pub struct GroupGuard {
    recorder: Recorder,
    group: u32,
    open: bool,
}

impl GroupGuard {
    /// It ended, after so long.
    pub fn end(mut self, ok: bool, duration: Duration) {
        self.open = false;
        let mut counts = self.recorder.counts.borrow_mut();
        let stats = counts.groups.entry(self.group).or_default();
        *(if ok { &mut stats.ok } else { &mut stats.failed }) += 1;
        stats.duration.record(micros(duration));
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if self.open {
            self.recorder.counts.borrow_mut().groups.entry(self.group).or_default().unknown += 1;
        }
    }
}

/// A life under way.
#[derive(Debug)]
pub struct LifeGuard {
    recorder: Recorder,
    user: u32,
    open: bool,
}

impl LifeGuard {
    /// It ended, after so long and so many named actions; `counters` are what its counters came to.
    pub fn end(mut self, ok: bool, duration: Duration, actions: u64, counters: &[(u32, f64)]) {
        self.open = false;
        let mut counts = self.recorder.counts.borrow_mut();
        let stats = counts.lives.entry(self.user).or_default();
        *(if ok { &mut stats.ok } else { &mut stats.failed }) += 1;
        stats.duration.record(micros(duration) / 1_000);
        stats.actions.record(actions.saturating_mul(1_000));
        for &(counter, amount) in counters {
            let amounts = stats.counters.entry(counter);
            let amounts = amounts.or_insert_with(|| Distribution::new(Layout::Values));
            // A sum below zero stands at zero: the layout has no place below.
            amounts.record((amount.max(0.0) * 1e3).round() as u64);
        }
    }
}

impl Drop for LifeGuard {
    fn drop(&mut self) {
        if self.open {
            self.recorder.counts.borrow_mut().lives.entry(self.user).or_default().unknown += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_in_the_middle_is_unknown() {
        let recorder = Recorder::default();
        recorder.exchange(2).end(&ExchangeRecord { status: Some(200), ..ExchangeRecord::default() });
        drop(recorder.exchange(2));
        drop(recorder.iteration(0, Duration::from_micros(70)));
        let open = recorder.exchange(2);
        let first = recorder.take();
        assert_eq!((first.steps[&2].sent, first.steps[&2].ok, first.steps[&2].unknown), (3, 1, 1));
        assert_eq!((first.loads[&0].started, first.loads[&0].unknown), (1, 1));
        open.end(&ExchangeRecord { error: Some(ErrorKind::Timeout), ..ExchangeRecord::default() });
        let second = recorder.take();
        assert_eq!((second.steps[&2].sent, second.steps[&2].failed), (0, 1));
        assert!(recorder.take().is_empty());
    }
}

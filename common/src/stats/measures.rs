//! All that one party measured in one stretch: of a thread, a worker or the grid, of a second or a run.

use std::collections::BTreeMap;

use super::{Distribution, ErrorCounts, Layout};

/// Counts by HTTP status, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusCounts(Vec<(u16, u64)>);

impl StatusCounts {
    /// Counts `count` more answers with a status.
    pub fn add(&mut self, status: u16, count: u64) {
        match self.0.binary_search_by_key(&status, |entry| entry.0) {
            Ok(place) => self.0[place].1 = self.0[place].1.saturating_add(count),
            Err(place) => self.0.insert(place, (status, count)),
        }
    }

    /// The statuses that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// One step. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepStats {
    /// Exchanges that went out.
    pub sent: u64,
    /// Exchanges that ended well.
    pub ok: u64,
    /// Exchanges that ended badly, by the target's fault.
    pub failed: u64,
    /// Exchanges that were cut off.
    pub unknown: u64,
    /// Bytes of requests, as HTTP/1.1 would write them.
    pub bytes_sent: u64,
    /// Bytes of answers, as HTTP/1.1 would write them.
    pub bytes_received: u64,
    /// Answers by status.
    pub statuses: StatusCounts,
    /// Failures by kind: the target's of exchanges, and the generator's own beside them.
    pub errors: ErrorCounts,
    /// From the intended start to the end.
    pub response: Distribution,
    /// From the first byte sent to the end.
    pub service: Distribution,
    /// Name look-up and TCP connect.
    pub connect: Distribution,
    /// TLS handshake.
    pub tls: Distribution,
    /// From the first byte sent to the first received.
    pub first_byte: Distribution,
    /// Waiting under a cap; no part of the response time.
    pub cap_wait: Distribution,
    /// Attempts that repeated a failed one.
    pub retries: u64,
}

impl StepStats {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.ok = self.ok.saturating_add(other.ok);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        other.statuses.iter().for_each(|(status, count)| self.statuses.add(status, count));
        self.errors.merge(&other.errors);
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.connect.merge(&other.connect);
        self.tls.merge(&other.tls);
        self.first_byte.merge(&other.first_byte);
        self.cap_wait.merge(&other.cap_wait);
        self.retries = self.retries.saturating_add(other.retries);
    }

    /// Exchanges that have ended.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }
}

/// One load.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadStats {
    /// Iterations begun.
    pub started: u64,
    /// Iterations that ended well.
    pub ok: u64,
    /// Iterations in which something failed.
    pub failed: u64,
    /// Iterations that were cut off.
    pub unknown: u64,
    /// Arrivals for which no user was free.
    pub dropped: u64,
    /// Arrivals of the share that were not started: fenced, drained or aborted.
    pub never_started: u64,
    /// The generator's own delay, in microseconds.
    pub lateness: Distribution,
    /// Whole iterations, in milliseconds.
    pub iteration: Distribution,
}

impl Default for LoadStats {
    fn default() -> Self {
        Self {
            started: 0,
            ok: 0,
            failed: 0,
            unknown: 0,
            dropped: 0,
            never_started: 0,
            lateness: Distribution::new(Layout::Times),
            iteration: Distribution::new(Layout::LongTimes),
        }
    }
}

impl LoadStats {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.started = self.started.saturating_add(other.started);
        self.ok = self.ok.saturating_add(other.ok);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.dropped = self.dropped.saturating_add(other.dropped);
        self.never_started = self.never_started.saturating_add(other.never_started);
        self.lateness.merge(&other.lateness);
        self.iteration.merge(&other.iteration);
    }

    /// Iterations that have ended.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.ok + self.failed + self.unknown
    }
}

/// A counter of the scenario's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterStats {
    /// Sum of the amounts, in millionths: whole numbers add up in any order, fractions do not.
    pub sum_millionths: i64,
    /// How often it was counted.
    pub count: u64,
}

/// A named branch of a `choose`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionStats {
    /// How often it was chosen.
    pub chosen: u64,
    /// How often nothing in it failed.
    pub ok: u64,
    /// How often something in it failed.
    pub failed: u64,
}

/// One check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckStats {
    /// Answers that passed.
    pub passed: u64,
    /// Answers that failed.
    pub failed: u64,
}

/// A named group of steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupStats {
    /// Passes in which nothing failed.
    pub ok: u64,
    /// Passes in which something failed.
    pub failed: u64,
    /// Passes that were cut off.
    pub unknown: u64,
    /// From the intended start of its first step to the end of its last, in microseconds.
    pub duration: Distribution,
}

impl GroupStats {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.ok = self.ok.saturating_add(other.ok);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.duration.merge(&other.duration);
    }
}

/// Lives of one type of user.
#[derive(Clone, Debug, PartialEq)]
pub struct LifeStats {
    /// Lives that began.
    pub begun: u64,
    /// Lives in which nothing failed.
    pub ok: u64,
    /// Lives in which something failed.
    pub failed: u64,
    /// Lives that were cut off.
    pub unknown: u64,
    /// From the first step to the last, in milliseconds.
    pub duration: Distribution,
    /// Named actions of a life, in thousandths of one.
    pub actions: Distribution,
    /// What each counter came to in a life, in thousandths.
    pub counters: BTreeMap<u32, Distribution>,
}

impl Default for LifeStats {
    fn default() -> Self {
        Self {
            begun: 0,
            ok: 0,
            failed: 0,
            unknown: 0,
            duration: Distribution::new(Layout::LongTimes),
            actions: Distribution::new(Layout::Values),
            counters: BTreeMap::new(),
        }
    }
}

impl LifeStats {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.begun = self.begun.saturating_add(other.begun);
        self.ok = self.ok.saturating_add(other.ok);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.duration.merge(&other.duration);
        self.actions.merge(&other.actions);
        for (&counter, amounts) in &other.counters {
            let own = self.counters.entry(counter);
            own.or_insert_with(|| Distribution::new(Layout::Values)).merge(amounts);
        }
    }
}

/// Everything, by index into the plan's lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// By step.
    pub steps: BTreeMap<u32, StepStats>,
    /// By load of the phase.
    pub loads: BTreeMap<u32, LoadStats>,
    /// By counter.
    pub counters: BTreeMap<u32, CounterStats>,
    /// By action.
    pub actions: BTreeMap<u32, ActionStats>,
    /// By check.
    pub checks: BTreeMap<u32, CheckStats>,
    /// By group.
    pub groups: BTreeMap<u32, GroupStats>,
    /// By name of `observe`, in thousandths.
    pub observed: BTreeMap<u32, Distribution>,
    /// By type of user.
    pub lives: BTreeMap<u32, LifeStats>,
    /// Errors of the scenario itself while it ran.
    pub scenario_errors: u64,
    /// The first of them.
    pub scenario_error: Option<String>,
}

impl Measures {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&id, stats) in &other.steps {
            self.steps.entry(id).or_default().merge(stats);
        }
        for (&id, stats) in &other.loads {
            self.loads.entry(id).or_default().merge(stats);
        }
        for (&id, stats) in &other.counters {
            let own = self.counters.entry(id).or_default();
            own.sum_millionths = own.sum_millionths.saturating_add(stats.sum_millionths);
            own.count = own.count.saturating_add(stats.count);
        }
        for (&id, stats) in &other.actions {
            let own = self.actions.entry(id).or_default();
            own.chosen = own.chosen.saturating_add(stats.chosen);
            own.ok = own.ok.saturating_add(stats.ok);
            own.failed = own.failed.saturating_add(stats.failed);
        }
        for (&id, stats) in &other.checks {
            let own = self.checks.entry(id).or_default();
            own.passed = own.passed.saturating_add(stats.passed);
            own.failed = own.failed.saturating_add(stats.failed);
        }
        for (&id, stats) in &other.groups {
            self.groups.entry(id).or_default().merge(stats);
        }
        for (&id, values) in &other.observed {
            self.observed.entry(id).or_insert_with(|| Distribution::new(Layout::Values)).merge(values);
        }
        for (&id, stats) in &other.lives {
            self.lives.entry(id).or_default().merge(stats);
        }
        self.scenario_errors = self.scenario_errors.saturating_add(other.scenario_errors);
        // The smallest text, not the first to come: merging must not depend on the order.
        self.scenario_error = match (self.scenario_error.take(), &other.scenario_error) {
            (Some(own), Some(theirs)) => Some(own.min(theirs.clone())),
            (own, theirs) => own.or_else(|| theirs.clone()),
        };
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && self.loads.is_empty()
            && self.counters.is_empty()
            && self.actions.is_empty()
            && self.checks.is_empty()
            && self.groups.is_empty()
            && self.observed.is_empty()
            && self.lives.is_empty()
            && self.scenario_errors == 0
    }
}

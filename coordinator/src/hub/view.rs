//! A run as its watchers see it.

use std::time::Duration;

use loadgrid_common::id::RunId;
use loadgrid_common::time::nanos;
use loadgrid_common::wire::pb;

use crate::run::Stage;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// Which.
    pub run: RunId,
    /// The scenario's name.
    pub scenario: String,
    /// Where it is.
    pub stage: Stage,
    /// What it waits for, or how it ended.
    pub note: String,
    /// Since phase zero.
    pub elapsed: Duration,
    /// Its phases.
    pub phases: Vec<PhaseView>,
    /// Live workers, and all.
    pub workers: (usize, usize),
    /// Once it has ended and its report is stored.
    pub exit_code: Option<u8>,
    /// What a watcher must know at once.
    pub warnings: Vec<String>,
    /// How the thresholds stand on what is counted so far.
    pub thresholds: Vec<crate::report::Threshold>,
}

/// A phase as its watchers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhaseView {
    /// Its name.
    pub name: String,
    /// Planned length.
    pub length: Duration,
    /// Whether it ends with its last iteration; then `length` is the longest it may take.
    pub ends_early: bool,
    /// Since its zero.
    pub elapsed: Duration,
    /// Whether it has begun.
    pub started: bool,
    /// Whether it is over.
    pub ended: bool,
    /// Users alive.
    pub users: u32,
    /// Exchanges that ended.
    pub exchanges: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Arrivals dropped.
    pub dropped: u64,
    /// Exchanges per second over the newest closed window.
    pub rate_per_s: f64,
    /// 95th percentile of the response time there, in microseconds.
    pub p95_us: u64,
}

impl RunView {
    /// As a message.
    #[must_use]
    pub fn to_wire(&self) -> pb::RunUpdate {
        let state = match (self.stage, self.exit_code) {
            (Stage::Waiting, _) => pb::RunState::Waiting,
            (Stage::Preparing, _) => pb::RunState::Preparing,
            (Stage::Running, _) => pb::RunState::Running,
            // Ended only counts once the report can be asked for.
            (Stage::Draining, _) | (Stage::Ended, None) => pb::RunState::Draining,
            (Stage::Ended, Some(_)) => pb::RunState::Ended,
        };
        pb::RunUpdate {
            run: self.run.to_string(),
            scenario: self.scenario.clone(),
            state: state.into(),
            note: self.note.clone(),
            elapsed_ns: nanos(self.elapsed),
            phases: self.phases.iter().map(PhaseView::to_wire).collect(),
            workers_live: u32::try_from(self.workers.0).unwrap_or(u32::MAX),
            workers_total: u32::try_from(self.workers.1).unwrap_or(u32::MAX),
            exit_code: self.exit_code.unwrap_or_default().into(),
            warnings: self.warnings.clone(),
            thresholds: self
                .thresholds
                .iter()
                .map(|judged| pb::ThresholdProgress {
                    threshold: judged.threshold.clone(),
                    observed: judged.observed.clone(),
                    passed: judged.passed,
                })
                .collect(),
        }
    }
}

impl PhaseView {
    fn to_wire(&self) -> pb::PhaseProgress {
        pb::PhaseProgress {
            name: self.name.clone(),
            duration_ns: nanos(self.length),
            ends_early: self.ends_early,
            elapsed_ns: nanos(self.elapsed),
            started: self.started,
            ended: self.ended,
            users: self.users,
            exchanges: self.exchanges,
            failed: self.failed,
            dropped: self.dropped,
            rate_per_s: self.rate_per_s,
            p95_us: self.p95_us,
        }
    }
}

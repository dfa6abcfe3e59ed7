//! The report as data: the contract of `--json`. Times are integer microseconds unless the name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of this format. Fields may be added within a version; none changes its meaning.
pub const FORMAT: u32 = 1;

/// A finished run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the contract; docs/report.md explains each")]
pub struct Report {
    pub format: u32,
    pub run: Run,
    pub verdict: Verdict,
    pub validity: Validity,
    /// What a reader must know before the figures.
    pub warnings: Vec<String>,
    pub ledger: Ledger,
    pub totals: Totals,
    pub phases: Vec<Phase>,
    pub ranking: Vec<Rank>,
    pub actions: Vec<Action>,
    pub counters: BTreeMap<String, Counter>,
    pub observed: BTreeMap<String, Observed>,
    pub lives: Vec<Lives>,
    pub checks: Vec<Check>,
    pub thresholds: Vec<Threshold>,
    pub expectations: Vec<serde_json::Value>,
    pub findings: Vec<serde_json::Value>,
    pub samples: Vec<serde_json::Value>,
    pub resources: Resources,
    pub recommendations: Vec<serde_json::Value>,
    pub timeline: Vec<Window>,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Run {
    pub id: String,
    pub scenario: String,
    pub target: String,
    pub started_at: String,
    pub duration_us: u64,
    pub plan_hash: String,
    pub workers: u32,
    /// Largest |phase zero as a pacer saw it − as it was ordered|, over workers and phases.
    pub start_skew_us: u64,
    /// How well the clocks were known.
    pub clock_uncertainty_us: u64,
    pub seed: u64,
    pub build: String,
    pub labels: BTreeMap<String, String>,
}

/// How a run came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All thresholds hold.
    #[default]
    Passed,
    /// A threshold does not hold, or the scenario itself failed.
    Failed,
    /// The generator spoiled the result.
    Invalid,
    /// Part of the result is missing.
    Incomplete,
    /// It was ended before its time, or never began.
    Aborted,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Verdict {
    pub outcome: Outcome,
    pub exit_code: u8,
    pub reasons: Vec<String>,
}

/// Whether the figures can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidityStatus {
    /// They can.
    #[default]
    Valid,
    /// With care.
    Suspect,
    /// They cannot.
    Invalid,
}

/// Whether the figures can be trusted, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Validity {
    pub status: ValidityStatus,
    pub reasons: Vec<String>,
}

/// What became of everything that was planned and begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Ledger {
    pub closes: bool,
    /// Where it does not, why.
    pub gaps: Vec<String>,
    pub iterations: Iterations,
    pub exchanges: Exchanges,
    pub workers: Vec<WorkerLedger>,
}

/// Iterations; `planned` is null where any load is a closed one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Iterations {
    pub planned: Option<u64>,
    pub started: u64,
    pub dropped: u64,
    pub never_started: u64,
    pub ok: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// Exchanges: request attempts on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Exchanges {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// One worker's part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct WorkerLedger {
    pub worker: String,
    pub iterations_started: u64,
    pub exchanges_sent: u64,
    pub snapshots: u64,
    /// Its last word is here and equals the sum of its snapshots.
    pub sealed: bool,
    pub lost: bool,
}

/// Sums over steps and loads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Totals {
    pub exchanges: u64,
    pub ok: u64,
    pub failed: u64,
    /// Iterations that were intended, per second: arrivals of open loads, begun iterations of closed ones.
    pub offered_per_s: f64,
    /// Iterations that ended, per second.
    pub achieved_per_s: f64,
    pub exchanges_per_s: f64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub dropped: u64,
    pub response_time: Times,
    pub service_time: Times,
    /// The generator's own delay.
    pub lateness: Times,
}

/// A distribution's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Times {
    pub count: u64,
    pub min_us: u64,
    pub mean_us: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
    pub p99_9_us: u64,
    pub max_us: u64,
}

/// One phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Phase {
    pub name: String,
    /// Whether its figures belong to the totals.
    pub recorded: bool,
    pub started: bool,
    pub duration_us: u64,
    pub totals: Totals,
    pub iterations: Iterations,
    pub steps: Vec<Step>,
    pub groups: Vec<Group>,
}

/// A group of steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Group {
    pub group: String,
    pub ok: u64,
    pub failed: u64,
    pub unknown: u64,
    pub duration: Times,
}

/// Values of `observe`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Observed {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// Lives of a type of user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Lives {
    pub user: String,
    pub begun: u64,
    pub ok: u64,
    pub failed: u64,
    pub unknown: u64,
    pub duration_mean_ms: u64,
    pub duration_p50_ms: u64,
    pub duration_p95_ms: u64,
    pub duration_max_ms: u64,
    /// Named actions of a life.
    pub actions: Observed,
    /// What counters came to in a life.
    pub counters: BTreeMap<String, Observed>,
}

/// One step of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Step {
    pub step: String,
    pub group: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub exchanges: u64,
    pub failed: u64,
    pub unknown: u64,
    pub retries: u64,
    pub status_codes: BTreeMap<String, u64>,
    /// Failures of the target by kind.
    pub errors: BTreeMap<String, u64>,
    /// Failures of the generator by kind.
    pub generator_errors: BTreeMap<String, u64>,
    pub response_time: Times,
    pub service_time: Times,
    pub connect_time: Times,
    pub tls_time: Times,
    pub first_byte_time: Times,
    /// Waiting under a cap; no part of the response time.
    pub cap_wait: Times,
}

/// A step's share of all the time that users waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Rank {
    pub step: String,
    pub share_of_time: f64,
    pub mean_us: u64,
    pub exchanges: u64,
}

/// A named branch of a `choose`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Action {
    pub action: String,
    pub chosen: u64,
    pub ok: u64,
    pub failed: u64,
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Counter {
    pub sum: f64,
    pub count: u64,
}

/// A check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Check {
    pub check: String,
    pub passed: u64,
    pub failed: u64,
}

/// A threshold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Threshold {
    pub threshold: String,
    pub observed: String,
    pub passed: bool,
}

/// What the run cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Resources {
    pub workers: Vec<WorkerResources>,
    pub hosts: Vec<serde_json::Value>,
}

/// What it cost a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct WorkerResources {
    pub worker: String,
    pub threads: u32,
    pub cpu_mean_percent: f64,
    pub cpu_max_percent: f64,
    pub rss_max_bytes: u64,
    pub open_descriptors_max: u64,
}

/// A stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Report")]
pub struct Window {
    pub from_us: u64,
    pub to_us: u64,
    pub phase: String,
    pub users: u64,
    pub exchanges: u64,
    pub failed: u64,
    pub dropped: u64,
    pub rate_per_s: f64,
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    pub lateness_p99_us: u64,
}

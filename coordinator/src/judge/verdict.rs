//! Whether a result can be trusted, and how the run came out.

use loadgrid_common::plan::PhaseKind;
use loadgrid_common::stats::{Blame, Measures};

use crate::report::{Facts, Ledger, Outcome, Threshold, Validity, ValidityStatus, Verdict};
use crate::run::EndReason;

/// The exit codes of every command. k6's where it has one, so that scripts can move over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All is well.
    Passed = 0,
    /// loadgrid itself failed.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A threshold or expectation does not hold.
    Thresholds = 99,
    /// Stopped through the API.
    Stopped = 103,
    /// The scenario is not valid.
    Scenario = 104,
    /// Interrupted.
    Interrupted = 105,
    /// The scenario failed while it ran.
    ScenarioRuntime = 107,
    /// The result cannot be trusted: the generator spoiled it, or part of it is missing.
    NotValid = 111,
    /// Too few workers came, or one cannot carry out the plan.
    NotEnoughWorkers = 112,
    /// The coordinator cannot be reached, or refuses.
    Unreachable = 113,
}

impl ExitCode {
    /// All of them, with what each means.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Passed, "passed"),
        (Self::Internal, "loadgrid itself failed"),
        (Self::Usage, "wrong command line"),
        (Self::Thresholds, "a threshold or expectation does not hold"),
        (Self::Stopped, "stopped through the API"),
        (Self::Scenario, "the scenario is not valid"),
        (Self::Interrupted, "interrupted"),
        (Self::ScenarioRuntime, "the scenario failed while it ran"),
        (Self::NotValid, "the result is not valid or not complete"),
        (Self::NotEnoughWorkers, "not enough workers"),
        (Self::Unreachable, "the coordinator is not there or refuses"),
    ];

    /// The exit code with this number; an unknown one is a failure of our own.
    #[must_use]
    pub fn of(number: u8) -> Self {
        Self::ALL.iter().map(|(code, _)| *code).find(|code| code.code() == number).unwrap_or(Self::Internal)
    }

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Failures of the generator above this share of all exchanges spoil a result.
const GENERATOR_FAULTS: f64 = 0.001;
/// Arrivals that were not started although nobody was lost and nobody stopped the run, above this share.
const MISSING_ARRIVALS: f64 = 0.001;
/// The generator's own delay is of interest above this, or above a tenth of the response time.
const LATENESS_US: u64 = 10_000;

/// Whether the figures can be trusted.
#[must_use]
pub fn validity(facts: &Facts<'_>, ledger: &Ledger) -> Validity {
    let (mut invalid, mut suspect) = (Vec::new(), Vec::new());
    if !ledger.closes {
        invalid.extend(ledger.gaps.iter().map(|gap| format!("the ledger does not close: {gap}")));
    }
    let (mut faults, mut exchanges) = (0_u64, 0_u64);
    for step in facts.ingest.totals().values().flat_map(|measures| measures.steps.values()) {
        exchanges += step.sent;
        faults += step
            .errors
            .iter()
            .filter(|(kind, _)| kind.blame() == Blame::Generator)
            .map(|(_, count)| count)
            .sum::<u64>();
    }
    if faults > 0 && faults as f64 > exchanges as f64 * GENERATOR_FAULTS {
        invalid.push(format!(
            "{faults} of {exchanges} exchanges failed in the generator itself (descriptors, ports)"
        ));
    }
    let late = facts.ingest.windows().iter().filter(|window| {
        let limit = LATENESS_US.max(window.response.quantile(0.99).unwrap_or(0) / 10);
        window.lateness.quantile(0.99).is_some_and(|lateness| lateness > limit)
    });
    let (late, all) = (late.count(), facts.ingest.windows().iter().count());
    if late >= 3 && late * 20 > all {
        suspect.push(format!("in {late} of {all} intervals the generator itself was late (p99 above 10 ms and a tenth of the response time)"));
    }
    let (missing, planned) = (ledger.iterations.never_started, ledger.iterations.planned.unwrap_or(0));
    if facts.completed && missing > 0 && facts.lost.is_empty() {
        let text =
            format!("{missing} arrivals were never started: the generator was behind, or without its lease");
        let spoils = missing as f64 > planned as f64 * MISSING_ARRIVALS;
        (if spoils { &mut invalid } else { &mut suspect }).push(text);
    }
    let status = if !invalid.is_empty() {
        ValidityStatus::Invalid
    } else if suspect.is_empty() {
        ValidityStatus::Valid
    } else {
        ValidityStatus::Suspect
    };
    invalid.extend(suspect);
    Validity { status, reasons: invalid }
}

/// How the run came out: the gravest of what happened, with all reasons.
///
/// Precedence: interrupted or stopped, the scenario's own failure, a result that is not valid or not
/// complete, thresholds.
#[must_use]
pub fn verdict(
    facts: &Facts<'_>,
    ledger: &Ledger,
    validity: &Validity,
    thresholds: &[Threshold],
    whole: &Measures,
) -> Verdict {
    let mut found: Vec<(Outcome, ExitCode, String)> = Vec::new();
    match facts.reason {
        EndReason::Completed => {}
        EndReason::EndedByScenario => {}
        EndReason::Interrupted => {
            found.push((Outcome::Aborted, ExitCode::Interrupted, "interrupted".to_owned()))
        }
        EndReason::Stopped => found.push((Outcome::Aborted, ExitCode::Stopped, "stopped".to_owned())),
        EndReason::NotEnoughWorkers { present, needed } => {
            let reason = format!("{present} of {needed} workers were there; no load was sent");
            found.push((Outcome::Aborted, ExitCode::NotEnoughWorkers, reason));
        }
        EndReason::Refused { worker, reason } => {
            let reason = format!("worker {worker} cannot carry out the plan: {reason}");
            found.push((Outcome::Aborted, ExitCode::NotEnoughWorkers, reason));
        }
        EndReason::ClocksUncertain { worker, uncertainty_ns } => {
            let reason = format!(
                "the clock of worker {worker} is known to ± {} µs only, which is more than `start_skew`",
                uncertainty_ns / 1_000
            );
            found.push((Outcome::Aborted, ExitCode::NotEnoughWorkers, reason));
        }
        EndReason::SetupFailed(reason) => {
            let reason = format!("setup failed, so no load was sent: {reason}");
            found.push((Outcome::Failed, ExitCode::ScenarioRuntime, reason));
        }
        EndReason::Threshold(threshold) => {
            let reason = format!("a threshold ended the run: {threshold}");
            found.push((Outcome::Failed, ExitCode::Thresholds, reason));
        }
        EndReason::CapTooSmall { cap, parts } => {
            let reason = format!(
                "a `cap` of {cap} cannot be cut into {parts} parts, one for each load thread of the grid; start fewer threads (--threads), raise it, or cap over a longer time"
            );
            found.push((Outcome::Aborted, ExitCode::NotEnoughWorkers, reason));
        }
        EndReason::NoWorkersLeft => {
            found.push((Outcome::Incomplete, ExitCode::NotValid, "all workers were lost".to_owned()))
        }
        EndReason::TimedOut(what) => found.push((Outcome::Incomplete, ExitCode::NotValid, what.clone())),
        EndReason::Failed(reason) => found.push((Outcome::Aborted, ExitCode::Internal, reason.clone())),
    }
    if whole.scenario_errors > 0 {
        let text = whole.scenario_error.clone().unwrap_or_default();
        let reason =
            format!("the scenario failed {} times while it ran; for example: {text}", whole.scenario_errors);
        found.push((Outcome::Failed, ExitCode::ScenarioRuntime, reason));
    }
    for (number, phase) in facts.plan.phases.iter().enumerate() {
        let measures = u32::try_from(number).ok().and_then(|number| facts.ingest.totals().get(&number));
        let failed = |measures: &Measures| measures.loads.values().any(|load| load.failed + load.unknown > 0);
        if phase.kind() == PhaseKind::Teardown && measures.is_some_and(failed) {
            let reason = "teardown failed: what it should have cleaned up is left".to_owned();
            found.push((Outcome::Failed, ExitCode::ScenarioRuntime, reason));
        }
    }
    for (worker, _) in facts.lost {
        let share =
            ledger.workers.iter().find(|w| w.worker == worker.as_str()).map_or(0, |w| w.iterations_started);
        let reason = format!(
            "worker {worker} was lost after {share} reported iterations; its share was not carried on"
        );
        found.push((Outcome::Incomplete, ExitCode::NotValid, reason));
    }
    let began = facts.phases.iter().any(|phase| phase.zero.is_some());
    for worker in ledger.workers.iter().filter(|worker| began && !worker.sealed && !worker.lost) {
        found.push((
            Outcome::Incomplete,
            ExitCode::NotValid,
            format!("worker {} did not say its last word", worker.worker),
        ));
    }
    if validity.status == ValidityStatus::Invalid {
        found.extend(
            validity.reasons.iter().map(|reason| (Outcome::Invalid, ExitCode::NotValid, reason.clone())),
        );
    }
    let failed = thresholds.iter().filter(|threshold| !threshold.passed).count();
    if failed > 0 {
        let reason = format!("{failed} of {} thresholds failed", thresholds.len());
        found.push((Outcome::Failed, ExitCode::Thresholds, reason));
    }
    let (outcome, code) =
        found.first().map_or((Outcome::Passed, ExitCode::Passed), |first| (first.0, first.1));
    let mut reasons: Vec<String> = found.into_iter().map(|(_, _, reason)| reason).collect();
    if *facts.reason == EndReason::EndedByScenario {
        reasons.push("the scenario ended the run".to_owned());
    }
    Verdict { outcome, exit_code: code.code(), reasons }
}

//! From the facts of a run to its report. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, RunId, WorkerId};
use loadgrid_common::plan::{self, Plan};
use loadgrid_common::stats::{Blame, Distribution, GroupStats, LifeStats, Measures, StepStats};
use loadgrid_common::time::micros;

use super::accounts;
use super::model::{
    Action, Check, Counter, FORMAT, Group, Iterations, Lives, Observed, Phase, Rank, Report, Resources, Run,
    Step, Times, Totals, Window, WorkerResources,
};
use crate::ingest::Ingest;
use crate::judge::{self, Figures};
use crate::run::{EndReason, RunCore};

/// What is known about a run when it has ended. Times are run time unless they say otherwise.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The run.
    pub run: &'a RunId,
    /// Its plan.
    pub plan: &'a Plan,
    /// Hash of the plan.
    pub plan_hash: &'a str,
    /// When it was submitted, RFC 3339.
    pub started_at: &'a str,
    /// From phase zero of the first phase to the end; zero where nothing began.
    pub ended_at: Duration,
    /// Why it ended.
    pub reason: &'a EndReason,
    /// Whether all phases were carried out.
    pub completed: bool,
    /// What was measured.
    pub ingest: &'a Ingest,
    /// Thresholds that were looked at while it went on.
    pub watch: &'a judge::Watch,
    /// What it did.
    pub core: &'a RunCore,
    /// Owners and weights, in slot order.
    pub shares: &'a [(WorkerId, Incarnation, u32)],
    /// Workers that were lost, with the end of their lease.
    pub lost: &'a [(WorkerId, Duration)],
    /// By phase.
    pub phases: &'a [PhaseFacts],
    /// Largest skew of a start, and largest uncertainty of a clock.
    pub start_skew: Duration,
    /// See above.
    pub clock_uncertainty: Duration,
    /// What the run cost its workers.
    pub workers: &'a [WorkerFacts],
    /// Anything else that a reader must know.
    pub warnings: &'a [String],
}

/// When a phase began and ended; `None` where it did not.
#[derive(Clone, Copy, Debug, Default)]
pub struct PhaseFacts {
    /// Phase zero.
    pub zero: Option<Duration>,
    /// The end of its last user.
    pub end: Option<Duration>,
}

/// What a run cost a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerFacts {
    /// Its name.
    pub worker: String,
    /// Load threads.
    pub threads: u32,
    /// Sum and number of readings of its processor time, in per cent of a core.
    pub cpu_sum: f64,
    /// See above.
    pub cpu_readings: u32,
    /// Highest reading.
    pub cpu_max: f64,
    /// Highest resident memory.
    pub rss_max: u64,
    /// Most open descriptors.
    pub descriptors_max: u64,
}

impl Facts<'_> {
    /// How long a phase offered load: its planned length, or up to where it ended or was broken off.
    #[must_use]
    pub fn length_of(&self, phase: u32) -> Duration {
        let planned = self.plan.phases.get(phase as usize).map(plan::Phase::limit).unwrap_or_default();
        let span = self.phases.get(phase as usize).copied().unwrap_or_default();
        span.zero.map_or(Duration::ZERO, |zero| {
            planned.min(span.end.unwrap_or(self.ended_at).saturating_sub(zero))
        })
    }

    /// The end of a lost worker's lease.
    #[must_use]
    pub fn lost_at(&self, worker: &WorkerId) -> Option<Duration> {
        self.lost.iter().find(|(lost, _)| lost == worker).map(|(_, at)| *at)
    }
}

/// Builds the report.
#[must_use]
pub fn build(facts: &Facts<'_>) -> Report {
    let mut gaps = Vec::new();
    let accounts = accounts::close(facts, &mut gaps);
    let phase_iterations: Vec<Iterations> =
        accounts.iter().map(|loads| accounts::sum(loads.iter())).collect();
    let ledger = accounts::ledger(facts, &accounts, gaps);
    let (whole, phases) = phases(facts, &phase_iterations);
    let recorded = phases.iter().filter(|phase| phase.recorded);
    let length: Duration = recorded.map(|phase| Duration::from_micros(phase.duration_us)).sum();
    let recorded = accounts.iter().zip(&facts.plan.phases).filter(|(_, phase)| !phase.unrecorded);
    let iterations = accounts::sum(recorded.flat_map(|(loads, _)| loads));
    let names = |list: &[String], id: u32| name_of(list, id);
    let user_names: Vec<String> = facts.plan.users.iter().map(|user| user.name.clone()).collect();
    let figures = Figures { facts, phase_iterations: &phase_iterations };
    let thresholds = judge::thresholds(&figures);
    let validity = judge::validity(facts, &ledger);
    let verdict = judge::verdict(facts, &ledger, &validity, &thresholds, &whole);
    Report {
        format: FORMAT,
        run: Run {
            id: facts.run.to_string(),
            scenario: facts.plan.name.clone(),
            target: facts.plan.target.clone(),
            started_at: facts.started_at.to_owned(),
            duration_us: micros(facts.ended_at),
            plan_hash: facts.plan_hash.to_owned(),
            workers: u32::try_from(facts.shares.len()).unwrap_or(u32::MAX),
            start_skew_us: micros(facts.start_skew),
            clock_uncertainty_us: micros(facts.clock_uncertainty),
            seed: facts.plan.seed,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            labels: facts.plan.labels.iter().map(|l| (l.name.clone(), l.value.clone())).collect(),
        },
        verdict,
        validity,
        warnings: facts.warnings.to_vec(),
        totals: totals(&whole, &iterations, length),
        ledger,
        phases,
        ranking: ranking(facts, &whole),
        actions: whole
            .actions
            .iter()
            .map(|(&id, a)| Action {
                action: names(&facts.plan.actions, id),
                chosen: a.chosen,
                ok: a.ok,
                failed: a.failed,
            })
            .collect(),
        counters: whole
            .counters
            .iter()
            .map(|(&id, c)| {
                (
                    names(&facts.plan.counters, id),
                    Counter { sum: c.sum_millionths as f64 / 1e6, count: c.count },
                )
            })
            .collect(),
        observed: whole
            .observed
            .iter()
            .map(|(&id, values)| (names(&facts.plan.observed, id), observed(values)))
            .collect(),
        lives: whole
            .lives
            .iter()
            .map(|(&id, stats)| lives(facts.plan, &names(&user_names, id), stats))
            .collect(),
        checks: whole
            .checks
            .iter()
            .map(|(&id, c)| Check {
                check: names(&facts.plan.checks, id),
                passed: c.passed,
                failed: c.failed,
            })
            .collect(),
        thresholds,
        resources: Resources {
            workers: facts.workers.iter().map(worker_resources).collect(),
            hosts: Vec::new(),
        },
        timeline: timeline(facts),
        ..Report::default()
    }
}

/// The measures of all recorded phases, and the rows of all phases.
fn phases(facts: &Facts<'_>, iterations: &[Iterations]) -> (Measures, Vec<Phase>) {
    let nothing = Measures::default();
    let of_phase = |phase: usize| {
        u32::try_from(phase).ok().and_then(|phase| facts.ingest.totals().get(&phase)).unwrap_or(&nothing)
    };
    let mut whole = Measures::default();
    let mut phases = Vec::new();
    for (number, (plan, iterations)) in facts.plan.phases.iter().zip(iterations).enumerate() {
        let measures = of_phase(number);
        // What was not recorded stands in its own row only; that the scenario failed in it is said all the same.
        if plan.unrecorded {
            whole.scenario_errors += measures.scenario_errors;
            whole.scenario_error = whole.scenario_error.take().or_else(|| measures.scenario_error.clone());
            // A life that begins in a warm-up may end in a phase that counts: lives are those of the run.
            let lives = Measures { lives: measures.lives.clone(), ..Measures::default() };
            whole.merge(&lives);
        } else {
            whole.merge(measures);
        }
        let span = facts.phases.get(number).copied().unwrap_or_default();
        let length = facts.length_of(u32::try_from(number).unwrap_or(u32::MAX));
        phases.push(Phase {
            name: plan.name.clone(),
            recorded: !plan.unrecorded,
            // Users that were to live on in it may have left in it.
            started: span.zero.is_some() || !measures.steps.is_empty(),
            duration_us: micros(length),
            totals: totals(measures, iterations, length),
            iterations: *iterations,
            steps: measures.steps.iter().map(|(&id, stats)| step(facts.plan, id, stats)).collect(),
            groups: groups(facts.plan, measures),
        });
    }
    (whole, phases)
}

fn name_of(list: &[String], id: u32) -> String {
    list.get(id as usize).cloned().unwrap_or_else(|| format!("#{id}"))
}

/// The figures of a distribution.
#[must_use]
pub fn times(distribution: &Distribution) -> Times {
    let Some(summary) = distribution.summary() else { return Times::default() };
    let q = |q: f64| distribution.quantile(q).unwrap_or_default();
    Times {
        count: summary.count,
        min_us: summary.min,
        mean_us: summary.mean,
        p50_us: q(0.5),
        p90_us: q(0.9),
        p95_us: q(0.95),
        p99_us: q(0.99),
        p99_9_us: q(0.999),
        max_us: summary.max,
    }
}

fn totals(measures: &Measures, iterations: &Iterations, length: Duration) -> Totals {
    let mut totals = Totals { dropped: iterations.dropped, ..Totals::default() };
    let (mut response, mut service, mut lateness) =
        (Distribution::default(), Distribution::default(), Distribution::default());
    for step in measures.steps.values() {
        totals.exchanges += step.ended();
        totals.ok += step.ok;
        totals.failed += step.failed;
        totals.bytes_sent += step.bytes_sent;
        totals.bytes_received += step.bytes_received;
        response.merge(&step.response);
        service.merge(&step.service);
    }
    measures.loads.values().for_each(|load| lateness.merge(&load.lateness));
    let seconds = length.as_secs_f64();
    let per_second =
        |count: u64| if seconds > 0.0 { (count as f64 / seconds * 1_000.0).round() / 1_000.0 } else { 0.0 };
    totals.offered_per_s = per_second(iterations.started + iterations.dropped);
    totals.achieved_per_s = per_second(iterations.ok + iterations.failed);
    totals.exchanges_per_s = per_second(totals.exchanges);
    totals.response_time = times(&response);
    totals.service_time = times(&service);
    totals.lateness = times(&lateness);
    totals
}

/// The groups of a phase.
fn groups(plan: &Plan, measures: &Measures) -> Vec<Group> {
    let group = |(&id, stats): (&u32, &GroupStats)| Group {
        group: name_of(&plan.groups, id),
        ok: stats.ok,
        failed: stats.failed,
        unknown: stats.unknown,
        duration: times(&stats.duration),
    };
    measures.groups.iter().map(group).collect()
}

/// The figures of values of `observe`, which are kept in thousandths.
fn observed(values: &Distribution) -> Observed {
    let Some(summary) = values.summary() else { return Observed::default() };
    let number = |thousandths: u64| thousandths as f64 / 1e3;
    let q = |q: f64| judge::three_digits(number(values.quantile(q).unwrap_or_default()));
    Observed {
        count: values.count,
        min: number(summary.min),
        mean: values.sum as f64 / values.count.max(1) as f64 / 1e3,
        p50: q(0.5),
        p90: q(0.9),
        p95: q(0.95),
        p99: q(0.99),
        max: number(summary.max),
    }
}

/// The lives of a type of user.
fn lives(plan: &Plan, user: &str, stats: &LifeStats) -> Lives {
    let duration = stats.duration.summary().unwrap_or_default();
    let q = |q: f64| stats.duration.quantile(q).unwrap_or_default();
    Lives {
        user: user.to_owned(),
        begun: stats.begun,
        ok: stats.ok,
        failed: stats.failed,
        unknown: stats.unknown,
        duration_mean_ms: duration.mean,
        duration_p50_ms: q(0.5),
        duration_p95_ms: q(0.95),
        duration_max_ms: duration.max,
        actions: observed(&stats.actions),
        counters: stats
            .counters
            .iter()
            .map(|(&counter, amounts)| (name_of(&plan.counters, counter), observed(amounts)))
            .collect(),
    }
}

fn step(plan: &Plan, id: u32, stats: &StepStats) -> Step {
    let place = plan.step_places.get(id as usize);
    let group = place.and_then(|place| place.group.checked_sub(1));
    let errors = |blame: Blame| {
        let of = stats.errors.iter().filter(|(kind, _)| kind.blame() == blame);
        of.map(|(kind, count)| (kind.name().to_owned(), count)).collect::<BTreeMap<_, _>>()
    };
    Step {
        step: name_of(&plan.steps, id),
        group: group.map(|group| name_of(&plan.groups, group)),
        labels: place
            .iter()
            .flat_map(|place| &place.labels)
            .map(|label| (label.name.clone(), label.value.clone()))
            .collect(),
        retries: stats.retries,
        cap_wait: times(&stats.cap_wait),
        exchanges: stats.ended(),
        failed: stats.failed,
        unknown: stats.unknown,
        status_codes: stats.statuses.iter().map(|(status, count)| (status.to_string(), count)).collect(),
        errors: errors(Blame::Target),
        generator_errors: errors(Blame::Generator),
        response_time: times(&stats.response),
        service_time: times(&stats.service),
        connect_time: times(&stats.connect),
        tls_time: times(&stats.tls),
        first_byte_time: times(&stats.first_byte),
    }
}

fn ranking(facts: &Facts<'_>, whole: &Measures) -> Vec<Rank> {
    let all: u64 = whole.steps.values().map(|step| step.response.sum).sum();
    let mut ranking: Vec<Rank> = whole
        .steps
        .iter()
        .filter_map(|(&id, stats)| {
            let summary = stats.response.summary()?;
            Some(Rank {
                step: name_of(&facts.plan.steps, id),
                share_of_time: if all > 0 {
                    (stats.response.sum as f64 / all as f64 * 1e4).round() / 1e4
                } else {
                    0.0
                },
                mean_us: summary.mean,
                exchanges: summary.count,
            })
        })
        .collect();
    ranking.sort_by(|a, b| b.share_of_time.total_cmp(&a.share_of_time).then_with(|| a.step.cmp(&b.step)));
    ranking
}

fn worker_resources(worker: &WorkerFacts) -> WorkerResources {
    let mean = if worker.cpu_readings > 0 { worker.cpu_sum / f64::from(worker.cpu_readings) } else { 0.0 };
    WorkerResources {
        worker: worker.worker.clone(),
        threads: worker.threads,
        cpu_mean_percent: (mean * 10.0).round() / 10.0,
        cpu_max_percent: (worker.cpu_max * 10.0).round() / 10.0,
        rss_max_bytes: worker.rss_max,
        open_descriptors_max: worker.descriptors_max,
    }
}

fn timeline(facts: &Facts<'_>) -> Vec<Window> {
    // The last moments of a phase make a window of a few milliseconds; they belong to the one before.
    let whole = facts.ingest.windows().iter().map(crate::ingest::Window::length).max().unwrap_or_default();
    let mut windows: Vec<crate::ingest::Window> = Vec::new();
    for window in facts.ingest.windows().iter() {
        match windows.last_mut() {
            Some(last) if window.length() < whole / 2 => last.absorb(window),
            _ => windows.push(window.clone()),
        }
    }
    windows
        .iter()
        .map(|window| {
            let seconds = window.length().as_secs_f64();
            let q = |q: f64| window.response.quantile(q).unwrap_or_default();
            Window {
                from_us: micros(window.from),
                to_us: micros(window.to),
                phase: facts
                    .plan
                    .phases
                    .get(window.phase as usize)
                    .map(|phase| phase.name.clone())
                    .unwrap_or_default(),
                users: window.users,
                exchanges: window.exchanges,
                failed: window.failed,
                dropped: window.dropped,
                rate_per_s: if seconds > 0.0 {
                    (window.exchanges as f64 / seconds * 10.0).round() / 10.0
                } else {
                    0.0
                },
                p50_us: q(0.5),
                p95_us: q(0.95),
                p99_us: q(0.99),
                max_us: window.response.max,
                lateness_p99_us: window.lateness.quantile(0.99).unwrap_or_default(),
            }
        })
        .collect()
}

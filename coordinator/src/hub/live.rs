//! A live run: its core, its measures, and the facts that its report will need.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_common::id::{RunId, WorkerId};
use loadgrid_common::plan::Plan;
use loadgrid_common::targets::AllowedTargets;
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb;

use super::{PhaseView, RunView, Submission, SubmitError};
use crate::ingest::Ingest;
use crate::judge::{self, Watch};
use crate::report::{self, Facts, PhaseFacts, Report, WorkerFacts};
use crate::run::{EndReason, LostWorker, RunConfig, RunCore, RunEffect, RunEvent, Stage};

/// See the module.
#[derive(Debug)]
pub(super) struct LiveRun {
    pub(super) run: RunId,
    pub(super) plan: Plan,
    pub(super) plan_hash: String,
    pub(super) started_at: String,
    pub(super) core: RunCore,
    pub(super) ingest: Ingest,
    phases: Vec<(Option<Moment>, Option<Moment>)>,
    lost: Vec<LostWorker>,
    costs: BTreeMap<WorkerId, WorkerFacts>,
    watch: Watch,
    /// What stands above the figures of the report.
    notes: Vec<String>,
    skew: Duration,
    uncertainty: Duration,
    warnings: Vec<String>,
    pub(super) reason: Option<EndReason>,
}

/// What the actor has to do for a live run.
pub(super) enum Task {
    /// Give an order.
    Send(WorkerId, Box<pb::from_coordinator::Message>),
    /// The run has ended; its report is due.
    Ended,
}

impl LiveRun {
    /// A run of a submission, waiting for its workers.
    ///
    /// # Errors
    /// Where its plan cannot be read, or leads to a host that may not be sent load.
    pub(super) fn begin(
        now: Moment,
        run: RunId,
        submission: Submission,
        allowed_targets: &[String],
        started_at: String,
    ) -> Result<Self, SubmitError> {
        let Submission { bundle, expect_workers, wait } = submission;
        let plan = loadgrid_common::plan::decode(&bundle.plan)?;
        let allowed = AllowedTargets::new(allowed_targets);
        let target = url::Url::parse(&plan.target)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_default();
        // A name for which the plan gives an address is as good as that address.
        let stands_for = |host: &String| {
            let pairs = plan.http.iter().flat_map(|http| &http.hosts);
            pairs
                .clone()
                .find(|pair| pair.name == *host)
                .map_or_else(|| host.clone(), |pair| pair.value.clone())
        };
        let mut hosts = bundle.hosts.iter().chain([&target]).map(stands_for);
        if let Some(host) = hosts.find(|host| !allowed.allows_host(host)) {
            return Err(SubmitError::NotAllowed { host });
        }
        let plan_hash = loadgrid_common::plan::hash(&bundle.plan);
        let grid = plan.grid.unwrap_or_default();
        let core = RunCore::new(
            now,
            RunConfig {
                run: run.to_string(),
                expect_workers,
                wait: wait.unwrap_or(Duration::from_nanos(grid.wait_ns)),
                phases: plan.phases.clone(),
                smallest_cap: RunConfig::smallest_cap_of(&plan),
                wait_for_target: Duration::from_nanos(
                    plan.wait_for.as_ref().map_or(0, |wait| wait.within_ns),
                ),
                grid,
                prepare: pb::Prepare {
                    run: run.to_string(),
                    plan_hash: plan_hash.clone(),
                    plan: bundle.plan,
                    secrets: bundle.secrets,
                    allowed_targets: allowed_targets.to_vec(),
                },
                tables: bundle.blobs.into_iter().map(|blob| (blob.hash, blob.content.to_vec())).collect(),
            },
        );
        let mut ingest = Ingest::new(&plan);
        let watch = Watch::new(&plan);
        if !watch.is_idle() {
            ingest.keep_intervals();
        }
        let phases = vec![(None, None); plan.phases.len()];
        let unverified =
            plan.http.as_ref().and_then(|http| http.tls.as_ref()).is_some_and(|tls| tls.unverified);
        let warning = "certificates were not verified (`tls: { verify: false }`): the target may be anybody";
        let warnings = Vec::from_iter(unverified.then(|| warning.to_owned()));
        Ok(Self {
            run,
            plan,
            plan_hash,
            started_at,
            core,
            ingest,
            phases,
            lost: Vec::new(),
            costs: BTreeMap::new(),
            watch,
            notes: warnings.clone(),
            skew: Duration::ZERO,
            uncertainty: Duration::ZERO,
            warnings,
            reason: None,
        })
    }

    /// Looks at the thresholds that are watched, interval by interval. Returns the one that ends the run, if one does.
    pub(super) fn watch(&mut self, last: bool) -> Option<String> {
        let is_live = !last && self.core.may_be_broken_off();
        let spans = self.phase_facts();
        self.watch.late(&self.ingest.take_late());
        while let Some((span, measures)) = self.ingest.take_interval(last) {
            let ends = self.watch.interval(&self.plan, &spans, span, measures, is_live);
            if ends.is_some() {
                return ends;
            }
        }
        None
    }

    /// Lets the core know, takes note of what it decides, and returns what is left to do.
    pub(super) fn handle(&mut self, now: Moment, event: RunEvent) -> Vec<Task> {
        if let RunEvent::Progress { worker, progress, .. } = &event {
            self.clocks(progress);
            if progress.run == self.run.as_str() {
                self.ingest.has_ended(worker, progress.ended);
            }
        }
        let mut tasks = Vec::new();
        for effect in self.core.handle(now, event) {
            match effect {
                RunEffect::Send { worker, order } => tasks.push(Task::Send(worker, order)),
                RunEffect::PhaseBegins(span) => {
                    if self.phases.iter().all(|(zero, _)| zero.is_none()) {
                        let shares = self.core.shares().to_vec();
                        shares
                            .iter()
                            .for_each(|(worker, incarnation, _)| self.ingest.joined(worker, *incarnation));
                    }
                    if let Some(phase) = self.phases.get_mut(span.phase as usize) {
                        phase.0 = Some(span.zero);
                    }
                }
                RunEffect::PhaseEnded { phase, at } => {
                    if let Some(phase) = self.phases.get_mut(phase as usize) {
                        phase.1 = Some(at);
                    }
                }
                RunEffect::WorkerLost(lost) => {
                    self.ingest.lost(&lost.worker);
                    self.warnings
                        .push(format!("worker {} was lost; its share is not carried on", lost.worker));
                    self.lost.push(lost);
                }
                RunEffect::Ended(reason) => {
                    self.reason = Some(reason);
                    tasks.push(Task::Ended);
                }
            }
        }
        if let Some(phase) = self.core.phase() {
            self.ingest.phase_begins(phase);
        }
        tasks
    }

    fn clocks(&mut self, progress: &pb::Progress) {
        if progress.run != self.run.as_str() {
            return;
        }
        for zero in &progress.zeros {
            self.skew = self.skew.max(Duration::from_nanos(zero.seen_minus_at_ns.unsigned_abs()));
        }
        if progress.started > 0 && progress.clock_uncertainty_ns < u64::MAX {
            self.uncertainty = self.uncertainty.max(Duration::from_nanos(progress.clock_uncertainty_ns));
        }
    }

    /// What a worker's load costs it, while load runs.
    pub(super) fn health(&mut self, worker: &WorkerId, threads: u32, health: &pb::Health) {
        if self.core.stage() != Stage::Running {
            return;
        }
        let cost = self.costs.entry(worker.clone()).or_default();
        cost.worker = worker.to_string();
        cost.threads = threads;
        cost.cpu_sum += health.cpu_percent;
        cost.cpu_readings += 1;
        cost.cpu_max = cost.cpu_max.max(health.cpu_percent);
        cost.rss_max = cost.rss_max.max(health.rss_bytes);
        cost.descriptors_max = cost.descriptors_max.max(health.open_descriptors);
    }

    /// Workers whose last word is here with everything before it.
    pub(super) fn complete(&self) -> Vec<WorkerId> {
        let complete = self.ingest.workers().iter().filter(|(_, totals)| {
            totals.seal.as_ref().is_some_and(|seal| totals.sequence.counted() >= seal.last_seq)
        });
        complete.map(|(id, _)| id.clone()).collect()
    }

    /// The report; meaningful once the run has ended.
    pub(super) fn report(&self, now: Moment) -> Report {
        self.with_facts(now, report::build)
    }

    /// Since the origin of run time.
    fn run_time(&self, at: Moment) -> Duration {
        self.core.run_zero().map_or(Duration::ZERO, |zero| at.since(zero))
    }

    fn phase_facts(&self) -> Vec<PhaseFacts> {
        let run_time = |at: Moment| self.run_time(at);
        let facts = self
            .phases
            .iter()
            .map(|&(zero, end)| PhaseFacts { zero: zero.map(run_time), end: end.map(run_time) });
        facts.collect()
    }

    /// Everything that is known so far.
    fn with_facts<T>(&self, now: Moment, look: impl FnOnce(&Facts<'_>) -> T) -> T {
        let run_time = |at: Moment| self.run_time(at);
        let phases = self.phase_facts();
        let lost: Vec<(WorkerId, Duration)> =
            self.lost.iter().map(|lost| (lost.worker.clone(), run_time(lost.lease_end))).collect();
        let reason = self.reason.clone().unwrap_or(EndReason::Completed);
        let completed = self.reason == Some(EndReason::Completed);
        let costs: Vec<WorkerFacts> = self.costs.values().cloned().collect();
        let last_end = phases.iter().filter_map(|phase| phase.end).max();
        look(&Facts {
            run: &self.run,
            plan: &self.plan,
            plan_hash: &self.plan_hash,
            started_at: &self.started_at,
            ended_at: match last_end {
                Some(end) if completed => end,
                _ => run_time(now),
            },
            completed,
            reason: &reason,
            ingest: &self.ingest,
            watch: &self.watch,
            core: &self.core,
            shares: self.core.shares(),
            lost: &lost,
            phases: &phases,
            start_skew: self.skew,
            clock_uncertainty: self.uncertainty,
            workers: &costs,
            warnings: &self.notes,
        })
    }

    /// The run as its watchers see it.
    pub(super) fn view(&self, now: Moment, exit_code: Option<u8>) -> RunView {
        let (live, all) = self.core.counts();
        let stage = self.core.stage();
        let note = match stage {
            Stage::Waiting => format!("{live} of {} workers are there", self.core.needed()),
            Stage::Preparing => "preparing the workers".to_owned(),
            Stage::Running | Stage::Ended => String::new(),
            Stage::Draining => "waiting for what is under way".to_owned(),
        };
        let zero = self.core.run_zero();
        RunView {
            run: self.run.clone(),
            scenario: self.plan.name.clone(),
            stage,
            note,
            elapsed: zero.map_or(Duration::ZERO, |zero| now.since(zero)),
            phases: (0_u32..)
                .zip(&self.phases)
                .map(|(number, &span)| self.phase_view(now, number, span))
                .collect(),
            workers: (live, all),
            exit_code,
            warnings: self.warnings.clone(),
            thresholds: if stage == Stage::Running {
                self.with_facts(now, judge::thresholds_so_far)
            } else {
                Vec::new()
            },
        }
    }

    fn phase_view(
        &self,
        now: Moment,
        number: u32,
        (zero, end): (Option<Moment>, Option<Moment>),
    ) -> PhaseView {
        let plan = self.plan.phases.get(number as usize);
        let length = plan.map(loadgrid_common::plan::Phase::limit).unwrap_or_default();
        let mut view = PhaseView {
            name: plan.map(|phase| phase.name.clone()).unwrap_or_default(),
            length,
            ends_early: plan.is_some_and(|phase| phase.length() < phase.limit()),
            elapsed: zero.map_or(Duration::ZERO, |zero| end.unwrap_or(now).since(zero).min(length)),
            started: zero.is_some_and(|zero| zero <= now),
            ended: end.is_some(),
            ..PhaseView::default()
        };
        if let Some(measures) = self.ingest.totals().get(&number) {
            view.exchanges = measures.steps.values().map(loadgrid_common::stats::StepStats::ended).sum();
            view.failed = measures.steps.values().map(|step| step.failed).sum();
            view.dropped = measures.loads.values().map(|load| load.dropped).sum();
        }
        if let Some(window) =
            self.ingest.newest_window().filter(|window| window.phase == number && end.is_none())
        {
            let seconds = window.length().as_secs_f64();
            view.rate_per_s = if seconds > 0.0 { window.exchanges as f64 / seconds } else { 0.0 };
            view.p95_us = window.response.quantile(0.95).unwrap_or_default();
            view.users = u32::try_from(window.users).unwrap_or(u32::MAX);
        }
        view
    }
}

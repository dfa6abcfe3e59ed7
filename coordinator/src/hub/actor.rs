//! The shell around the core: receive, decide, perform.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::causes::with_causes;
use loadgrid_common::id::{RunId, WorkerId};
use loadgrid_common::process::boot_now;
use loadgrid_common::wire::pb;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::core::{EndedLive, HubCore, Output};
use super::live::LiveRun;
use super::{HubConfig, Message, Orders, RunView, Submission, SubmitError};
use crate::ingest::Fold;
use crate::store::{EndedRun, NewRun, Store, StoreError};

pub(super) struct Actor {
    config: HubConfig,
    store: Store,
    views: watch::Sender<Option<Arc<RunView>>>,
    core: HubCore,
    sessions: BTreeMap<WorkerId, Session>,
    committing: Option<Committing>,
}

struct Session {
    number: u64,
    orders: Orders,
}

struct Committing {
    run: RunId,
    task: JoinHandle<(Fold, Result<(), StoreError>)>,
}

impl Actor {
    pub(super) fn new(config: HubConfig, store: Store, views: watch::Sender<Option<Arc<RunView>>>) -> Self {
        let core = HubCore::new(config.lease, config.beat);
        Self { config, store, views, core, sessions: BTreeMap::new(), committing: None }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>, stop: CancellationToken) {
        loop {
            let now = boot_now();
            let wait = self.core.deadline(now).since(now).max(Duration::from_micros(100));
            let outputs = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                (run, fold, stored) = committed(&mut self.committing) => self.core.committed(boot_now(), &run, fold, stored),
                message = messages.recv() => match message {
                    Some(message) => self.told(message).await,
                    None => break,
                },
                () = tokio::time::sleep(wait) => self.core.tick(boot_now()),
            };
            self.perform(outputs).await;
        }
        if let Some(run) = self.core.live() {
            // Its workers find that out when they come back.
            tracing::warn!(%run, "the coordinator stops while a run is live");
        }
    }

    async fn told(&mut self, message: Message) -> Vec<Output> {
        let now = boot_now();
        match message {
            Message::Opened { hello, orders, session, reply } => {
                let worker = WorkerId::from(hello.worker.as_str());
                match self.core.hello(now, hello) {
                    Ok(outputs) => {
                        tracing::info!(%worker, "worker is here");
                        self.sessions.insert(worker, Session { number: session, orders });
                        answer_to(reply, Ok(()));
                        outputs
                    }
                    Err(refusal) => {
                        answer_to(reply, Err(refusal));
                        Vec::new()
                    }
                }
            }
            Message::Said { worker, incarnation, session, word } => {
                let is_known = self.sessions.get(&worker).is_some_and(|known| known.number == session);
                if is_known { self.core.said(now, &worker, incarnation, *word) } else { Vec::new() }
            }
            Message::Closed { worker, session } => {
                // The worker itself is not lost: its lease decides.
                if self.sessions.get(&worker).is_some_and(|known| known.number == session) {
                    self.sessions.remove(&worker);
                }
                Vec::new()
            }
            Message::Submit { submission, reply } => {
                let answer = match self.submit(*submission).await {
                    Ok((run, outputs)) => {
                        // Whoever hears the run's name may ask for its view at once.
                        self.perform(outputs).await;
                        Ok(run)
                    }
                    Err(error) => Err(error),
                };
                answer_to(reply, answer);
                Vec::new()
            }
            Message::Stop { run, interrupted, abort, reply } => {
                let is_live = self.core.live().is_some_and(|live| live.as_str().starts_with(run.as_str()));
                answer_to(reply, is_live);
                if is_live { self.core.stop(now, interrupted, abort) } else { Vec::new() }
            }
            Message::Workers { reply } => {
                answer_to(reply, self.workers());
                Vec::new()
            }
        }
    }

    async fn submit(&mut self, mut submission: Submission) -> Result<(RunId, Vec<Output>), SubmitError> {
        if let Some(run) = self.core.live() {
            return Err(SubmitError::Busy(run.clone()));
        }
        self.stored_secrets(&mut submission)?;
        let started_at = jiff::Timestamp::now().to_string();
        let scenario_text = submission.bundle.scenario_text.clone();
        let live = LiveRun::begin(
            boot_now(),
            RunId::fresh(),
            submission,
            &self.config.allowed_targets,
            started_at.clone(),
        )?;
        let run = live.run.clone();
        let new_run = NewRun {
            run: run.clone(),
            scenario: live.plan.name.clone(),
            started_at,
            plan_hash: live.plan_hash.clone(),
            scenario_text,
        };
        self.store.create(new_run).await?;
        tracing::info!(%run, scenario = %live.plan.name, "run submitted");
        Ok((run, self.core.begin(boot_now(), live)))
    }

    /// Reads the secrets that stand here. They go to the workers with those that the submitter has sent.
    fn stored_secrets(&self, submission: &mut Submission) -> Result<(), SubmitError> {
        for (name, stored) in std::mem::take(&mut submission.bundle.stored_secrets) {
            let refused =
                |reason: &str| SubmitError::Secret { name: stored.clone(), reason: reason.to_owned() };
            let good = !stored.starts_with('.')
                && stored.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !good {
                return Err(refused("this cannot name a secret"));
            }
            let directory = self.config.secrets.as_ref();
            let directory = directory.ok_or_else(|| refused("the coordinator has no --secrets directory"))?;
            let value = std::fs::read_to_string(directory.join(&stored))
                .map_err(|error| refused(&error.to_string()))?;
            submission.bundle.secrets.insert(name, value.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(())
    }

    async fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Order(worker, order) => self.order(&worker, *order),
                Output::Close(worker) => drop(self.sessions.remove(&worker)),
                Output::Commit(run, fold) => self.commit(run, fold),
                Output::Show(view) => drop(self.views.send_replace(Some(Arc::new(*view)))),
                Output::Ended(ended) => self.end(*ended).await,
            }
        }
    }

    fn order(&mut self, worker: &WorkerId, mut order: pb::from_coordinator::Message) {
        let Some(session) = self.sessions.get(worker) else { return };
        if let pb::from_coordinator::Message::Echo(echo) = &mut order {
            // The fourth timestamp is taken as late as it can be.
            echo.echoed_ns = boot_now().as_nanos();
        }
        if session.orders.try_send(pb::FromCoordinator { message: Some(order) }).is_err() {
            // The worker does not read; its session is closed, and orders are repeated on its next one.
            tracing::debug!(%worker, "the queue of orders is full or closed");
            self.sessions.remove(worker);
        }
    }

    fn commit(&mut self, run: RunId, fold: Fold) {
        let (store, name) = (self.store.clone(), run.clone());
        let task = tokio::spawn(async move {
            let result = store.commit(name, fold.clone()).await;
            (fold, result)
        });
        self.committing = Some(Committing { run, task });
    }

    async fn end(&mut self, ended: EndedLive) {
        if let Some(committing) = self.committing.take()
            && let Ok((_, Err(error))) = committing.task.await
        {
            tracing::error!(error = %with_causes(&error), "the last commit failed");
        }
        let EndedLive { run, rest, report, view } = ended;
        if let Err(error) = self.store.commit(run.clone(), rest).await {
            tracing::error!(error = %with_causes(&error), "the last commit failed");
        }
        let outcome = serde_json::to_value(report.verdict.outcome)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned));
        let stored = EndedRun {
            run: run.clone(),
            outcome: outcome.unwrap_or_default(),
            exit_code: report.verdict.exit_code,
            duration_ns: report.run.duration_us.saturating_mul(1_000),
            report_json: serde_json::to_string(&report).unwrap_or_default(),
        };
        if let Err(error) = self.store.end(stored).await {
            tracing::error!(error = %with_causes(&error), "the report cannot be stored");
        }
        tracing::info!(%run, exit_code = report.verdict.exit_code, "run ended");
        self.views.send_replace(Some(Arc::new(view)));
    }

    fn workers(&self) -> Vec<pb::WorkerInfo> {
        let info = self.core.fleet().members().iter().map(|(worker, member)| {
            let state = match (self.sessions.contains_key(worker), self.core.is_busy(worker)) {
                (false, _) => "silent",
                (true, true) => "busy",
                (true, false) => "idle",
            };
            pb::WorkerInfo {
                worker: worker.to_string(),
                state: state.to_owned(),
                threads: member.hello.threads,
                free_descriptors: member.hello.free_descriptors,
                cpu_percent: member.health.cpu_percent,
                rss_bytes: member.health.rss_bytes,
                clock_offset_ns: member.clock_offset_ns,
                clock_uncertainty_ns: member.clock_uncertainty_ns,
                build: member.hello.build.clone(),
            }
        });
        info.collect()
    }
}

fn answer_to<T>(reply: oneshot::Sender<T>, answer: T) {
    if reply.send(answer).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}

/// The commit under way, once it is through, and whether it was stored. Waits for ever where none is.
async fn committed(committing: &mut Option<Committing>) -> (RunId, Fold, bool) {
    let Some(commit) = committing else { return std::future::pending().await };
    let result = (&mut commit.task).await;
    let run = commit.run.clone();
    *committing = None;
    match result {
        Ok((fold, Ok(()))) => (run, fold, true),
        Ok((fold, Err(error))) => {
            tracing::error!(error = %with_causes(&error), "counts cannot be committed; trying again, and acknowledging nothing meanwhile");
            (run, fold, false)
        }
        Err(error) => {
            tracing::error!(%error, "a commit has panicked");
            (run, Fold::default(), false)
        }
    }
}

//! Select, decide, perform.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, RunId, WorkerId};
use loadgrid_common::plan;
use loadgrid_common::process::boot_now;
use loadgrid_common::targets::AllowedTargets;
use loadgrid_common::time::{Moment, nanos};
use loadgrid_common::wire::pb::{self, from_coordinator::Message as OrderMessage, from_worker::Message as Word};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::live::{LiveRun, Task};
use super::{HubConfig, Message, Orders, RunView, Submission, SubmitError};
use crate::fleet::{FleetCore, Refusal};
use crate::ingest::Fold;
use crate::run::{RunConfig, RunCore, RunEvent, Stage};
use crate::store::{EndedRun, NewRun, Store, StoreError};

/// How often counts are committed while load runs, and while workers wait for their last words to be in.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const LAST_COMMIT_INTERVAL: Duration = Duration::from_millis(50);
/// How often the view changes.
const VIEW_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Actor {
    config: HubConfig,
    store: Store,
    views: watch::Sender<Option<Arc<RunView>>>,
    fleet: FleetCore,
    sessions: BTreeMap<WorkerId, Session>,
    live: Option<LiveRun>,
    committing: Option<Commit>,
    /// A commit that failed and is tried again: nothing of it was acknowledged.
    failed: Option<Fold>,
    next_commit: Moment,
    next_view: Moment,
}

struct Session {
    number: u64,
    orders: Orders,
}

struct Commit {
    run: RunId,
    task: JoinHandle<(Fold, Result<(), StoreError>)>,
}

impl Actor {
    pub(super) fn new(config: HubConfig, store: Store, views: watch::Sender<Option<Arc<RunView>>>) -> Self {
        Self {
            fleet: FleetCore::new(config.lease),
            config,
            store,
            views,
            sessions: BTreeMap::new(),
            live: None,
            committing: None,
            failed: None,
            next_commit: Moment::ZERO,
            next_view: Moment::ZERO,
        }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>, stop: CancellationToken) {
        loop {
            let wait = self.deadline(boot_now());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                committed = committed(&mut self.committing) => self.committed(committed).await,
                message = messages.recv() => match message {
                    Some(message) => self.told(message).await,
                    None => break,
                },
                () = tokio::time::sleep(wait) => {}
            }
            self.settle().await;
        }
        // What a stopped coordinator had live is over; its workers find that out when they come back.
        if let Some(live) = &self.live {
            tracing::warn!(run = %live.run, "the coordinator stops while a run is live");
        }
    }

    fn deadline(&self, now: Moment) -> Duration {
        let mut next = vec![now + Duration::from_secs(1)];
        next.extend(self.fleet.deadline());
        if let Some(live) = &self.live {
            next.extend(live.core.deadline(now));
            next.push(self.next_view);
            if live.ingest.is_dirty() || self.failed.is_some() {
                next.push(self.next_commit);
            }
        }
        next.into_iter().min().unwrap_or(now).since(now)
    }

    async fn told(&mut self, message: Message) {
        let now = boot_now();
        match message {
            Message::Opened { hello, orders, session, reply } => self.opened(now, hello, orders, session, reply).await,
            Message::Said { worker, incarnation, session, word } => {
                if self.sessions.get(&worker).is_some_and(|known| known.number == session) {
                    self.said(now, &worker, incarnation, *word).await;
                }
            }
            Message::Closed { worker, session } => {
                // The worker itself is not lost: its lease decides.
                if self.sessions.get(&worker).is_some_and(|known| known.number == session) {
                    self.sessions.remove(&worker);
                }
            }
            Message::Submit { submission, reply } => {
                let answer = self.submit(now, *submission).await;
                answer_to(reply, answer);
            }
            Message::Stop { run, interrupted, abort, reply } => {
                let is_live = self.live.as_ref().is_some_and(|live| live.run == run || live.run.as_str().starts_with(run.as_str()));
                if is_live {
                    self.event(now, RunEvent::Stop { interrupted, abort }).await;
                }
                answer_to(reply, is_live);
            }
            Message::Workers { reply } => answer_to(reply, self.workers()),
        }
    }

    async fn opened(&mut self, now: Moment, hello: pb::Hello, orders: Orders, session: u64, reply: oneshot::Sender<Result<(), Refusal>>) {
        let worker = WorkerId::from(hello.worker.as_str());
        let incarnation = Incarnation(hello.incarnation);
        let threads = NonZeroU32::new(hello.threads).unwrap_or(NonZeroU32::MIN);
        let welcome = self.fleet.hello(now, hello);
        if welcome.is_ok() {
            tracing::info!(%worker, threads, "worker is here");
            self.sessions.insert(worker.clone(), Session { number: session, orders });
            let run = self.live.as_ref().map(|live| live.run.to_string()).unwrap_or_default();
            let interval = self.live.as_ref().and_then(|live| live.plan.grid).map_or(1_000_000_000, |grid| grid.snapshot_ns);
            self.order(&worker, OrderMessage::Welcome(pb::Welcome {
                lease_ns: nanos(self.config.lease),
                beat_interval_ns: nanos(self.config.beat),
                snapshot_interval_ns: interval,
                run,
                // What is not acknowledged comes again, is found to be counted, and is acknowledged then.
                committed_seq: 0,
            }));
        }
        let refused = welcome.is_err();
        answer_to(reply, welcome);
        if !refused {
            self.event(now, RunEvent::Present { worker, incarnation, threads }).await;
        }
    }

    async fn said(&mut self, now: Moment, worker: &WorkerId, incarnation: Incarnation, word: Word) {
        match word {
            Word::Hello(_) => {}
            Word::Beat(beat) => self.beat(now, worker, incarnation, beat).await,
            Word::Health(health) => {
                let threads = self.fleet.members().get(worker).map_or(0, |member| member.hello.threads);
                if let Some(live) = &mut self.live {
                    live.health(worker, threads, &health);
                }
                self.fleet.health(worker, health);
            }
            Word::Snapshot(snapshot) => {
                let Some(live) = self.live.as_mut().filter(|live| live.run.as_str() == snapshot.run) else { return };
                if let Err(error) = live.ingest.snapshot(worker, incarnation, &snapshot) {
                    tracing::error!(%worker, error = %chain(&error), "a snapshot cannot be read; the worker is turned away");
                    let reason = format!("a snapshot cannot be read: {error}");
                    self.order(worker, OrderMessage::Reject(pb::Reject { reason }));
                    self.sessions.remove(worker);
                }
            }
            Word::Seal(seal) => {
                if let Some(live) = self.live.as_mut().filter(|live| live.run.as_str() == seal.run) {
                    live.ingest.seal(worker, incarnation, seal);
                    self.next_commit = now;
                }
            }
        }
    }

    async fn beat(&mut self, now: Moment, worker: &WorkerId, incarnation: Incarnation, beat: pb::Beat) {
        let progress = beat.progress.unwrap_or_default();
        if !self.fleet.beat(now, worker, incarnation, &progress) {
            // It was lost and has to present itself again: closing its session makes it do so.
            self.sessions.remove(worker);
            return;
        }
        let is_fenced = self.live.as_ref().is_some_and(|live| live.core.is_fenced(worker));
        if !is_fenced {
            let echo = pb::BeatEcho { seq: beat.seq, sent_ns: beat.sent_ns, received_ns: now.as_nanos(), echoed_ns: boot_now().as_nanos() };
            self.order(worker, OrderMessage::Echo(echo));
        }
        let is_live = self.live.as_ref().is_some_and(|live| live.run.as_str() == progress.run);
        if !progress.run.is_empty() && !is_live {
            self.order(worker, OrderMessage::Release(pb::Release { run: progress.run.clone() }));
        }
        self.event(now, RunEvent::Progress { worker: worker.clone(), incarnation, progress: Box::new(progress) }).await;
    }

    async fn submit(&mut self, now: Moment, submission: Submission) -> Result<RunId, SubmitError> {
        if let Some(live) = &self.live {
            return Err(SubmitError::Busy(live.run.clone()));
        }
        let plan = plan::decode(&submission.bundle.plan)?;
        let allowed = AllowedTargets::new(&self.config.allowed_targets);
        let host = host_of(&plan.target);
        if let Some(host) = submission.bundle.hosts.iter().chain([&host]).find(|host| !allowed.allows_host(host)) {
            return Err(SubmitError::NotAllowed { host: host.clone() });
        }
        let (run, plan_hash) = (RunId::fresh(), plan::hash(&submission.bundle.plan));
        let grid = plan.grid.unwrap_or_default();
        let config = RunConfig {
            run: run.to_string(),
            expect_workers: submission.expect_workers,
            wait: submission.wait.unwrap_or(Duration::from_nanos(grid.wait_ns)),
            phases: RunConfig::phases_of(&plan),
            grid,
            prepare: pb::Prepare {
                run: run.to_string(),
                plan_hash: plan_hash.clone(),
                plan: submission.bundle.plan.clone(),
                secrets: submission.bundle.secrets.clone(),
                allowed_targets: self.config.allowed_targets.clone(),
            },
            tables: submission.bundle.tables.iter().map(|table| (table.hash.clone(), table.csv.to_vec())).collect(),
        };
        let started_at = jiff::Timestamp::now().to_string();
        let new_run = NewRun {
            run: run.clone(),
            scenario: plan.name.clone(),
            started_at: started_at.clone(),
            plan_hash: plan_hash.clone(),
            scenario_text: submission.bundle.scenario_text,
        };
        self.store.create(new_run).await?;
        tracing::info!(%run, scenario = %plan.name, "run submitted");
        self.live = Some(LiveRun::new(run.clone(), plan, plan_hash, started_at, RunCore::new(now, config)));
        let present: Vec<RunEvent> = self
            .fleet
            .members()
            .iter()
            .map(|(worker, member)| RunEvent::Present {
                worker: worker.clone(),
                incarnation: member.incarnation,
                threads: NonZeroU32::new(member.hello.threads).unwrap_or(NonZeroU32::MIN),
            })
            .collect();
        for event in present {
            self.event(now, event).await;
        }
        self.show(now, None);
        Ok(run)
    }

    async fn event(&mut self, now: Moment, event: RunEvent) {
        let Some(live) = &mut self.live else { return };
        let before = live.core.stage();
        let tasks = live.handle(now, event);
        let changed = live.core.stage() != before;
        let mut ended = false;
        for task in tasks {
            match task {
                Task::Send(worker, order) => self.order(&worker, *order),
                Task::Ended => ended = true,
            }
        }
        if ended {
            self.end(now).await;
        } else if changed {
            self.show(now, None);
        }
    }

    async fn end(&mut self, now: Moment) {
        // What is counted is in the report; the last of it goes to the store as well.
        if let Some(commit) = self.committing.take()
            && let Ok((fold, Err(error))) = commit.task.await
        {
            tracing::error!(error = %chain(&error), "the last commit failed");
            drop(fold);
        }
        let Some(mut live) = self.live.take() else { return };
        let last = live.ingest.take_fold();
        if let Err(error) = self.store.commit(live.run.clone(), last).await {
            tracing::error!(error = %chain(&error), "the last commit failed");
        }
        self.failed = None;
        let report = live.report(now);
        let exit_code = report.verdict.exit_code;
        let outcome = serde_json::to_value(report.verdict.outcome).ok().and_then(|value| value.as_str().map(str::to_owned));
        let ended = EndedRun {
            run: live.run.clone(),
            outcome: outcome.unwrap_or_default(),
            exit_code,
            duration_ns: report.run.duration_us.saturating_mul(1_000),
            report_json: serde_json::to_string(&report).unwrap_or_default(),
        };
        if let Err(error) = self.store.end(ended).await {
            tracing::error!(error = %chain(&error), "the report cannot be stored");
        }
        tracing::info!(run = %live.run, exit_code, "run ended");
        self.views.send_replace(Some(Arc::new(live.view(now, Some(exit_code)))));
    }

    async fn settle(&mut self) {
        let now = boot_now();
        for (worker, member) in self.fleet.take_lost(now) {
            tracing::warn!(%worker, "worker is lost");
            self.sessions.remove(&worker);
            self.event(now, RunEvent::Lost { worker, incarnation: member.incarnation, lease_end: member.lease_until }).await;
        }
        if self.live.as_ref().is_some_and(|live| live.core.deadline(now).is_some()) {
            self.event(now, RunEvent::Tick).await;
        }
        self.commit(now);
        if now >= self.next_view {
            self.show(now, None);
        }
    }

    fn commit(&mut self, now: Moment) {
        let Some(live) = &mut self.live else { return };
        if self.committing.is_some() || now < self.next_commit || !(live.ingest.is_dirty() || self.failed.is_some()) {
            return;
        }
        let closing = live.core.stage() == Stage::Draining;
        self.next_commit = now + if closing { LAST_COMMIT_INTERVAL } else { COMMIT_INTERVAL };
        let fold = self.failed.take().unwrap_or_else(|| live.ingest.take_fold());
        let (store, run) = (self.store.clone(), live.run.clone());
        let task = tokio::spawn({
            let run = run.clone();
            async move {
                let result = store.commit(run, fold.clone()).await;
                (fold, result)
            }
        });
        self.committing = Some(Commit { run, task });
    }

    async fn committed(&mut self, (run, fold, result): (RunId, Fold, Result<(), StoreError>)) {
        if self.live.as_ref().is_none_or(|live| live.run != run) {
            return;
        }
        if let Err(error) = result {
            tracing::error!(error = %chain(&error), "counts cannot be committed; trying again, and acknowledging nothing meanwhile");
            self.failed = Some(fold);
            return;
        }
        for (worker, _, seq) in &fold.committed {
            self.order(worker, OrderMessage::Ack(pb::Ack { run: run.to_string(), seq: *seq }));
        }
        let complete = self.live.as_ref().map(LiveRun::complete).unwrap_or_default();
        let now = boot_now();
        for worker in complete {
            self.event(now, RunEvent::Sealed { worker }).await;
        }
    }

    fn show(&mut self, now: Moment, exit_code: Option<u8>) {
        self.next_view = now + VIEW_INTERVAL;
        if let Some(live) = &self.live {
            self.views.send_replace(Some(Arc::new(live.view(now, exit_code))));
        }
    }

    fn order(&mut self, worker: &WorkerId, message: OrderMessage) {
        let Some(session) = self.sessions.get(worker) else { return };
        if session.orders.try_send(pb::FromCoordinator { message: Some(message) }).is_err() {
            // The worker does not read; its session is closed, and orders are repeated on its next one.
            tracing::debug!(%worker, "the queue of orders is full or closed");
            self.sessions.remove(worker);
        }
    }

    fn workers(&self) -> Vec<pb::WorkerInfo> {
        let info = self.fleet.members().iter().map(|(worker, member)| {
            let busy = self.live.as_ref().is_some_and(|live| live.core.progress().any(|(id, _, is_live)| id == worker && is_live));
            pb::WorkerInfo {
                worker: worker.to_string(),
                state: if !self.sessions.contains_key(worker) { "silent" } else if busy { "busy" } else { "idle" }.to_owned(),
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

fn host_of(target: &str) -> String {
    url::Url::parse(target).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The commit under way, once it is through. Waits for ever where none is.
async fn committed(committing: &mut Option<Commit>) -> (RunId, Fold, Result<(), StoreError>) {
    let Some(commit) = committing else { return std::future::pending().await };
    let result = (&mut commit.task).await;
    let run = commit.run.clone();
    *committing = None;
    match result {
        Ok((fold, result)) => (run, fold, result),
        Err(_) => (run, Fold::default(), Err(StoreError::Closed)),
    }
}

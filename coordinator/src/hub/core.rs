//! What the coordinator does next. Pure: the fleet, the live run and the measures, driven by words of
//! workers and the passing of time. The actor performs what it decides; the simulator does, too.

use std::num::NonZeroU32;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, RunId, WorkerId};
use loadgrid_common::time::{Moment, nanos};
use loadgrid_common::wire::pb::{self, from_coordinator::Message as Order, from_worker::Message as Word};

use super::RunView;
use super::live::{LiveRun, Task};
use crate::fleet::{FleetCore, Refusal};
use crate::ingest::Fold;
use crate::report::Report;
use crate::run::{RunEvent, Stage};

/// How often counts are committed while load runs, and while workers wait for their last words to be in.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const LAST_COMMIT_INTERVAL: Duration = Duration::from_millis(50);
/// How often the view changes, if nothing of note happens.
const VIEW_INTERVAL: Duration = Duration::from_millis(250);

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Give a worker an order; it may be lost.
    Order(WorkerId, Box<Order>),
    /// End a worker's session: it has to present itself again.
    Close(WorkerId),
    /// Store this, then call [`HubCore::committed`].
    Commit(RunId, Fold),
    /// The live run has changed.
    Show(Box<RunView>),
    /// The live run has ended: store the rest and the report. Comes once for each run.
    Ended(Box<EndedLive>),
}

/// A run that has ended.
#[derive(Debug)]
pub struct EndedLive {
    /// Which.
    pub run: RunId,
    /// What is not stored yet.
    pub rest: Fold,
    /// Its report.
    pub report: Report,
    /// Its last view.
    pub view: RunView,
}

/// See the module.
#[derive(Debug)]
pub struct HubCore {
    lease: Duration,
    beat: Duration,
    fleet: FleetCore,
    live: Option<LiveRun>,
    commit: CommitState,
    next_commit: Moment,
    next_view: Moment,
}

#[derive(Debug)]
enum CommitState {
    Idle,
    /// A commit is under way; nothing of it is acknowledged before it is through.
    UnderWay,
    /// It failed and is tried again.
    Failed(Fold),
}

impl HubCore {
    /// A coordinator without workers.
    #[must_use]
    pub const fn new(lease: Duration, beat: Duration) -> Self {
        Self {
            lease,
            beat,
            fleet: FleetCore::new(lease),
            live: None,
            commit: CommitState::Idle,
            next_commit: Moment::ZERO,
            next_view: Moment::ZERO,
        }
    }

    /// The fleet.
    #[must_use]
    pub const fn fleet(&self) -> &FleetCore {
        &self.fleet
    }

    /// The live run's name.
    #[must_use]
    pub fn live(&self) -> Option<&RunId> {
        self.live.as_ref().map(|live| &live.run)
    }

    /// Iterations begun that were counted so far in the live run.
    #[must_use]
    pub fn counted_iterations(&self) -> u64 {
        let totals = self.live.iter().flat_map(|live| live.ingest.totals().values());
        totals.flat_map(|measures| measures.loads.values()).map(|load| load.started).sum()
    }

    /// Whether a worker belongs to the live run.
    #[must_use]
    pub fn is_busy(&self, worker: &WorkerId) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.core.progress().any(|(id, _, is_live)| id == worker && is_live))
    }

    /// When [`Self::tick`] should be called, if nothing else happens.
    #[must_use]
    pub fn deadline(&self, now: Moment) -> Moment {
        let mut next = now + Duration::from_secs(1);
        next = self.fleet.deadline().map_or(next, |deadline| deadline.min(next));
        if let Some(live) = &self.live {
            next = live.core.deadline(now).map_or(next, |deadline| deadline.min(next)).min(self.next_view);
            if live.ingest.is_dirty() && matches!(self.commit, CommitState::Idle)
                || matches!(self.commit, CommitState::Failed(_))
            {
                next = next.min(self.next_commit);
            }
        }
        next
    }

    /// A worker presents itself.
    ///
    /// # Errors
    /// Where it is not let in.
    pub fn hello(&mut self, now: Moment, hello: pb::Hello) -> Result<Vec<Output>, Refusal> {
        let worker = WorkerId::from(hello.worker.as_str());
        let incarnation = Incarnation(hello.incarnation);
        let threads = NonZeroU32::new(hello.threads).unwrap_or(NonZeroU32::MIN);
        self.fleet.hello(now, hello)?;
        let grid = self.live.as_ref().and_then(|live| live.plan.grid);
        let welcome = pb::Welcome {
            lease_ns: nanos(self.lease),
            beat_interval_ns: nanos(self.beat),
            snapshot_interval_ns: grid.map_or(1_000_000_000, |grid| grid.snapshot_ns),
            run: self.live.as_ref().map(|live| live.run.to_string()).unwrap_or_default(),
            // What is not acknowledged comes again, is found to be counted, and is acknowledged then.
            committed_seq: 0,
        };
        let mut out = vec![Output::Order(worker.clone(), Box::new(Order::Welcome(welcome)))];
        self.event(now, RunEvent::Present { worker, incarnation, threads }, &mut out);
        Ok(out)
    }

    /// A worker said something.
    pub fn said(
        &mut self,
        now: Moment,
        worker: &WorkerId,
        incarnation: Incarnation,
        word: Word,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        match word {
            Word::Hello(_) => {}
            Word::Beat(beat) => self.beat(now, worker, incarnation, beat, &mut out),
            Word::Health(health) => {
                let threads = self.fleet.members().get(worker).map_or(0, |member| member.hello.threads);
                if let Some(live) = &mut self.live {
                    live.health(worker, threads, &health);
                }
                self.fleet.health(worker, health);
            }
            Word::Snapshot(snapshot) => {
                let Some(live) = self.live.as_mut().filter(|live| live.run.as_str() == snapshot.run) else {
                    return out;
                };
                if let Err(error) = live.ingest.snapshot(worker, incarnation, &snapshot) {
                    tracing::error!(%worker, %error, "a snapshot cannot be read; the worker is turned away");
                    let reason = format!("a snapshot cannot be read: {error}");
                    out.push(Output::Order(worker.clone(), Box::new(Order::Reject(pb::Reject { reason }))));
                    out.push(Output::Close(worker.clone()));
                }
            }
            Word::Seal(seal) => {
                if let Some(live) = self.live.as_mut().filter(|live| live.run.as_str() == seal.run) {
                    live.ingest.seal(worker, incarnation, seal);
                    self.next_commit = now;
                }
            }
        }
        if let Some(threshold) = self.live.as_mut().and_then(|live| live.watch(false)) {
            self.event(now, RunEvent::Threshold(threshold), &mut out);
        }
        self.settle(now, &mut out);
        out
    }

    fn beat(
        &mut self,
        now: Moment,
        worker: &WorkerId,
        incarnation: Incarnation,
        beat: pb::Beat,
        out: &mut Vec<Output>,
    ) {
        let progress = beat.progress.unwrap_or_default();
        if !self.fleet.beat(now, worker, incarnation, &progress) {
            // It was lost, and has to present itself again.
            out.push(Output::Close(worker.clone()));
            return;
        }
        // A worker that was lost keeps what it measured, but its lease is not renewed for this run.
        if !self.live.as_ref().is_some_and(|live| live.core.is_fenced(worker)) {
            let (received_ns, echoed_ns) = (now.as_nanos(), now.as_nanos());
            let echo = pb::BeatEcho { seq: beat.seq, sent_ns: beat.sent_ns, received_ns, echoed_ns };
            out.push(Output::Order(worker.clone(), Box::new(Order::Echo(echo))));
        }
        let is_live = self.live.as_ref().is_some_and(|live| live.run.as_str() == progress.run);
        if !progress.run.is_empty() && !is_live {
            let release = pb::Release { run: progress.run.clone() };
            out.push(Output::Order(worker.clone(), Box::new(Order::Release(release))));
        }
        self.event(
            now,
            RunEvent::Progress { worker: worker.clone(), incarnation, progress: Box::new(progress) },
            out,
        );
    }

    /// A run begins. There must be none.
    pub(super) fn begin(&mut self, now: Moment, live: LiveRun) -> Vec<Output> {
        let mut out = Vec::new();
        self.live = Some(live);
        self.commit = CommitState::Idle;
        let present = self.present();
        present.into_iter().for_each(|event| self.event(now, event, &mut out));
        self.show(now, &mut out);
        out
    }

    /// All workers, as events for a run.
    fn present(&self) -> Vec<RunEvent> {
        let members = self.fleet.members().iter();
        members
            .map(|(worker, member)| RunEvent::Present {
                worker: worker.clone(),
                incarnation: member.incarnation,
                threads: NonZeroU32::new(member.hello.threads).unwrap_or(NonZeroU32::MIN),
            })
            .collect()
    }

    /// Somebody wants the live run to end.
    pub fn stop(&mut self, now: Moment, interrupted: bool, abort: bool) -> Vec<Output> {
        let mut out = Vec::new();
        self.event(now, RunEvent::Stop { interrupted, abort }, &mut out);
        out
    }

    /// A commit is through, or has failed.
    pub fn committed(&mut self, now: Moment, run: &RunId, fold: Fold, stored: bool) -> Vec<Output> {
        let mut out = Vec::new();
        if self.live() != Some(run) {
            return out;
        }
        if !stored {
            self.commit = CommitState::Failed(fold);
            return out;
        }
        self.commit = CommitState::Idle;
        for (worker, _, seq) in fold.committed {
            out.push(Output::Order(worker, Box::new(Order::Ack(pb::Ack { run: run.to_string(), seq }))));
        }
        let complete = self.live.as_ref().map(LiveRun::complete).unwrap_or_default();
        complete.into_iter().for_each(|worker| self.event(now, RunEvent::Sealed { worker }, &mut out));
        self.settle(now, &mut out);
        out
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) -> Vec<Output> {
        let mut out = Vec::new();
        self.settle(now, &mut out);
        self.event(now, RunEvent::Tick, &mut out);
        if now >= self.next_view {
            self.show(now, &mut out);
        }
        out
    }

    fn settle(&mut self, now: Moment, out: &mut Vec<Output>) {
        for (worker, member) in self.fleet.take_lost(now) {
            tracing::warn!(%worker, "worker is lost");
            out.push(Output::Close(worker.clone()));
            self.event(
                now,
                RunEvent::Lost { worker, incarnation: member.incarnation, lease_end: member.lease_until },
                out,
            );
            // Who came meanwhile may take its place.
            self.present().into_iter().for_each(|event| self.event(now, event, out));
        }
        let Some(live) = &mut self.live else { return };
        let fold = match &mut self.commit {
            CommitState::UnderWay => return,
            _ if now < self.next_commit => return,
            CommitState::Failed(fold) => std::mem::take(fold),
            CommitState::Idle if live.ingest.is_dirty() => live.ingest.take_fold(),
            CommitState::Idle => return,
        };
        let closing = live.core.stage() == Stage::Draining;
        self.next_commit = now + if closing { LAST_COMMIT_INTERVAL } else { COMMIT_INTERVAL };
        self.commit = CommitState::UnderWay;
        out.push(Output::Commit(live.run.clone(), fold));
    }

    fn event(&mut self, now: Moment, event: RunEvent, out: &mut Vec<Output>) {
        let Some(live) = &mut self.live else { return };
        let before = live.core.stage();
        let mut ended = false;
        for task in live.handle(now, event) {
            match task {
                Task::Send(worker, order) => out.push(Output::Order(worker, order)),
                Task::Ended => ended = true,
            }
        }
        let changed = live.core.stage() != before;
        if ended {
            self.end(now, out);
        } else if changed {
            self.show(now, out);
        }
    }

    fn end(&mut self, now: Moment, out: &mut Vec<Output>) {
        let Some(mut live) = self.live.take() else { return };
        // The last intervals end nothing any more, but they are judged.
        drop(live.watch(true));
        let mut rest = live.ingest.take_fold();
        if let CommitState::Failed(fold) = std::mem::replace(&mut self.commit, CommitState::Idle) {
            rest.merge(fold);
        }
        let report = live.report(now);
        let view = live.view(now, Some(report.verdict.exit_code));
        out.push(Output::Ended(Box::new(EndedLive { run: live.run, rest, report, view })));
    }

    fn show(&mut self, now: Moment, out: &mut Vec<Output>) {
        self.next_view = now + VIEW_INTERVAL;
        if let Some(live) = &self.live {
            out.push(Output::Show(Box::new(live.view(now, None))));
        }
    }
}

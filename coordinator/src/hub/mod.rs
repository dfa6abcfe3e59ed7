//! The coordinator's one actor: it owns the fleet, the live run and its measures, and performs what their
//! cores decide. Everybody else holds a [`Hub`] (verbs) or a `watch` of a [`RunView`].

mod actor;
pub mod core;
mod live;
mod view;

use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, RunId, WorkerId};
use loadgrid_common::plan;
use loadgrid_common::wire::pb;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::view::{PhaseView, RunView};

use crate::fleet::Refusal;
use crate::store::Store;

/// How a coordinator behaves.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// How long a worker may go on without a word.
    pub lease: Duration,
    /// How often workers say something.
    pub beat: Duration,
    /// Hosts that may be sent load.
    pub allowed_targets: Vec<String>,
    /// Where the secrets of scenarios' `store` are, one file each.
    pub secrets: Option<std::path::PathBuf>,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            beat: Duration::from_millis(500),
            allowed_targets: vec!["loopback".to_owned()],
            secrets: None,
        }
    }
}

/// A run to begin.
#[derive(Debug)]
pub struct Submission {
    /// What to run.
    pub bundle: plan::Bundle,
    /// Workers to wait for; at least what the scenario asks for.
    pub expect_workers: u32,
    /// How long to wait for them; as the scenario says where absent.
    pub wait: Option<Duration>,
}

/// Why a run is not begun.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// One at a time.
    #[error(
        "the run {0} is live; a coordinator carries out one run at a time (stop it, or wait for its end)"
    )]
    Busy(RunId),
    /// The plan cannot be read.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// A target that may not be sent load.
    #[error("`{host}` may not be sent load by this coordinator; start it with --allow-target {host}")]
    NotAllowed {
        /// The host.
        host: String,
    },
    /// A secret that the coordinator does not have.
    #[error("the secret `{name}` is not here: {reason}")]
    Secret {
        /// Its name in the directory of secrets.
        name: String,
        /// Why it cannot be read.
        reason: String,
    },
    /// The store.
    #[error("the run cannot be stored")]
    Store(#[from] crate::store::StoreError),
    /// The coordinator is going away.
    #[error("the coordinator is shutting down")]
    Closing,
}

/// Orders on their way to one worker. They are repeated until obeyed, so where the queue is full they are
/// dropped.
pub(crate) type Orders = mpsc::Sender<pb::FromCoordinator>;

/// What the actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    Opened { hello: pb::Hello, orders: Orders, session: u64, reply: oneshot::Sender<Result<(), Refusal>> },
    Said { worker: WorkerId, incarnation: Incarnation, session: u64, word: Box<pb::from_worker::Message> },
    Closed { worker: WorkerId, session: u64 },
    Submit { submission: Box<Submission>, reply: oneshot::Sender<Result<RunId, SubmitError>> },
    Stop { run: RunId, interrupted: bool, abort: bool, reply: oneshot::Sender<bool> },
    Workers { reply: oneshot::Sender<Vec<pb::WorkerInfo>> },
}

/// What may wait for the actor. Where it is full, sessions wait, and with them their workers' outboxes.
const MESSAGES: usize = 1_024;

impl core::HubCore {
    /// Begins a run; for the simulator, which has no actor.
    ///
    /// # Errors
    /// Where another run is live, or the plan cannot be carried out.
    pub fn submit(
        &mut self,
        now: loadgrid_common::time::Moment,
        run: RunId,
        submission: Submission,
        allowed: &[String],
    ) -> Result<Vec<core::Output>, SubmitError> {
        if let Some(run) = self.live() {
            return Err(SubmitError::Busy(run.clone()));
        }
        let live = live::LiveRun::begin(now, run, submission, allowed, String::new())?;
        Ok(self.begin(now, live))
    }
}

/// A handle to the actor.
#[derive(Clone, Debug)]
pub struct Hub {
    messages: mpsc::Sender<Message>,
    views: watch::Receiver<Option<Arc<RunView>>>,
    store: Store,
}

/// The actor is gone.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub struct Gone;

impl Hub {
    /// Starts the actor on the current runtime; it ends with `stop`, or when all handles are gone.
    pub fn start(
        config: HubConfig,
        store: Store,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (messages, receiver) = mpsc::channel(MESSAGES);
        let (views_in, views) = watch::channel(None);
        let actor = actor::Actor::new(config, store.clone(), views_in);
        let task = tokio::spawn(actor.run(receiver, stop));
        (Self { messages, views, store }, task)
    }

    /// The store, for reading.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The view of the newest run, and every change of it.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Option<Arc<RunView>>> {
        self.views.clone()
    }

    /// Begins a run.
    ///
    /// # Errors
    /// Where it is not begun.
    pub async fn submit(&self, submission: Submission) -> Result<RunId, SubmitError> {
        let answer = self.ask(|reply| Message::Submit { submission: Box::new(submission), reply }).await;
        answer.map_err(|_| SubmitError::Closing)?
    }

    /// Asks a run to end. Says whether it was live.
    ///
    /// # Errors
    /// Where the coordinator is going away.
    pub async fn stop(&self, run: RunId, interrupted: bool, abort: bool) -> Result<bool, Gone> {
        self.ask(|reply| Message::Stop { run, interrupted, abort, reply }).await
    }

    /// Who is there.
    ///
    /// # Errors
    /// Where the coordinator is going away.
    pub async fn workers(&self) -> Result<Vec<pb::WorkerInfo>, Gone> {
        self.ask(|reply| Message::Workers { reply }).await
    }

    pub(crate) async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    pub(crate) async fn tell(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).await.map_err(|_| Gone)
    }
}

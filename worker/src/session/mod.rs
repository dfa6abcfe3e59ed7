//! The line to the coordinator: a pure core, and the actor that performs what it decides.
//!
//! The actor has a thread and a runtime of its own, so that a busy load thread cannot widen the clock's
//! uncertainty or delay a beat.

mod backoff;
mod clock;
pub mod core;
mod outbox;
mod reach;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::causes::with_causes;
use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::lease::Lease;
use loadgrid_common::process::{ProcessUse, boot_now, head_room, process_use};
use loadgrid_common::targets::AllowedTargets;
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb::{self, from_worker::Message as Word, grid_client::GridClient};
use loadgrid_common::wire::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use self::backoff::backoff;
pub use self::clock::{ClockEstimate, Offset, Probe};
pub use self::core::{Begin, Effect, Event, SessionCore};
pub use self::outbox::{Interval, Outbox};

use crate::client::ClientSettings;
use crate::engine::{
    Blobs, BlockOrder, Engine, EngineEvent, Order, PhaseOrder, Program, RunSetup, Secrets, Table,
};

/// How a worker presents itself.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name in the grid.
    pub name: WorkerId,
    /// Load threads.
    pub threads: NonZeroU32,
    /// Hosts that this worker may send load to, beside what the coordinator allows; all where absent.
    pub allowed: Option<AllowedTargets>,
}

/// Makes a channel to the coordinator.
pub type Dial = Arc<dyn Fn() -> Channel + Send + Sync>;

/// Why a worker ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator does not want it.
    #[error("the coordinator refuses this worker: {0}")]
    Rejected(String),
}

/// Words waiting to go out. The core says a handful a second; a full queue means that the line hangs, and
/// it is dropped and made anew.
const WORDS: usize = 256;
/// What load threads tell; a thread waits where it is full, and goes on recording.
const ENGINE_EVENTS: usize = 1_024;
/// How often the worker tells how it is.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait for the answer to a hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// Works until it is told to stop.
///
/// # Errors
/// Where the coordinator refuses this worker for good.
pub async fn run(config: WorkerConfig, dial: Dial, stop: CancellationToken) -> Result<(), WorkerError> {
    let lease = Arc::new(Lease::default());
    let incarnation = Incarnation::fresh();
    let core =
        SessionCore::new(config.name.as_str().to_owned(), incarnation.0, config.threads.get(), lease.clone());
    let (events_in, events) = mpsc::channel(ENGINE_EVENTS);
    let mut actor = Actor {
        config,
        incarnation,
        core,
        lease,
        events_in,
        events,
        engine: EngineState::None,
        words: None,
        used: process_use(),
        used_at: boot_now(),
    };
    let mut attempt = 0;
    while !stop.is_cancelled() {
        let ended = actor.session(&dial, &stop).await?;
        if ended == SessionEnd::AfterWelcome {
            attempt = 0;
        }
        let pause = backoff(attempt, incarnation.0);
        attempt += 1;
        if !stop.is_cancelled() {
            tracing::debug!(?pause, attempt, "no line to the coordinator; trying again");
            actor.idle(pause, &stop).await;
        }
    }
    actor.end().await;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionEnd {
    BeforeWelcome,
    AfterWelcome,
}

enum EngineState {
    None,
    /// Being started, perhaps waiting for its target; the token ends that.
    Starting(JoinHandle<Result<Engine, String>>, CancellationToken),
    Running(Engine),
}

struct Actor {
    config: WorkerConfig,
    incarnation: Incarnation,
    core: SessionCore,
    lease: Arc<Lease>,
    events_in: mpsc::Sender<EngineEvent>,
    events: mpsc::Receiver<EngineEvent>,
    engine: EngineState,
    words: Option<mpsc::Sender<pb::FromWorker>>,
    used: ProcessUse,
    used_at: Moment,
}

impl Actor {
    /// One line to the coordinator, from hello to its end.
    async fn session(&mut self, dial: &Dial, stop: &CancellationToken) -> Result<SessionEnd, WorkerError> {
        let mut client = GridClient::new(dial())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (words, outgoing) = mpsc::channel(WORDS);
        let hello = Word::Hello(self.hello());
        if words.try_send(pb::FromWorker { message: Some(hello) }).is_err() {
            return Ok(SessionEnd::BeforeWelcome);
        }
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(SessionEnd::BeforeWelcome),
            opened = tokio::time::timeout(HELLO_LIMIT, client.session(ReceiverStream::new(outgoing))) => opened,
        };
        let mut incoming = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(%status, "the coordinator does not answer");
                return match status.code() {
                    tonic::Code::PermissionDenied
                    | tonic::Code::Unauthenticated
                    | tonic::Code::FailedPrecondition => {
                        Err(WorkerError::Rejected(status.message().to_owned()))
                    }
                    _ => Ok(SessionEnd::BeforeWelcome),
                };
            }
            Err(_) => return Ok(SessionEnd::BeforeWelcome),
        };
        self.words = Some(words);
        let mut end = SessionEnd::BeforeWelcome;
        let mut health = tokio::time::interval(HEALTH_INTERVAL);
        health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.happened(Event::Connected)?;
        while self.words.is_some() {
            tokio::select! {
                () = stop.cancelled() => break,
                said = incoming.message() => match said {
                    Ok(Some(pb::FromCoordinator { message: Some(message) })) => {
                        end = SessionEnd::AfterWelcome;
                        self.happened(Event::Said(message))?;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(status) => {
                        tracing::debug!(%status, "the line to the coordinator broke");
                        break;
                    }
                },
                event = self.events.recv() => self.engine_said(event)?,
                started = started(&mut self.engine) => self.engine_started(started)?,
                _ = health.tick() => self.tell_health(),
                () = sleep_until(self.core.deadline()) => self.happened(Event::Tick)?,
            }
        }
        self.words = None;
        Ok(end)
    }

    /// Waits without a line; load goes on under its lease, and its measures are kept.
    async fn idle(&mut self, pause: Duration, stop: &CancellationToken) {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                () = &mut until => return,
                event = self.events.recv() => event,
            };
            if let Err(error) = self.engine_said(event) {
                tracing::warn!(%error, "an event could not be handled without a line");
            }
        }
    }

    fn hello(&self) -> pb::Hello {
        let room = head_room();
        pb::Hello {
            worker: self.config.name.as_str().to_owned(),
            incarnation: self.incarnation.0,
            protocol: PROTOCOL_VERSION,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            threads: self.config.threads.get(),
            memory_bytes: room.memory_bytes,
            free_descriptors: room.descriptors,
            free_ports: room.ports,
            labels: HashMap::new(),
        }
    }

    fn engine_said(&mut self, event: Option<EngineEvent>) -> Result<(), WorkerError> {
        match event {
            None => Ok(()),
            Some(EngineEvent::Measured { thread, phase, from, to, measures, users }) => {
                self.happened(Event::Measured { thread, phase, from, to, measures, users })
            }
            Some(EngineEvent::Zero { phase, seen_minus_zero_ns }) => {
                self.happened(Event::Zero { phase, seen_minus_zero_ns })
            }
            Some(EngineEvent::Ready { thread, phase }) => self.happened(Event::Ready { thread, phase }),
            Some(EngineEvent::Yielded { json, failed }) => self.happened(Event::Yielded { json, failed }),
            Some(EngineEvent::Wanted { thread, phase, load, number }) => {
                self.happened(Event::Wanted { thread, phase, load, number })
            }
            Some(EngineEvent::TurnEnded { phase, load, user }) => {
                self.happened(Event::TurnEnded { phase, load, user })
            }
            Some(EngineEvent::PhaseEnded { thread, phase }) => {
                self.happened(Event::PhaseEnded { thread, phase })
            }
            Some(EngineEvent::EndRun) => self.happened(Event::EndRun),
        }
    }

    fn engine_started(&mut self, started: Result<Engine, String>) -> Result<(), WorkerError> {
        match started {
            Ok(engine) => {
                self.engine = EngineState::Running(engine);
                self.happened(Event::Armed)
            }
            Err(reason) => {
                self.engine = EngineState::None;
                self.happened(Event::Refused(reason))
            }
        }
    }

    fn happened(&mut self, event: Event) -> Result<(), WorkerError> {
        for effect in self.core.handle(boot_now(), event) {
            self.perform(effect)?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> Result<(), WorkerError> {
        match effect {
            Effect::Say(word) => self.say(*word),
            Effect::Load { prepare, tables } => {
                let (config, lease, events) =
                    (self.config.clone(), self.lease.clone(), self.events_in.clone());
                let cancel = CancellationToken::new();
                let cancelled = cancel.clone();
                let starting = tokio::task::spawn_blocking(move || {
                    start_engine(&config, *prepare, &tables, lease, &events, &cancelled)
                        .map_err(|error| with_causes(&*error))
                });
                self.engine = EngineState::Starting(starting, cancel);
            }
            Effect::Begin(begin) => self.order(&Order::Begin(PhaseOrder {
                phase: begin.phase,
                zero: begin.zero,
                run_zero: begin.run_zero,
                cycle: begin.cycle,
                owner: begin.owner,
                alone: begin.alone,
                setup_json: begin.setup_json,
                after_failure: begin.after_failure,
            })),
            Effect::Zero { phase, zero } => self.order(&Order::Zero { phase, zero }),
            Effect::EndPhase { phase, abort } => self.order(&Order::EndPhase { phase, abort }),
            Effect::Block(block) => self.order(&Order::Block(BlockOrder {
                phase: block.phase,
                load: block.load,
                thread: block.thread,
                number: block.number,
                first: block.first,
                count: block.count,
            })),
            Effect::Turn(turn) => {
                self.order(&Order::Turn { phase: turn.phase, load: turn.load, user: turn.user })
            }
            Effect::Drain => self.order(&Order::Drain),
            Effect::Abort => self.order(&Order::Abort),
            Effect::Forget => self.forget(),
            Effect::Rejected(reason) => return Err(WorkerError::Rejected(reason)),
        }
        Ok(())
    }

    fn say(&mut self, word: Word) {
        let Some(words) = &self.words else { return };
        if words.try_send(pb::FromWorker { message: Some(word) }).is_err() {
            // The line hangs. What was lost is said again on the next one.
            self.words = None;
        }
    }

    fn order(&self, order: &Order) {
        if let EngineState::Running(engine) = &self.engine {
            engine.order(order);
        }
    }

    fn forget(&mut self) {
        match std::mem::replace(&mut self.engine, EngineState::None) {
            EngineState::Running(engine) => {
                engine.order(&Order::Abort);
                // A fresh queue for the next run: what the old threads still say is not for it.
                (self.events_in, self.events) = mpsc::channel(ENGINE_EVENTS);
                tokio::task::spawn_blocking(move || engine.join());
            }
            // What is started all the same ends when its result is dropped.
            EngineState::Starting(_, cancel) => cancel.cancel(),
            EngineState::None => {}
        }
    }

    fn tell_health(&mut self) {
        let (now, used) = (boot_now(), process_use());
        let seconds = now.since(self.used_at).as_secs_f64();
        let cpu_percent =
            if seconds > 0.0 { (used.cpu_seconds - self.used.cpu_seconds) / seconds * 100.0 } else { 0.0 };
        (self.used, self.used_at) = (used, now);
        let health = pb::Health {
            cpu_percent,
            rss_bytes: used.rss_bytes,
            open_descriptors: used.descriptors,
            lateness_p99_us: 0,
            unsent_snapshots: self.core.backlog() as u64,
        };
        self.say(Word::Health(health));
    }

    async fn end(&mut self) {
        self.words = None;
        let engine = match std::mem::replace(&mut self.engine, EngineState::None) {
            EngineState::Running(engine) => Some(engine),
            EngineState::Starting(starting, cancel) => {
                cancel.cancel();
                starting.await.ok().and_then(Result::ok)
            }
            EngineState::None => None,
        };
        if let Some(engine) = engine {
            engine.order(&Order::Abort);
            (self.events_in, self.events) = mpsc::channel(1);
            if tokio::task::spawn_blocking(move || engine.join()).await.is_err() {
                tracing::error!("ending the load threads failed");
            }
        }
    }
}

fn start_engine(
    config: &WorkerConfig,
    prepare: pb::Prepare,
    tables: &BTreeMap<String, Vec<u8>>,
    lease: Arc<Lease>,
    events: &mpsc::Sender<EngineEvent>,
    cancelled: &CancellationToken,
) -> Result<Engine, Box<dyn std::error::Error + Send + Sync>> {
    let plan = loadgrid_common::plan::decode(&prepare.plan)?;
    let interval =
        Duration::from_nanos(plan.grid.map_or(1_000_000_000, |grid| grid.snapshot_ns).max(1_000_000));
    let mut parsed = HashMap::new();
    for source in &plan.sources {
        if let Some(loadgrid_common::plan::source::Kind::TableHash(hash)) = &source.kind
            && let Some(bytes) = tables.get(hash)
        {
            let key = Table::key(hash, &source.weight_column);
            parsed.insert(key, Table::shared(hash, bytes, &source.weight_column)?);
        }
    }
    let blobs = plan.blobs.iter().filter_map(|hash| {
        let content = tables.get(hash)?;
        Some((hash.clone(), bytes::Bytes::copy_from_slice(content)))
    });
    let blobs: Blobs = blobs.collect();
    let mut allowed = AllowedTargets::new(&prepare.allowed_targets);
    if let Some(own) = &config.allowed {
        allowed = allowed.narrowed(own.clone());
    }
    let program = Arc::new(Program::compile(plan, &parsed, blobs)?);
    let clients = ClientSettings::new(&program.client_options(&prepare.secrets)?, allowed)?;
    match &program.plan().wait_for {
        Some(wait) => reach::wait_for(wait, &clients, cancelled)?,
        None => reach::connect(&program.plan().target, &clients)?,
    }
    let setup =
        RunSetup { run: prepare.run, program, secrets: Secrets(prepare.secrets), clients, lease, interval };
    Ok(Engine::start(&setup, config.threads, events)?)
}

/// The engine that was being started, once it is. Waits for ever where none is.
async fn started(engine: &mut EngineState) -> Result<Engine, String> {
    match engine {
        EngineState::Starting(starting, _) => match starting.await {
            Ok(started) => started,
            Err(error) => Err(format!("starting the load threads failed: {error}")),
        },
        EngineState::None | EngineState::Running(_) => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Moment) {
    tokio::time::sleep(deadline.since(boot_now())).await;
}

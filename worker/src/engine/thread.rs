//! Load threads and their orders.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::expression::Value;
use loadgrid_common::lease::Lease;
use loadgrid_common::process::{Timer, boot_now, monotonic_of, now};
use loadgrid_common::schedule::Cycle;
use loadgrid_common::stats::Measures;
use loadgrid_common::targets::AllowedTargets;
use loadgrid_common::time::Moment;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::phase::{self, Phase, Stops, Thread};
use super::program::Program;
use super::user::run_hash;
use crate::client::{ClientError, ClientSettings};
use crate::record::Recorder;

/// What a run needs on a worker, beside its plan.
#[derive(Clone, Debug)]
pub struct RunSetup {
    /// The run.
    pub run: String,
    /// The compiled plan.
    pub program: Arc<Program>,
    /// Secrets by name. Kept in memory only, and never shown.
    pub secrets: Secrets,
    /// Hosts that may be sent load.
    pub allowed: AllowedTargets,
    /// The licence to start load.
    pub lease: Arc<Lease>,
    /// How often threads report.
    pub interval: Duration,
}

/// Values that no log may show.
#[derive(Clone, Default)]
pub struct Secrets(pub std::collections::HashMap<String, String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// One phase, as the worker owns its share of it.
#[derive(Clone, Debug)]
pub struct PhaseOrder {
    /// Which.
    pub phase: u32,
    /// Phase zero, on this machine's boot-time clock.
    pub zero: Moment,
    /// Origin of run time, on this machine's boot-time clock.
    pub run_zero: Moment,
    /// Who owns which slot.
    pub cycle: Arc<Cycle>,
    /// This worker's place among the owners; `None` where it owns nothing.
    pub owner: Option<u32>,
}

/// An order to every load thread.
#[derive(Clone, Debug)]
pub enum Order {
    /// Carry out a phase.
    Begin(PhaseOrder),
    /// Start no new iteration.
    Drain,
    /// Drop what is under way.
    Abort,
}

/// What a load thread tells.
#[derive(Debug)]
pub enum EngineEvent {
    /// What it measured in one interval of one phase.
    Measured {
        /// Thread.
        thread: u32,
        /// Phase.
        phase: u32,
        /// Interval in run time.
        from: Duration,
        /// End of the interval.
        to: Duration,
        /// The counts.
        measures: Box<Measures>,
        /// Users alive at its end.
        users: u32,
    },
    /// Its pacer saw phase zero, so many nanoseconds after it.
    Zero {
        /// Phase.
        phase: u32,
        /// Signed difference.
        seen_minus_zero_ns: i64,
    },
    /// All its users of a phase have ended, and all their measures were sent.
    PhaseEnded {
        /// Thread.
        thread: u32,
        /// Phase.
        phase: u32,
    },
    /// The scenario said `end: run`.
    EndRun,
}

/// Why load threads cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system refuses.
    #[error("cannot start a load thread")]
    Thread(#[from] std::io::Error),
    /// The HTTP client refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Orders a thread may have waiting. The session sends a handful in a run; a full queue means that the
/// thread is gone.
const ORDERS: usize = 64;

/// The load threads of one run. Dropping it ends them: their queues close.
#[derive(Debug)]
pub struct Engine {
    orders: Vec<mpsc::Sender<Order>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts `threads` load threads. `events` has room for what they tell; a thread waits where it is full,
    /// and goes on recording meanwhile.
    ///
    /// # Errors
    /// Where a thread cannot be made.
    pub fn start(
        setup: &RunSetup,
        threads: NonZeroU32,
        events: &mpsc::Sender<EngineEvent>,
    ) -> Result<Self, EngineError> {
        let clients = ClientSettings::new(setup.program.connect_timeout(), setup.allowed.clone())?;
        let mut engine = Self { orders: Vec::new(), threads: Vec::new() };
        for thread in 0..threads.get() {
            let (sender, receiver) = mpsc::channel(ORDERS);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let load = LoadThread {
                setup: setup.clone(),
                clients: clients.clone(),
                thread,
                threads,
                events: events.clone(),
            };
            let handle = std::thread::Builder::new().name(format!("load-{thread}")).spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, load.run(receiver));
            })?;
            engine.orders.push(sender);
            engine.threads.push(handle);
        }
        Ok(engine)
    }

    /// Gives an order to every thread.
    pub fn order(&self, order: &Order) {
        for sender in &self.orders {
            if sender.try_send(order.clone()).is_err() {
                tracing::error!("a load thread does not take orders any more");
            }
        }
    }

    /// Ends the threads and waits for them. May block for as long as a drop of all users takes.
    pub fn join(self) {
        drop(self.orders);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a load thread has panicked");
            }
        }
    }
}

struct LoadThread {
    setup: RunSetup,
    clients: ClientSettings,
    thread: u32,
    threads: NonZeroU32,
    events: mpsc::Sender<EngineEvent>,
}

impl LoadThread {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let timer = match Timer::new() {
            Ok(timer) => timer,
            Err(error) => {
                tracing::error!(%error, "a load thread has no timer");
                return;
            }
        };
        let ringing = tokio::task::spawn_local({
            let timer = timer.clone();
            async move { timer.drive().await }
        });
        let thread = Rc::new(self.shared(timer));
        let tasks = TaskTracker::new();
        let mut stops = Stops::default();
        let mut draining = false;
        while let Some(order) = orders.recv().await {
            match order {
                Order::Begin(order) => {
                    stops = Stops::default();
                    if draining {
                        stops.drain();
                    }
                    let run = self.phase(thread.clone(), order, stops.clone());
                    tasks.spawn_local(run);
                }
                Order::Drain => {
                    draining = true;
                    stops.drain();
                }
                Order::Abort => {
                    draining = true;
                    stops.abort();
                }
            }
        }
        stops.abort();
        tasks.close();
        tasks.wait().await;
        ringing.abort();
    }

    fn shared(&self, timer: Timer) -> Thread {
        let setup = &self.setup;
        let mut default_headers = http::HeaderMap::new();
        default_headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("*/*"));
        let agent = format!("loadgrid/{} run/{}", env!("CARGO_PKG_VERSION"), setup.run);
        if let Ok(agent) = http::HeaderValue::from_str(&agent) {
            default_headers.insert(http::header::USER_AGENT, agent);
        }
        Thread {
            program: setup.program.clone(),
            timer,
            recorder: Recorder::default(),
            client_settings: self.clients.clone(),
            default_headers,
            secrets: Value::from_pairs(
                setup.secrets.0.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))),
            ),
            run_value: Value::from_pairs([("id", Value::from(setup.run.clone()))]),
            run_hash: run_hash(&setup.run),
            seed: setup.program.plan().seed,
            lease: setup.lease.clone(),
            users: Cell::new(0),
            end_run: Cell::new(false),
        }
    }

    /// Carries out a phase and reports every interval of it, to the last.
    fn phase(
        &self,
        thread: Rc<Thread>,
        order: PhaseOrder,
        stops: Stops,
    ) -> impl Future<Output = ()> + 'static {
        let (events, number, threads) = (self.events.clone(), self.thread, self.threads);
        let interval = self.setup.interval;
        async move {
            let index = order.phase;
            let zero = monotonic_of(order.zero);
            let run_zero = monotonic_of(order.run_zero);
            let phase = Rc::new(Phase {
                thread: thread.clone(),
                index,
                zero,
                stops: stops.clone(),
                users: TaskTracker::new(),
            });
            let reporter =
                Reporter { thread: thread.clone(), events: events.clone(), number, phase: index, run_zero };
            let (cycle, owner) = (order.cycle, order.owner);
            let stripe = move |users| match owner {
                Some(owner) => cycle.stripe(owner, number, threads, users),
                None => cycle.stripe(u32::MAX, number, threads, users),
            };
            let zero_events = events.clone();
            let running = phase::run(phase, stripe, move |seen_minus_zero_ns| {
                // Dropped where the queue is full: the skew is then unknown for this thread, not wrong.
                if zero_events.try_send(EngineEvent::Zero { phase: index, seen_minus_zero_ns }).is_err() {
                    tracing::warn!("the queue of measurements is full");
                }
            });
            let mut from = reporter.run_time();
            let mut running = std::pin::pin!(running);
            loop {
                let edge = next_edge(from, interval);
                tokio::select! {
                    () = &mut running => break,
                    () = thread.timer.sleep_until(run_zero + edge) => {
                        reporter.report(from, edge).await;
                        from = edge;
                        if thread.end_run.get() && !stops.draining.is_cancelled() {
                            stops.drain();
                            reporter.tell(EngineEvent::EndRun).await;
                        }
                    }
                }
            }
            reporter.report(from, reporter.run_time().max(from)).await;
            if thread.end_run.get() {
                reporter.tell(EngineEvent::EndRun).await;
            }
            reporter.tell(EngineEvent::PhaseEnded { thread: number, phase: index }).await;
        }
    }
}

/// The next multiple of the interval after `from`, so that all workers cut at the same instants.
fn next_edge(from: Duration, interval: Duration) -> Duration {
    let interval = interval.as_nanos().max(1);
    let next = (from.as_nanos() / interval + 1) * interval;
    Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
}

struct Reporter {
    thread: Rc<Thread>,
    events: mpsc::Sender<EngineEvent>,
    number: u32,
    phase: u32,
    run_zero: Moment,
}

impl Reporter {
    fn run_time(&self) -> Duration {
        now().since(self.run_zero)
    }

    async fn report(&self, from: Duration, to: Duration) {
        let measures = Box::new(self.thread.recorder.take());
        let (thread, phase, users) = (self.number, self.phase, self.thread.users.get());
        self.tell(EngineEvent::Measured { thread, phase, from, to, measures, users }).await;
    }

    async fn tell(&self, event: EngineEvent) {
        if self.events.send(event).await.is_err() {
            tracing::debug!(at = %boot_now(), "nobody listens to this thread any more");
        }
    }
}

//! Load threads and their orders.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::expression::{Value, from_json};
use loadgrid_common::lease::Lease;
use loadgrid_common::process::{Timer, boot_now, monotonic_of, now};
use loadgrid_common::schedule::{Cycle, Stripe};
use loadgrid_common::stats::Measures;
use loadgrid_common::time::Moment;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::cap::Caps;
use super::grants::{GrantWord, Grants, Words};
use super::phase::{self, Phase, Stops, Thread};
use super::program::Program;
use super::user::run_hash;
use crate::client::{ClientSettings, ConnectionSource};
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
    /// How clients behave.
    pub clients: ClientSettings,
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
    /// Phase zero, on this machine's boot-time clock; `None`: users are prepared, and it comes in an [`Order::Zero`].
    pub zero: Option<Moment>,
    /// Origin of run time, on this machine's boot-time clock.
    pub run_zero: Moment,
    /// Who owns which slot.
    pub cycle: Arc<Cycle>,
    /// This worker's place among the owners; `None` where it owns nothing.
    pub owner: Option<u32>,
    /// Set where one worker carries the phase out alone; whether it is this one.
    pub alone: Option<bool>,
    /// What `setup` yielded, as JSON.
    pub setup_json: Arc<str>,
    /// Setup has failed.
    pub after_failure: bool,
}

/// A block of shared iterations for one thread.
#[derive(Clone, Copy, Debug)]
pub struct BlockOrder {
    /// Phase.
    pub phase: u32,
    /// Load.
    pub load: u32,
    /// Thread.
    pub thread: u32,
    /// Which block of that thread, from 1.
    pub number: u64,
    /// First iteration.
    pub first: u64,
    /// How many; none where there are no more.
    pub count: u64,
}

/// An order to every load thread.
#[derive(Clone, Debug)]
pub enum Order {
    /// Carry out a phase.
    Begin(PhaseOrder),
    /// The zero of a phase whose users are prepared, on this machine's boot-time clock.
    Zero {
        /// Phase.
        phase: u32,
        /// Phase zero.
        zero: Moment,
    },
    /// A phase is over: nothing new begins in it.
    EndPhase {
        /// Phase.
        phase: u32,
        /// Drop what is under way.
        abort: bool,
    },
    /// Iterations to carry out.
    Block(BlockOrder),
    /// It is the turn of this user (1 + index).
    Turn {
        /// Phase.
        phase: u32,
        /// Load.
        load: u32,
        /// 1 + index of the user.
        user: u64,
    },
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
    /// Its prepared users of a phase wait for its zero.
    Ready {
        /// Thread.
        thread: u32,
        /// Phase.
        phase: u32,
    },
    /// It has carried out `setup`.
    Yielded {
        /// What its steps captured, as JSON.
        json: String,
        /// Why it failed, where it did.
        failed: String,
    },
    /// It wants a block of shared iterations.
    Wanted {
        /// Thread.
        thread: u32,
        /// Phase.
        phase: u32,
        /// Load.
        load: u32,
        /// Which of its blocks, from 1.
        number: u64,
    },
    /// The turn of a sequential user is over.
    TurnEnded {
        /// Phase.
        phase: u32,
        /// Load.
        load: u32,
        /// 1 + index of the user.
        user: u64,
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
        let clients = setup.clients.clone();
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

    /// Gives an order to the threads that it is for.
    pub fn order(&self, order: &Order) {
        let is_for = |thread: usize| match order {
            Order::Block(block) => block.thread as usize == thread,
            _ => true,
        };
        for (_, sender) in self.orders.iter().enumerate().filter(|(thread, _)| is_for(*thread)) {
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
        let words = Rc::new(Words::default());
        let thread = Rc::new(self.shared(timer, words.clone()));
        let tasks = TaskTracker::new();
        let mut current = Current::default();
        let mut draining = false;
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                word = words.next() => {
                    self.pass_on(word).await;
                    continue;
                }
            };
            match order {
                None => break,
                Some(Order::Begin(order)) => {
                    current = Current { phase: order.phase, ..Current::default() };
                    if draining {
                        current.stops.drain();
                    }
                    let zero = order.zero.is_none().then(|| {
                        let (sender, receiver) = oneshot::channel();
                        current.zero = Some(sender);
                        receiver
                    });
                    tasks.spawn_local(self.phase(thread.clone(), order, current.stops.clone(), zero));
                }
                Some(Order::Zero { phase, zero }) if phase == current.phase => {
                    let waiting = current.zero.take();
                    if waiting.is_some_and(|waiting| waiting.send(monotonic_of(zero)).is_err()) {
                        tracing::debug!(phase, "the phase has ended before its zero came");
                    }
                }
                Some(Order::EndPhase { phase, abort }) if phase == current.phase => match abort {
                    true => current.stops.abort(),
                    false => current.stops.drain(),
                },
                Some(Order::Zero { .. } | Order::EndPhase { .. }) => {}
                Some(Order::Block(block)) => {
                    thread.grants.block(block.phase, block.load, block.number, block.first, block.count);
                }
                Some(Order::Turn { phase, load, user }) => thread.grants.set_turn(phase, load, user),
                Some(Order::Drain) => {
                    draining = true;
                    current.stops.drain();
                }
                Some(Order::Abort) => {
                    draining = true;
                    current.stops.abort();
                }
            }
        }
        current.stops.abort();
        drop(current.zero);
        tasks.close();
        tasks.wait().await;
        thread.survivors.borrow_mut().clear();
        ringing.abort();
    }

    async fn pass_on(&self, word: GrantWord) {
        let event = match word {
            GrantWord::Wanted { phase, load, number } => {
                EngineEvent::Wanted { thread: self.thread, phase, load, number }
            }
            GrantWord::TurnEnded { phase, load, user } => EngineEvent::TurnEnded { phase, load, user },
        };
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to this thread any more");
        }
    }

    fn shared(&self, timer: Timer, words: Rc<Words>) -> Thread {
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
            connections: ConnectionSource::new(&self.clients),
            caps: Caps::default(),
            grants: Grants::new(words),
            setup: RefCell::new(Value::UNDEFINED),
            after_failure: Cell::new(false),
            yielded: RefCell::new(None),
            survivors: RefCell::default(),
            default_headers,
            secrets: Value::from_pairs(
                setup.secrets.0.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))),
            ),
            run_value: Value::from_pairs([("id", Value::from(setup.run.clone()))]),
            run_hash: run_hash(&setup.run),
            seed: setup.program.plan().seed,
            lease: setup.lease.clone(),
            users: Cell::new(0),
        }
    }

    /// Carries out a phase and reports every interval of it, to the last.
    fn phase(
        &self,
        thread: Rc<Thread>,
        order: PhaseOrder,
        stops: Stops,
        zero: Option<oneshot::Receiver<Moment>>,
    ) -> impl Future<Output = ()> + 'static {
        let (events, number, threads) = (self.events.clone(), self.thread, self.threads);
        let interval = self.setup.interval;
        async move {
            let index = order.phase;
            let run_zero = monotonic_of(order.run_zero);
            thread.after_failure.set(order.after_failure);
            if let Ok(setup) = serde_json::from_str::<serde_json::Value>(&order.setup_json) {
                *thread.setup.borrow_mut() = from_json(&setup);
            }
            let inherited = RefCell::new(std::mem::take(&mut *thread.survivors.borrow_mut()));
            let phase = Rc::new(Phase {
                thread: thread.clone(),
                index,
                zero: Cell::new(order.zero.map_or(run_zero, monotonic_of)),
                stops: stops.clone(),
                users: TaskTracker::new(),
                inherited,
                end_run: Cell::new(false),
            });
            let reporter =
                Reporter { thread: thread.clone(), events: events.clone(), number, phase: index, run_zero };
            let (cycle, owner) = (order.cycle, order.owner.unwrap_or(u32::MAX));
            let part = |users| cycle.stripe(owner, number, threads, users);
            let nobody = cycle.stripe(u32::MAX, number, threads, 1);
            let share = |users| match order.alone {
                None => part(users),
                Some(true) => Stripe::whole(number == 0),
                Some(false) => nobody.clone(),
            };
            thread.caps.set_share(thread.program.caps(), |count| part(count).count_below(count));
            let size = thread.connections.shared_size();
            thread.connections.set_share(part(size).count_below(size));
            let teller = Teller { events: events.clone(), thread: number, phase: index };
            let running = phase::run(phase.clone(), share, zero, teller);
            let mut from = reporter.run_time();
            let mut running = std::pin::pin!(running);
            loop {
                let edge = next_edge(from, interval);
                tokio::select! {
                    () = &mut running => break,
                    () = thread.timer.sleep_until(run_zero + edge) => {
                        reporter.report(from, edge).await;
                        from = edge;
                        if phase.end_run.get() && !stops.draining.is_cancelled() {
                            stops.drain();
                            reporter.tell(EngineEvent::EndRun).await;
                        }
                    }
                }
            }
            reporter.report(from, reporter.run_time().max(from)).await;
            if phase.end_run.get() {
                reporter.tell(EngineEvent::EndRun).await;
            }
            let yielded = thread.yielded.borrow_mut().take();
            if let Some((json, failed)) = yielded {
                reporter.tell(EngineEvent::Yielded { json, failed }).await;
            }
            reporter.tell(EngineEvent::PhaseEnded { thread: number, phase: index }).await;
        }
    }
}

/// The phase that a thread carries out.
#[derive(Default)]
struct Current {
    phase: u32,
    stops: Stops,
    /// Waits for the phase's zero, while its users are prepared.
    zero: Option<oneshot::Sender<Moment>>,
}

/// Tells the session how a phase gets on.
struct Teller {
    events: mpsc::Sender<EngineEvent>,
    thread: u32,
    phase: u32,
}

impl phase::Listener for Teller {
    async fn ready(&self) {
        if self.events.send(EngineEvent::Ready { thread: self.thread, phase: self.phase }).await.is_err() {
            tracing::debug!("nobody listens to this thread any more");
        }
    }

    fn saw_zero(&self, seen_minus_zero_ns: i64) {
        // Dropped where the queue is full: the skew is then unknown for this thread, not wrong.
        if self.events.try_send(EngineEvent::Zero { phase: self.phase, seen_minus_zero_ns }).is_err() {
            tracing::warn!("the queue of measurements is full");
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

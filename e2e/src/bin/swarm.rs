//! Many simulated workers on one line each: the real session core and the real protocol, without load
//! threads. It invents measures, sends them, and counts what it sent, so that a coordinator can be looked
//! at under a thousand workers on a laptop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use loadgrid_common::id::Incarnation;
use loadgrid_common::lease::Lease;
use loadgrid_common::plan::{self, Plan};
use loadgrid_common::process::boot_now;
use loadgrid_common::random::Draws;
use loadgrid_common::stats::Measures;
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb::{self, from_worker::Message as Word, grid_client::GridClient};
use loadgrid_common::wire::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use loadgrid_worker::session::core::{Begin, Effect, Event, SessionCore};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Speaks the worker protocol as many simulated workers, until they have carried out one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// The coordinator
    #[arg(long)]
    coordinator: String,
    /// How many workers
    #[arg(long, default_value_t = 100)]
    workers: u64,
    /// Exchanges per step and second of each worker
    #[arg(long, default_value_t = 50)]
    exchanges: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sent = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", arguments.coordinator))?;
        let workers = (0..arguments.workers).map(|number| {
            let worker = Simulated::new(number, arguments.exchanges, sent.clone());
            tokio::spawn(worker.run(endpoint.connect_lazy()))
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await??;
        }
        anyhow::Ok(())
    })?;
    let line = format!("{{\"exchanges_sent\": {}}}\n", sent.load(Ordering::Relaxed));
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

struct Simulated {
    name: String,
    incarnation: Incarnation,
    core: SessionCore,
    plan: Option<Plan>,
    running: Option<Running>,
    draws: Draws,
    exchanges: u64,
    sent: Arc<AtomicU64>,
    had_run: bool,
}

struct Running {
    begin: Begin,
    zero: Moment,
    length: Duration,
    reported: Duration,
}

impl Simulated {
    fn new(number: u64, exchanges: u64, sent: Arc<AtomicU64>) -> Self {
        let (name, incarnation) = (format!("swarm-{number:04}"), Incarnation::fresh());
        let core = SessionCore::new(name.clone(), incarnation.0, 1, Arc::new(Lease::default()));
        let draws = Draws::keyed(&[number]);
        Self { name, incarnation, core, plan: None, running: None, draws, exchanges, sent, had_run: false }
    }

    async fn run(mut self, channel: Channel) -> anyhow::Result<()> {
        let mut client = GridClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (words, outgoing) = mpsc::channel(256);
        let hello = pb::Hello {
            worker: self.name.clone(),
            incarnation: self.incarnation.0,
            protocol: PROTOCOL_VERSION,
            threads: 1,
            build: "swarm".to_owned(),
            ..pb::Hello::default()
        };
        words.send(pb::FromWorker { message: Some(Word::Hello(hello)) }).await?;
        let mut incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        self.happened(Event::Connected, &words).await?;
        loop {
            let wait = self.next_event().since(boot_now()).max(Duration::from_millis(1));
            tokio::select! {
                said = incoming.message() => match said? {
                    Some(pb::FromCoordinator { message: Some(message) }) => self.happened(Event::Said(message), &words).await?,
                    Some(_) => {}
                    None => anyhow::bail!("the coordinator closed the line of {}", self.name),
                },
                () = tokio::time::sleep(wait) => {
                    self.happened(Event::Tick, &words).await?;
                    self.measure(&words).await?;
                }
            }
            if self.had_run && !self.core.is_busy() {
                return Ok(());
            }
        }
    }

    fn next_event(&self) -> Moment {
        let deadline = self.core.deadline();
        self.running
            .as_ref()
            .map_or(deadline, |running| (running.begin.run_zero + running.next_edge()).min(deadline))
    }

    async fn happened(&mut self, event: Event, words: &mpsc::Sender<pb::FromWorker>) -> anyhow::Result<()> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.core.handle(boot_now(), event) {
                match effect {
                    Effect::Say(word) => words.send(pb::FromWorker { message: Some(*word) }).await?,
                    Effect::Load { prepare, tables: _ } => {
                        self.plan = Some(plan::decode(&prepare.plan)?);
                        self.had_run = true;
                        events.push(Event::Armed);
                    }
                    Effect::Begin(begin) => {
                        let plan = self.plan.as_ref().and_then(|plan| plan.phases.get(begin.phase as usize));
                        let length = plan.map(plan::Phase::length).unwrap_or_default();
                        let zero = begin.zero.unwrap_or(begin.run_zero);
                        let reported = zero.since(begin.run_zero);
                        self.running = Some(Running { begin, zero, length, reported });
                    }
                    Effect::Drain | Effect::Abort | Effect::EndPhase { .. } => {
                        if let Some(running) = &mut self.running {
                            running.length = Duration::ZERO;
                        }
                    }
                    // The swarm's plan has open loads only.
                    Effect::Zero { .. } | Effect::Block(_) | Effect::Turn(_) => {}
                    Effect::Forget => self.running = None,
                    Effect::Rejected(reason) => anyhow::bail!("{} is turned away: {reason}", self.name),
                }
            }
        }
        Ok(())
    }

    /// Invents the measures of an interval, once it is over.
    async fn measure(&mut self, words: &mpsc::Sender<pb::FromWorker>) -> anyhow::Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let edge = running.next_edge();
        if boot_now() < running.begin.run_zero + edge {
            return Ok(());
        }
        let (from, phase) = (running.reported, running.begin.phase);
        running.reported = edge;
        let over = running.begin.run_zero + edge >= running.zero + running.length;
        let steps = self.plan.as_ref().map_or(0, |plan| plan.steps.len());
        let measures = self.invent(u32::try_from(steps)?);
        let measured =
            Event::Measured { thread: 0, phase, from, to: edge, measures: Box::new(measures), users: 1 };
        self.happened(measured, words).await?;
        if over {
            self.running = None;
            self.happened(Event::PhaseEnded { thread: 0, phase }, words).await?;
        }
        Ok(())
    }

    fn invent(&mut self, steps: u32) -> Measures {
        let mut measures = Measures::default();
        for id in 0..steps {
            let step = measures.steps.entry(id).or_default();
            (step.sent, step.ok) = (self.exchanges, self.exchanges);
            step.statuses.add(200, self.exchanges);
            for _ in 0..self.exchanges {
                // Log-normal around 5 ms, as answers are.
                let us = (8.5 + 0.5 * self.draws.normal()).exp() as u64;
                step.response.record(us);
                step.service.record(us);
            }
            self.sent.fetch_add(self.exchanges, Ordering::Relaxed);
        }
        let load = measures.loads.entry(0).or_default();
        (load.started, load.ok) = (self.exchanges, self.exchanges);
        measures
    }
}

impl Running {
    fn next_edge(&self) -> Duration {
        Duration::from_secs(self.reported.as_secs() + 1)
    }
}

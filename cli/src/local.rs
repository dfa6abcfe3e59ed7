//! A grid inside this process: a coordinator, workers on threads of their own, and the same protocol
//! between them over pipes.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use loadgrid_common::id::WorkerId;
use loadgrid_coordinator::hub::{Hub, HubConfig};
use loadgrid_coordinator::rpc;
use loadgrid_coordinator::store::Store;
use loadgrid_worker::session::{Dial, WorkerConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::output::Failure;

/// See the module.
pub(crate) struct LocalGrid {
    dial: Dial,
    /// Ends workers first, then the coordinator: a worker that outlived it would look for it.
    stop_workers: CancellationToken,
    stop_coordinator: CancellationToken,
    workers: Vec<std::thread::JoinHandle<()>>,
    hub: JoinHandle<()>,
    serving: JoinHandle<Result<(), rpc::ServeError>>,
    /// The runs of a local grid go with it.
    _data: tempfile::TempDir,
}

impl LocalGrid {
    /// Starts a grid whose load may go to `allowed`.
    pub(crate) fn start(
        workers: NonZeroU32,
        threads: NonZeroU32,
        allowed: Vec<String>,
        secrets: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let data = tempfile::tempdir().context("cannot make a directory for the run's data")?;
        let store = Store::open(data.path()).context("cannot open the run's store")?;
        let (stop_workers, stop_coordinator) = (CancellationToken::new(), CancellationToken::new());
        let config = HubConfig { allowed_targets: allowed, secrets, ..HubConfig::default() };
        let (handle, hub) = Hub::start(config, store, stop_coordinator.clone());
        let (incoming, dial) = rpc::in_process();
        let serving = tokio::spawn(rpc::serve_in_process(handle, incoming, stop_coordinator.clone()));
        let dial: Dial = Arc::new(dial);
        let mut grid =
            Self { dial, stop_workers, stop_coordinator, workers: Vec::new(), hub, serving, _data: data };
        for number in 1..=workers.get() {
            let worker = grid.worker(number, threads)?;
            grid.workers.push(worker);
        }
        Ok(grid)
    }

    fn worker(&self, number: u32, threads: NonZeroU32) -> Result<std::thread::JoinHandle<()>, Failure> {
        let config =
            WorkerConfig { name: WorkerId::from(format!("worker-{number}")), threads, allowed: None };
        let (dial, stop) = (self.dial.clone(), self.stop_workers.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a worker's runtime")?;
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            if let Err(error) = runtime.block_on(loadgrid_worker::session::run(config, dial, stop)) {
                tracing::error!(%error, "a worker has ended");
            }
        });
        Ok(thread.context("cannot start a worker's thread")?)
    }

    /// A channel to the coordinator.
    pub(crate) fn channel(&self) -> Channel {
        (self.dial)()
    }

    /// Ends it: first the workers, then the coordinator.
    pub(crate) async fn end(self) {
        self.stop_workers.cancel();
        let workers = self.workers;
        let joined =
            tokio::task::spawn_blocking(move || workers.into_iter().all(|worker| worker.join().is_ok()))
                .await;
        if !matches!(joined, Ok(true)) {
            tracing::error!("a worker has panicked");
        }
        self.stop_coordinator.cancel();
        if self.hub.await.is_err() {
            tracing::error!("the coordinator has panicked");
        }
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the coordinator's server failed"),
            Err(_) => tracing::error!("the coordinator's server has panicked"),
        }
    }
}

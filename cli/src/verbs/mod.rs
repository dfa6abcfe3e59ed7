//! One file per verb.

pub(crate) mod coordinator;
pub(crate) mod demo;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schema;
pub(crate) mod stop;
pub(crate) mod submit;
pub(crate) mod validate;
pub(crate) mod worker;
pub(crate) mod workers;

use loadgrid_coordinator::judge::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::Failure;

/// The runtime of a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Internal, error))
}

/// Waits for Ctrl-C or SIGTERM.
async fn told_to_end() -> Result<(), Failure> {
    let make = |kind| signal(kind).map_err(|error| Failure::new(ExitCode::Internal, error));
    let (mut interrupt, mut terminate) = (make(SignalKind::interrupt())?, make(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Cores of this machine that the process may use.
fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

//! `loadgrid worker`.

use std::num::NonZeroU32;
use std::sync::Arc;

use loadgrid_common::id::WorkerId;
use loadgrid_common::targets::AllowedTargets;
use loadgrid_coordinator::judge::ExitCode;
use loadgrid_worker::session::{Dial, WorkerConfig};
use tokio_util::sync::CancellationToken;

use crate::arguments::Worker;
use crate::connect;
use crate::output::{Failure, say};

pub(crate) fn worker(verb: Worker) -> Result<u8, Failure> {
    let endpoint = connect::endpoint(&verb.coordinator)?;
    let name = verb.name.unwrap_or_else(default_name);
    let threads = verb.threads.or(NonZeroU32::new(super::cores())).unwrap_or(NonZeroU32::MIN);
    let allowed = (!verb.allow_target.is_empty()).then(|| AllowedTargets::new(&verb.allow_target));
    let config = WorkerConfig { name: WorkerId::from(name.as_str()), threads, allowed };
    let dial: Dial = Arc::new(move || endpoint.connect_lazy());
    // The session has this thread for itself; load threads are made per run.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Internal, error))?;
    runtime.block_on(async {
        say(format_args!("worker {name} with {threads} load threads, coordinator {}", verb.coordinator));
        let stop = CancellationToken::new();
        let session = loadgrid_worker::session::run(config, dial, stop.clone());
        tokio::pin!(session);
        let ended = tokio::select! {
            ended = &mut session => ended,
            told = super::told_to_end() => {
                told?;
                stop.cancel();
                session.await
            }
        };
        ended.map(|()| 0).map_err(|error| Failure::new(ExitCode::Unreachable, error))
    })
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "worker" } else { host.trim() };
    format!("{host}-{}", std::process::id())
}

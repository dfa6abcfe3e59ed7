//! `loadgrid coordinator`.

use std::path::PathBuf;

use anyhow::Context as _;
use loadgrid_coordinator::hub::{Hub, HubConfig};
use loadgrid_coordinator::judge::ExitCode;
use loadgrid_coordinator::rpc;
use loadgrid_coordinator::store::Store;
use tokio_util::sync::CancellationToken;

use crate::arguments::Coordinator;
use crate::output::{Failure, say};

pub(crate) fn coordinator(verb: Coordinator) -> Result<u8, Failure> {
    if !verb.listen.ip().is_loopback() {
        let error = anyhow::anyhow!(
            "{} is not a loopback address, and this version has no TLS between machines yet",
            verb.listen
        );
        return Err(Failure::new(ExitCode::Usage, error)
            .hint("listen on 127.0.0.1 and reach it through an SSH tunnel"));
    }
    let directory = verb.data.unwrap_or_else(data_directory);
    let store = Store::open(&directory)
        .with_context(|| format!("cannot open the store in {}", directory.display()))?;
    let mut allowed_targets = HubConfig::default().allowed_targets;
    allowed_targets.extend(verb.allow_target);
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(verb.listen)
            .await
            .with_context(|| format!("cannot listen on {}", verb.listen))
            .map_err(|error| {
                Failure::new(ExitCode::Internal, error)
                    .hint("another process may use the port; choose one with --listen")
            })?;
        let address = listener.local_addr().context("the listener has no address")?;
        let stop = CancellationToken::new();
        let (hub, actor) = Hub::start(
            HubConfig { allowed_targets, secrets: verb.secrets, ..HubConfig::default() },
            store,
            stop.clone(),
        );
        let serving = tokio::spawn(rpc::serve_tcp(hub, listener, stop.clone()));
        say(format_args!("coordinator on {address}, runs in {}", directory.display()));
        say(format_args!("  a worker:   loadgrid worker --coordinator {address}"));
        say(format_args!("  a run:      loadgrid submit FILE --coordinator {address} --watch"));
        super::told_to_end().await?;
        stop.cancel();
        actor.await.context("the coordinator has panicked")?;
        match serving.await.context("the server has panicked")? {
            Ok(()) => Ok(0),
            Err(error) => Err(Failure::new(ExitCode::Internal, error)),
        }
    })
}

/// Where runs are kept when nobody says.
fn data_directory() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/share");
    std::env::var_os("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("loadgrid")
}

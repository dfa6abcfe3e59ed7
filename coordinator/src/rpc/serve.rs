//! Where the services listen: a TCP port, or pipes inside one process.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use loadgrid_common::wire::MAX_MESSAGE_BYTES;
use loadgrid_common::wire::pb::{grid_server::GridServer, runs_server::RunsServer};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Router;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use super::grid::GridService;
use super::runs::RunsService;
use crate::hub::Hub;

/// Why the services cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Size of the pipe to a worker in the same process.
const PIPE_BYTES: usize = 1 << 20;
/// Connections that may wait to be taken.
const CONNECTIONS: usize = 64;

fn router(hub: Hub, tasks: TaskTracker, stop: CancellationToken) -> Router {
    let grid = GridService { hub: hub.clone(), tasks, stop: stop.clone() };
    let runs = RunsService { hub, stop };
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(GridServer::new(grid).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(RunsServer::new(runs).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Serves a TCP port until `stop`.
///
/// # Errors
/// Where the server fails.
pub async fn serve_tcp(hub: Hub, listener: TcpListener, stop: CancellationToken) -> Result<(), ServeError> {
    let tasks = TaskTracker::new();
    let serving = router(hub, tasks.clone(), stop.clone());
    serving.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()).await?;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// The coordinator's end of in-process connections.
#[derive(Debug)]
pub struct InProcess {
    connections: mpsc::Receiver<Result<DuplexStream, std::io::Error>>,
}

/// Makes a way to connect inside one process: no port, so nobody else can.
pub fn in_process() -> (InProcess, impl Fn() -> Channel + Clone + Send + Sync + 'static) {
    let (sender, connections) = mpsc::channel(CONNECTIONS);
    let dial = move || {
        let sender = sender.clone();
        // The name is never looked up; the connector below is asked instead.
        Endpoint::from_static("http://in-process").connect_with_connector_lazy(tower::service_fn(
            move |_: Uri| {
                let sender = sender.clone();
                async move {
                    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                    let closed = |_| std::io::Error::other("the coordinator is gone");
                    sender.send(Ok(theirs)).await.map_err(closed)?;
                    Ok::<_, std::io::Error>(TokioIo::new(ours))
                }
            },
        ))
    };
    (InProcess { connections }, dial)
}

/// Serves in-process connections until `stop`.
///
/// # Errors
/// Where the server fails.
pub async fn serve_in_process(
    hub: Hub,
    incoming: InProcess,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let tasks = TaskTracker::new();
    let serving = router(hub, tasks.clone(), stop.clone());
    serving
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming.connections), stop.cancelled_owned())
        .await?;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

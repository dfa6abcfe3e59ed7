//! The way to a coordinator.

use std::time::Duration;

use loadgrid_common::wire::MAX_MESSAGE_BYTES;
use loadgrid_common::wire::pb::runs_client::RunsClient;
use loadgrid_coordinator::judge::ExitCode;
use tonic::transport::{Channel, Endpoint};

use crate::output::Failure;

/// How to reach a coordinator, lazily: a channel connects when it is used, and again when it broke.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri).map_err(|_| {
        let error = anyhow::anyhow!("`{address}` is not an address");
        Failure::new(ExitCode::Usage, error).hint("write HOST:PORT, for example 127.0.0.1:7400")
    })?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// A client of a coordinator.
pub(crate) fn client(channel: Channel) -> RunsClient<Channel> {
    // Reports hold a window per second; a day's worth is a few megabytes.
    RunsClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// What a refusal of a coordinator means to a user.
pub(crate) fn refused(address: &str, status: &tonic::Status) -> Failure {
    use tonic::Code;
    let message = anyhow::anyhow!("{}", status.message());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            let error = anyhow::anyhow!("no coordinator answers at {address}: {}", status.message());
            Failure::new(ExitCode::Unreachable, error)
                .hint("start one with `loadgrid coordinator`, or name it with --coordinator HOST:PORT")
        }
        Code::PermissionDenied | Code::Unauthenticated => Failure::new(ExitCode::Unreachable, message),
        Code::InvalidArgument => Failure::new(ExitCode::Scenario, message),
        Code::NotFound => Failure::new(ExitCode::Usage, message).hint("`loadgrid runs` lists the runs"),
        Code::FailedPrecondition => Failure::new(ExitCode::Unreachable, message),
        _ => Failure::new(ExitCode::Internal, message),
    }
}

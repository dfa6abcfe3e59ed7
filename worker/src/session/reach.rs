//! Whether the target is there: asked before a run begins, so that none begins against nobody.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use loadgrid_common::plan::WaitFor;
use loadgrid_common::process::now;
use loadgrid_common::units::show_duration;
use tokio_util::sync::CancellationToken;

use crate::client::{ClientSettings, HttpClient as _, Request, ReqwestClient};

const CURE: &str = "start it, or name another one with --target";
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Opens and closes one connection to the target.
pub(super) fn connect(target: &str, clients: &ClientSettings) -> Result<(), String> {
    let url =
        url::Url::parse(target).map_err(|error| format!("the target {target} is not an address: {error}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let given = clients.address_of(&host);
    let found: Vec<SocketAddr> = match given {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|error| format!("the target's name {host} is not resolved: {error}; {CURE}"))?
            .collect(),
    };
    let by_name = if given.is_some() { "" } else { host.as_str() };
    let found = found.into_iter().filter(|address| clients.allowed.allows(by_name, address.ip()));
    let limit = clients.options.connect_timeout.max(Duration::from_millis(1));
    let mut last = format!("{host} may not be sent load; see --allow-target of coordinator and worker");
    for address in found {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("the target {target} does not answer at {address}: {error}; {CURE}"),
        }
    }
    Err(last)
}

/// Asks the target again and again until it answers well. What is sent here belongs to no figure: the run has not begun.
pub(super) fn wait_for(
    wait: &WaitFor,
    clients: &ClientSettings,
    cancelled: &CancellationToken,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot ask for the target: {error}"))?;
    runtime.block_on(async {
        tokio::select! {
            () = cancelled.cancelled() => Err("the run has ended".to_owned()),
            asked = asking(wait, clients) => asked,
        }
    })
}

async fn asking(wait: &WaitFor, clients: &ClientSettings) -> Result<(), String> {
    let url = url::Url::parse(&wait.url).map_err(|error| format!("`wait_for`: {error}"))?;
    let within = Duration::from_nanos(wait.within_ns);
    let end = now() + within;
    let mut client = ReqwestClient::new(clients).map_err(|error| error.to_string())?;
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("*/*"));
    loop {
        let request =
            Request { method: http::Method::GET, url: url.clone(), headers: headers.clone(), body: None };
        let exchange = client.exchange(request, ANSWER_LIMIT.min(within), 1 << 20).await;
        let last = match exchange.outcome {
            Ok(answer) if answer.status < 400 => return Ok(()),
            Ok(answer) => format!("status {}", answer.status),
            Err(kind) => kind.to_string(),
        };
        if now() >= end {
            let within = show_duration(within);
            return Err(format!(
                "{} did not answer well within {within} (`wait_for`): {last}; {CURE}",
                wait.url
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

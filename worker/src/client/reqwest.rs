//! The client for everything: `reqwest`, one per life of a user, so that connections are the user's own.
//!
//! All that reqwest would do by itself is switched off: retries (they would hide errors and send too
//! much), redirects and cookies (each hop is an exchange of its own, and cookies are the user's), proxies
//! from the environment.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use loadgrid_common::plan;
use loadgrid_common::process::now;
use loadgrid_common::stats::ErrorKind;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::ServerName;

use super::classify::{NotAllowed, NotResolved, classify, timed_out};
use super::trace::{Trace, TraceLayer};
use super::{Answer, ClientError, ClientSettings, Exchange, HttpClient, Request, message_bytes};

/// See the module.
#[derive(Debug)]
pub struct ReqwestClient {
    client: reqwest::Client,
    settings: ClientSettings,
    trace: Arc<Trace>,
    /// The host that is meant where `sni` names another one.
    meant: Arc<Meant>,
}

/// With `sni` the library sees that name as the host; this is the one to connect to.
#[derive(Debug, Default)]
struct Meant(Mutex<Option<String>>);

impl Meant {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the host; says whether it was another one before.
    fn set(&self, host: &str) -> bool {
        let mut meant = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = meant.as_deref().is_some_and(|known| known != host);
        *meant = Some(host.to_owned());
        changed
    }
}

impl ReqwestClient {
    /// A client without connections, with a TLS session cache of its own.
    ///
    /// # Errors
    /// Where the library refuses its settings.
    pub fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        let (trace, meant) = (Arc::new(Trace::default()), Arc::new(Meant::default()));
        let client = build(settings, &trace, &meant)?;
        Ok(Self { client, settings: settings.clone(), trace, meant })
    }

    /// Lets the library ask for the name that `sni` says, and keeps the host that is meant.
    fn mask(&mut self, request: &mut Request) -> Result<(), ErrorKind> {
        let Some(sni) = self.settings.options.tls.sni.clone() else { return Ok(()) };
        let host = request.url.host_str().unwrap_or_default().to_owned();
        if request.url.scheme() != "https" {
            return Ok(());
        }
        let authority = match request.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        if host != sni
            && let Ok(value) = http::HeaderValue::from_str(&authority)
        {
            request.headers.entry(http::header::HOST).or_insert(value);
        }
        // Also where the name is its own: the library would take a connection to another host for it.
        if self.meant.set(&authority) {
            // Connections to another host stand under the same name.
            self.client = build(&self.settings, &self.trace, &self.meant).map_err(|_| ErrorKind::Request)?;
        }
        request.url.set_host(Some(&sni)).map_err(|_| ErrorKind::Request)
    }
}

fn build(
    settings: &ClientSettings,
    trace: &Arc<Trace>,
    meant: &Arc<Meant>,
) -> Result<reqwest::Client, ClientError> {
    let mut tls = (*settings.tls).clone();
    let sessions = UserSessions { inner: ClientSessionMemoryCache::new(8), trace: trace.clone() };
    tls.resumption = Resumption::store(Arc::new(sessions));
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(settings.options.connect_timeout)
        .pool_idle_timeout(settings.options.idle)
        .tcp_nodelay(true)
        .dns_resolver(Arc::new(CheckedResolver { settings: settings.clone(), meant: meant.clone() }))
        .connector_layer(TraceLayer(trace.clone()));
    builder = match settings.options.version {
        plan::HttpVersion::Auto => builder,
        plan::HttpVersion::Http1 => builder.http1_only(),
        plan::HttpVersion::Http2 => builder.http2_prior_knowledge(),
    };
    if settings.options.connections == plan::Connections::New {
        builder = builder.pool_max_idle_per_host(0);
    }
    Ok(builder.build()?)
}

impl HttpClient for ReqwestClient {
    async fn exchange(&mut self, mut request: Request, limit: Duration, max_body: u64) -> Exchange {
        let began = now();
        self.trace.reset();
        let body_bytes = request.body.as_ref().map_or(0, |body| body.len() as u64);
        let first_line = request.method.as_str().len() + request.url.path().len() + 12;
        let bytes_sent = message_bytes(first_line, &request.headers, body_bytes);
        let mut exchange = Exchange { bytes_sent, ..Exchange::failed(began, ErrorKind::NotAllowed) };
        // The library asks its resolver for names only; an address in the url is checked here.
        let is_address = matches!(request.url.host(), Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)));
        let allowed = &self.settings.allowed;
        if is_address && !allowed.allows_host(request.url.host_str().unwrap_or_default()) {
            return exchange;
        }
        if let Err(kind) = self.mask(&mut request) {
            exchange.outcome = Err(kind);
            return exchange;
        }
        let attempt =
            tokio::time::timeout(limit, perform(&self.client, request, max_body, &mut exchange)).await;
        exchange.done = now();
        let opened = self.trace.opened();
        if let Some(opened) = opened {
            exchange.sent = opened.done.max(began);
            exchange.connect = Some(opened.connect);
            exchange.tls = opened.tls;
        }
        let answering = exchange.first_byte.is_some();
        exchange.outcome = match attempt {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::TooLarge)) => Err(ErrorKind::BodyTooLarge),
            Ok(Err(Failure::Client(error))) => {
                tracing::trace!(?error, "an exchange failed");
                Err(classify(&error, &self.trace, answering))
            }
            Err(_) => Err(timed_out(&self.trace, answering)),
        };
        exchange
    }
}

enum Failure {
    Client(reqwest::Error),
    TooLarge,
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Client(error)
    }
}

async fn perform(
    client: &reqwest::Client,
    request: Request,
    max_body: u64,
    exchange: &mut Exchange,
) -> Result<Answer, Failure> {
    let mut outgoing = reqwest::Request::new(request.method, request.url);
    *outgoing.headers_mut() = request.headers;
    *outgoing.body_mut() = request.body.map(reqwest::Body::from);
    let mut response = client.execute(outgoing).await?;
    exchange.first_byte = Some(now());
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() as u64 + piece.len() as u64 > max_body {
            exchange.bytes_received = message_bytes(15, &headers, body.len() as u64 + piece.len() as u64);
            return Err(Failure::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    exchange.bytes_received = message_bytes(15, &headers, body.len() as u64);
    Ok(Answer { status, headers, body: body.freeze() })
}

/// Resolves names and lets pass only addresses that may be sent load.
#[derive(Debug)]
struct CheckedResolver {
    settings: ClientSettings,
    meant: Arc<Meant>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (settings, meant) = (self.settings.clone(), self.meant.get());
        Box::pin(async move {
            let mut name = name.as_str().to_owned();
            if settings.options.tls.sni.as_deref() == Some(name.as_str())
                && let Some(meant) = meant
            {
                // Without its port, which the library adds.
                name = match meant.rsplit_once(':') {
                    Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.to_owned(),
                    _ => meant,
                };
            }
            let given = settings.address_of(&name);
            let found = match given {
                Some(address) => Ok(vec![SocketAddr::new(address, 0)]),
                None => {
                    let host = name.trim_matches(['[', ']']);
                    tokio::net::lookup_host((host, 0)).await.map(Iterator::collect::<Vec<SocketAddr>>)
                }
            };
            let found = match found {
                Ok(found) => found,
                Err(source) => return Err(NotResolved { name, source }.into()),
            };
            // An address that the scenario gives must be allowed itself: its name says nothing of it.
            let by_name = if given.is_some() { "" } else { name.as_str() };
            let allows = |address: &SocketAddr| settings.allowed.allows(by_name, address.ip());
            let passed: Vec<SocketAddr> = found.into_iter().filter(allows).collect();
            if passed.is_empty() {
                return Err(NotAllowed(name).into());
            }
            let addresses: Addrs = Box::new(passed.into_iter());
            Ok(addresses)
        })
    }
}

/// A user's own TLS sessions. rustls asks it for a hint when a handshake begins, and that is the only
/// instant at which TCP and TLS can be told apart from outside of the library.
#[derive(Debug)]
struct UserSessions {
    inner: ClientSessionMemoryCache,
    trace: Arc<Trace>,
}

impl ClientSessionStore for UserSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: rustls::NamedGroup) {
        self.inner.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.trace.tls_begins();
        self.inner.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.inner.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.inner.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.inner.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.inner.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(
        &self,
        name: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.inner.take_tls13_ticket(name)
    }
}

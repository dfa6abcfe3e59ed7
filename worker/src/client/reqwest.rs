//! The client for everything: `reqwest`, one per life of a user, so that connections are the user's own.
//!
//! All that reqwest would do by itself is switched off: retries (they would hide errors and send too
//! much), redirects and cookies (each hop is an exchange of its own, and cookies are the user's), proxies
//! from the environment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use loadgrid_common::process::now;
use loadgrid_common::stats::ErrorKind;
use loadgrid_common::targets::AllowedTargets;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::ServerName;

use super::classify::{NotAllowed, NotResolved, classify};
use super::trace::{Trace, TraceLayer};
use super::{Answer, Exchange, HttpClient, Request, message_bytes};

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Hosts that may be sent load.
    pub allowed: Arc<AllowedTargets>,
    tls: Arc<rustls::ClientConfig>,
}

/// Why clients cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Http(#[from] reqwest::Error),
}

impl ClientSettings {
    /// Settings for a run. Reads the system's certificates, so make them once.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(connect_timeout: Duration, allowed: AllowedTargets) -> Result<Self, ClientError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // A certificate of the system that cannot be read is not one we could trust.
            if let Err(error) = roots.add(certificate) {
                tracing::debug!(%error, "a system certificate cannot be read");
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { connect_timeout, allowed: Arc::new(allowed), tls: Arc::new(tls) })
    }
}

/// See the module.
#[derive(Debug)]
pub struct ReqwestClient {
    client: reqwest::Client,
    trace: Arc<Trace>,
    allowed: Arc<AllowedTargets>,
}

impl ReqwestClient {
    /// A client without connections, with a TLS session cache of its own.
    ///
    /// # Errors
    /// Where the library refuses its settings.
    pub fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        let trace = Arc::new(Trace::default());
        let mut tls = (*settings.tls).clone();
        let sessions = UserSessions { inner: ClientSessionMemoryCache::new(8), trace: trace.clone() };
        tls.resumption = Resumption::store(Arc::new(sessions));
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .dns_resolver(Arc::new(CheckedResolver { allowed: settings.allowed.clone() }))
            .connector_layer(TraceLayer(trace.clone()))
            .build()?;
        Ok(Self { client, trace, allowed: settings.allowed.clone() })
    }
}

impl HttpClient for ReqwestClient {
    async fn exchange(&mut self, request: Request, limit: Duration, max_body: u64) -> Exchange {
        let began = now();
        self.trace.reset();
        let body_bytes = request.body.as_ref().map_or(0, |body| body.len() as u64);
        let first_line = request.method.as_str().len() + request.url.path().len() + 12;
        let bytes_sent = message_bytes(first_line, &request.headers, body_bytes);
        let mut exchange = Exchange {
            sent: began,
            first_byte: None,
            done: began,
            connect: None,
            tls: None,
            bytes_sent,
            bytes_received: 0,
            outcome: Err(ErrorKind::NotAllowed),
        };
        // The library asks its resolver for names only; an address in the url is checked here.
        let is_address = matches!(request.url.host(), Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)));
        if is_address && !self.allowed.allows_host(request.url.host_str().unwrap_or_default()) {
            return exchange;
        }
        let attempt =
            tokio::time::timeout(limit, perform(&self.client, request, max_body, &mut exchange)).await;
        exchange.done = now();
        if let Some(opened) = self.trace.opened() {
            exchange.sent = opened.done.max(began);
            exchange.connect = Some(opened.connect);
            exchange.tls = opened.tls;
        }
        exchange.outcome = match attempt {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::TooLarge)) => Err(ErrorKind::BodyTooLarge),
            Ok(Err(Failure::Client(error))) => {
                tracing::trace!(?error, "an exchange failed");
                Err(classify(&error, &self.trace))
            }
            Err(_) => Err(ErrorKind::Timeout),
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
    allowed: Arc<AllowedTargets>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found =
                tokio::net::lookup_host((name.as_str(), 0)).await.map(Iterator::collect::<Vec<SocketAddr>>);
            let found = match found {
                Ok(found) => found,
                Err(source) => return Err(NotResolved { name, source }.into()),
            };
            let passed: Vec<SocketAddr> =
                found.into_iter().filter(|address| allowed.allows(&name, address.ip())).collect();
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

//! A server of the test's own that notes every request, and answers as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};

/// What the witness saw of one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// METHOD /path?query
    pub request: String,
    /// The body.
    pub body: String,
    /// The headers, lower-case names, in order.
    pub headers: Vec<(String, String)>,
    /// When it was there, since the witness began.
    pub at: Duration,
    /// The other end of its connection.
    pub peer: SocketAddr,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
}

impl Seen {
    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The number in a header.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.header(name).parse().unwrap_or_else(|_| panic!("no number in `{name}` of {self:?}"))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: String,
    /// How long it takes.
    pub delay: Duration,
}

impl Default for Answer {
    fn default() -> Self {
        let headers = vec![("set-cookie", "sid=abc; Path=/".to_owned())];
        Self { status: 200, headers, body: "{}".to_owned(), delay: Duration::ZERO }
    }
}

impl Answer {
    /// A status and a body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into(), headers: Vec::new(), delay: Duration::ZERO }
    }

    /// The same, later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Behaviour = Box<dyn Fn(&Seen) -> Answer + Send + Sync>;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    began: Instant,
    behaviour: Behaviour,
}

/// A running witness.
pub struct Witness {
    /// Its address, with `http://`.
    pub target: String,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Witness {
    /// Starts it; everything is answered with 200 and `{}`, and sets a cookie.
    #[must_use]
    pub fn start() -> Self {
        Self::answering(|_| Answer::default())
    }

    /// Starts it with answers of the test's own.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn answering(behaviour: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let behaviour = Box::new(behaviour);
        let shared = Arc::new(Shared { seen: Mutex::default(), began: Instant::now(), behaviour });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let router = Router::new().fallback(note).with_state(shared.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))))
            .expect("a port");
        let target = format!("http://{}", listener.local_addr().expect("an address"));
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move { axum::serve(listener, service).await });
        Self { target, shared, runtime: Some(runtime) }
    }

    /// What it saw so far, in the order of its coming.
    ///
    /// # Panics
    /// Never in practice: its lock is not poisoned.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("nobody panics while noting").clone()
    }

    /// What it saw of requests that begin so.
    #[must_use]
    pub fn seen_of(&self, begin: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.request.starts_with(begin)).collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn note(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let at = shared.began.elapsed();
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 16 << 20).await.unwrap_or_default();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let entry = Seen {
        request: format!("{} {}", parts.method, parts.uri),
        body: String::from_utf8_lossy(&body).into_owned(),
        headers: headers.collect(),
        at,
        peer,
        version: format!("{:?}", parts.version),
    };
    let answer = (shared.behaviour)(&entry);
    shared.seen.lock().expect("nobody panics while noting").push(entry);
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    let status = axum::http::StatusCode::from_u16(answer.status).unwrap_or(axum::http::StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    for (name, value) in answer.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().append(name, value);
        }
    }
    response
}

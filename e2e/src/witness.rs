//! A server of the test's own that notes every request: method, path and body.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};

/// What the witness saw of one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// METHOD /path?query
    pub request: String,
    /// The body.
    pub body: String,
    /// The headers, lower-case names, in order.
    pub headers: Vec<(String, String)>,
}

/// A running witness.
pub struct Witness {
    /// Its address, with `http://`.
    pub target: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Witness {
    /// Starts it; everything is answered with 200 and `{}`, and sets a cookie.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let router = Router::new().fallback(note).with_state(seen.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))))
            .expect("a port");
        let target = format!("http://{}", listener.local_addr().expect("an address"));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { target, seen, runtime: Some(runtime) }
    }

    /// What it saw so far.
    ///
    /// # Panics
    /// Never in practice: its lock is not poisoned.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics while noting").clone()
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
    State(seen): State<Arc<Mutex<Vec<Seen>>>>,
    request: Request,
) -> ([(&'static str, &'static str); 1], &'static str) {
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
    };
    seen.lock().expect("nobody panics while noting").push(entry);
    ([("set-cookie", "sid=abc; Path=/")], "{}")
}

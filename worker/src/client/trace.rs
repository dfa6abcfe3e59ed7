//! When a user's connection was opened: one trace per user, written by its connector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use loadgrid_common::process::now;
use loadgrid_common::time::Moment;
use tower_layer::Layer;
use tower_service::Service;

/// Instants of the newest connection; zero stands for "not yet".
#[derive(Debug, Default)]
pub(super) struct Trace {
    began: AtomicU64,
    tcp_done: AtomicU64,
    done: AtomicU64,
}

/// The times of a connection that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) done: Moment,
    pub(super) connect: Duration,
    pub(super) tls: Option<Duration>,
}

impl Trace {
    /// Forgets, before an exchange.
    pub(super) fn reset(&self) {
        for instant in [&self.began, &self.tcp_done, &self.done] {
            instant.store(0, Ordering::Relaxed);
        }
    }

    /// TCP stands and TLS begins.
    pub(super) fn tls_begins(&self) {
        self.tcp_done.store(now().as_nanos(), Ordering::Relaxed);
    }

    /// Whether a connection was tried.
    pub(super) fn tried(&self) -> bool {
        self.began.load(Ordering::Relaxed) > 0
    }

    /// Whether TLS had begun.
    pub(super) fn in_tls(&self) -> bool {
        self.tcp_done.load(Ordering::Relaxed) > 0 && self.done.load(Ordering::Relaxed) == 0
    }

    /// The connection that was opened since the reset, where one was.
    pub(super) fn opened(&self) -> Option<Opened> {
        let read = |instant: &AtomicU64| match instant.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Moment::from_nanos(nanos)),
        };
        let (began, done) = (read(&self.began)?, read(&self.done)?);
        let tcp_done = read(&self.tcp_done).filter(|&tcp| tcp >= began && tcp <= done);
        Some(Opened {
            done,
            connect: tcp_done.unwrap_or(done).since(began),
            tls: tcp_done.map(|tcp| done.since(tcp)),
        })
    }
}

/// Wraps a connector so that it writes a trace.
#[derive(Clone, Debug)]
pub(super) struct TraceLayer(pub(super) Arc<Trace>);

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, trace: self.0.clone() }
    }
}

/// A connector that writes a trace.
#[derive(Clone, Debug)]
pub(super) struct Traced<S> {
    inner: S,
    trace: Arc<Trace>,
}

impl<S, R> Service<R> for Traced<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.trace.began.store(now().as_nanos(), Ordering::Relaxed);
        let connecting = self.inner.call(request);
        let trace = self.trace.clone();
        Box::pin(async move {
            let connection = connecting.await;
            if connection.is_ok() {
                trace.done.store(now().as_nanos(), Ordering::Relaxed);
            }
            connection
        })
    }
}

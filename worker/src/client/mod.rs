//! What a virtual user speaks HTTP with.
//!
//! A client only talks: it does not retry, redirect, pace, count or judge. Clients are an open set behind
//! [`HttpClient`]; which one a user gets is decided once, when its life begins.

mod classify;
mod connections;
mod reqwest;
mod settings;
mod trace;

pub use self::connections::{ConnectionSource, Connections, SharedPool};
pub use self::reqwest::ReqwestClient;
pub use self::settings::{ClientError, ClientOptions, ClientSettings, TlsOptions};

use std::time::Duration;

use bytes::Bytes;
use loadgrid_common::stats::ErrorKind;
use loadgrid_common::time::Moment;
use url::Url;

/// A request, complete.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: http::Method,
    /// The address.
    pub url: Url,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Option<Bytes>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body, complete.
    pub body: Bytes,
}

/// What happened on the wire for one request.
#[derive(Debug)]
pub struct Exchange {
    /// When the request went out: after the connection stood, where one had to be opened.
    pub sent: Moment,
    /// When the first byte of the answer was there.
    pub first_byte: Option<Moment>,
    /// When all was over.
    pub done: Moment,
    /// Name look-up and TCP, where a connection was opened.
    pub connect: Option<Duration>,
    /// TLS handshake, where there was one.
    pub tls: Option<Duration>,
    /// Size of the request, as HTTP/1.1 would write it.
    pub bytes_sent: u64,
    /// Size of the answer, as HTTP/1.1 would write it.
    pub bytes_received: u64,
    /// The answer, or why there is none.
    pub outcome: Result<Answer, ErrorKind>,
}

impl Exchange {
    /// One that did not come about.
    pub(crate) const fn failed(at: Moment, kind: ErrorKind) -> Self {
        Self {
            sent: at,
            first_byte: None,
            done: at,
            connect: None,
            tls: None,
            bytes_sent: 0,
            bytes_received: 0,
            outcome: Err(kind),
        }
    }
}

/// Sends requests one after the other, on connections of its own.
pub trait HttpClient {
    /// Performs one request; returns after `limit` at the latest.
    ///
    /// # Cancel safety
    /// May be dropped at any await; the connection is then closed and not used again.
    fn exchange(
        &mut self,
        request: Request,
        limit: Duration,
        max_body: u64,
    ) -> impl Future<Output = Exchange>;
}

/// Size of a message as HTTP/1.1 would write it.
fn message_bytes(first_line: usize, headers: &http::HeaderMap, body: u64) -> u64 {
    let headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (first_line + headers + 4) as u64 + body
}

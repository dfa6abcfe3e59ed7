//! From a library's error to a kind of failure: by types and codes, never by comparing texts.

use std::error::Error;
use std::io;

use loadgrid_common::stats::{Blame, ErrorKind};

use super::trace::Trace;

/// Marks a host that may not be sent load.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` may not be sent load")]
pub(super) struct NotAllowed(pub(super) String);

/// Marks a name that was not resolved.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` was not resolved")]
pub(super) struct NotResolved {
    pub(super) name: String,
    #[source]
    pub(super) source: io::Error,
}

/// The kind of an error of the client.
pub(super) fn classify(error: &reqwest::Error, trace: &Trace) -> ErrorKind {
    let reused = !trace.tried();
    let mut incomplete = false;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if error.is::<NotAllowed>() {
            return ErrorKind::NotAllowed;
        }
        if let Some(not_resolved) = error.downcast_ref::<NotResolved>() {
            // Without a descriptor nobody can ask: that is ours.
            let ours = of_io(&not_resolved.source, reused).filter(|kind| kind.blame() == Blame::Generator);
            return ours.unwrap_or(ErrorKind::Dns);
        }
        if error.is::<rustls::Error>() {
            return ErrorKind::Tls;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_parse() || hyper.is_parse_status() || hyper.is_parse_too_large() {
                return ErrorKind::Protocol;
            }
            incomplete |= hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled();
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                return ErrorKind::Tls;
            }
            if let Some(kind) = of_io(io, reused) {
                return kind;
            }
        }
        cause = error.source();
    }
    if error.is_timeout() {
        return match (trace.tried() && trace.opened().is_none(), trace.in_tls()) {
            (true, true) => ErrorKind::Tls,
            (true, false) => ErrorKind::Connect,
            (false, _) => ErrorKind::Timeout,
        };
    }
    if incomplete {
        return if reused { ErrorKind::EofOnReused } else { ErrorKind::Eof };
    }
    if error.is_connect() {
        return if trace.in_tls() { ErrorKind::Tls } else { ErrorKind::Connect };
    }
    if error.is_builder() { ErrorKind::Request } else { ErrorKind::Protocol }
}

fn of_io(error: &io::Error, reused: bool) -> Option<ErrorKind> {
    // EMFILE, ENFILE and EADDRNOTAVAIL on Linux; the first two are the same on every Unix.
    match error.raw_os_error() {
        Some(23 | 24) => return Some(ErrorKind::FdLimit),
        Some(99) => return Some(ErrorKind::Ports),
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => Some(ErrorKind::Ports),
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Some(ErrorKind::Connect),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Some(if reused { ErrorKind::EofOnReused } else { ErrorKind::Reset })
        }
        io::ErrorKind::UnexpectedEof => Some(if reused { ErrorKind::EofOnReused } else { ErrorKind::Eof }),
        _ => None,
    }
}

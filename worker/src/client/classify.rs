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

/// The kind of an exchange that was not over within its limit.
pub(super) fn timed_out(trace: &Trace, answering: bool) -> ErrorKind {
    let opening = trace.tried() && trace.opened().is_none();
    match (opening, trace.in_tls(), answering) {
        (true, true, _) => ErrorKind::TlsTimeout,
        (true, false, _) => ErrorKind::ConnectTimeout,
        (false, _, true) => ErrorKind::BodyTimeout,
        (false, _, false) => ErrorKind::Timeout,
    }
}

/// The kind of an error of the client; `answering` where an answer had begun.
pub(super) fn classify(error: &reqwest::Error, trace: &Trace, answering: bool) -> ErrorKind {
    let reused = !trace.tried();
    let mut incomplete = false;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if error.is::<NotAllowed>() {
            return ErrorKind::NotAllowed;
        }
        if let Some(not_resolved) = error.downcast_ref::<NotResolved>() {
            // Without a descriptor nobody can ask: that is ours.
            let ours = of_io(&not_resolved.source, reused, answering)
                .filter(|kind| kind.blame() == Blame::Generator);
            return ours.unwrap_or(ErrorKind::Dns);
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return of_tls(tls);
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>()
            && (h2.is_reset() || h2.is_go_away())
        {
            return ErrorKind::Http2;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_parse_too_large() {
                return ErrorKind::HeadTooLarge;
            }
            if hyper.is_parse() || hyper.is_parse_status() {
                return ErrorKind::Protocol;
            }
            incomplete |= hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled();
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if let Some(tls) = tls_in(io) {
                return of_tls(tls);
            }
            if let Some(kind) = of_io(io, reused, answering) {
                return kind;
            }
        }
        cause = error.source();
    }
    if error.is_timeout() {
        return timed_out(trace, answering);
    }
    if incomplete {
        return match (answering, reused) {
            (true, _) => ErrorKind::BodyEof,
            (false, true) => ErrorKind::EofOnReused,
            (false, false) => ErrorKind::Eof,
        };
    }
    if error.is_connect() {
        return if trace.in_tls() { ErrorKind::Tls } else { ErrorKind::Connect };
    }
    if error.is_builder() { ErrorKind::Request } else { ErrorKind::Protocol }
}

/// The TLS error in an I/O error, which may wrap others.
fn tls_in(mut error: &io::Error) -> Option<&rustls::Error> {
    loop {
        let inner = error.get_ref()?;
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        error = inner.downcast_ref::<io::Error>()?;
    }
}

const fn of_tls(error: &rustls::Error) -> ErrorKind {
    match error {
        rustls::Error::InvalidCertificate(_) => ErrorKind::TlsCertificate,
        _ => ErrorKind::Tls,
    }
}

fn of_io(error: &io::Error, reused: bool, answering: bool) -> Option<ErrorKind> {
    // EMFILE, ENFILE and EADDRNOTAVAIL on Linux; the first two are the same on every Unix.
    match error.raw_os_error() {
        Some(23 | 24) => return Some(ErrorKind::FdLimit),
        Some(99) => return Some(ErrorKind::Ports),
        _ => {}
    }
    let raced = reused && !answering;
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => Some(ErrorKind::Ports),
        io::ErrorKind::ConnectionRefused => Some(ErrorKind::ConnectRefused),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Some(ErrorKind::Connect),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Some(if raced { ErrorKind::EofOnReused } else { ErrorKind::Reset })
        }
        io::ErrorKind::UnexpectedEof if answering => Some(ErrorKind::BodyEof),
        io::ErrorKind::UnexpectedEof => Some(if raced { ErrorKind::EofOnReused } else { ErrorKind::Eof }),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if answering => Some(ErrorKind::BodyFraming),
        _ => None,
    }
}

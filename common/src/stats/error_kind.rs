//! Kinds of failure, and whose they are.

use std::fmt;

/// Whose fault a failure is. A report never shows one as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The target's, or the network's on the way to it: data.
    Target,
    /// The load generator's: it spoils the result.
    Generator,
}

macro_rules! error_kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal by $blame:ident,)*) => {
        /// Why an exchange failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ErrorKind { $($(#[doc = $doc])* $name,)* }

        impl ErrorKind {
            /// All kinds, in the order of their index on the wire.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame),* }
            }
        }
    };
}

error_kinds! {
    /// The name was not resolved.
    Dns = "dns" by Target,
    /// Nobody listens there.
    ConnectRefused = "connect_refused" by Target,
    /// No connection within the connect timeout.
    ConnectTimeout = "connect_timeout" by Target,
    /// No way to the address, or the connection broke while it was opened.
    Connect = "connect" by Target,
    /// The certificate is not trusted, not valid, or for another name.
    TlsCertificate = "tls_certificate" by Target,
    /// The TLS handshake failed: an alert, no common version, not TLS at all.
    Tls = "tls" by Target,
    /// The TLS handshake was not over within the connect timeout.
    TlsTimeout = "tls_timeout" by Target,
    /// No answer began within the response timeout.
    Timeout = "timeout" by Target,
    /// An answer began and was not complete within the response timeout.
    BodyTimeout = "body_timeout" by Target,
    /// The connection was reset in the middle.
    Reset = "reset" by Target,
    /// The target closed a reused connection just as the request went out (the keep-alive race).
    EofOnReused = "eof_on_reused" by Target,
    /// The connection was closed before an answer began.
    Eof = "eof" by Target,
    /// The connection was closed before the answer was complete.
    BodyEof = "body_eof" by Target,
    /// The answer was not HTTP.
    Protocol = "protocol" by Target,
    /// The answer's head was larger than any client reads.
    HeadTooLarge = "head_too_large" by Target,
    /// The answer's body was not framed as its head says.
    BodyFraming = "body_framing" by Target,
    /// The target reset the HTTP/2 stream, or closed the connection with an error.
    Http2 = "http2" by Target,
    /// A status that is not expected.
    Status = "status" by Target,
    /// A check on the answer failed.
    Check = "check" by Target,
    /// A value that should have been captured was not there.
    Capture = "capture" by Target,
    /// The body was larger than `max_body`.
    BodyTooLarge = "body_too_large" by Target,
    /// More redirects than allowed.
    Redirects = "redirects" by Target,
    /// A redirect without an address that can be followed.
    RedirectAddress = "redirect_address" by Target,
    /// An address or a redirect led to a host that may not be sent load.
    NotAllowed = "target_not_allowed" by Target,
    /// The generator had no file descriptor left.
    FdLimit = "fd_limit" by Generator,
    /// The generator had no local port left.
    Ports = "ports" by Generator,
    /// The request could not be built from the scenario (an address that is none, say).
    Request = "bad_request" by Generator,
}

impl ErrorKind {
    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether no connection came to stand: what `connect` means where a scenario names kinds.
    #[must_use]
    pub const fn is_connect(self) -> bool {
        matches!(self, Self::ConnectRefused | Self::ConnectTimeout | Self::Connect)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCounts([u64; ErrorKind::ALL.len()]);

impl Default for ErrorCounts {
    fn default() -> Self {
        Self([0; ErrorKind::ALL.len()])
    }
}

impl ErrorCounts {
    /// Counts one more.
    pub const fn add(&mut self, kind: ErrorKind) {
        self.0[kind as usize] += 1;
    }

    /// Counts `count` more of the kind with this index on the wire; an unknown index is a newer
    /// worker's kind and counts as `protocol`.
    pub fn add_indexed(&mut self, index: u32, count: u64) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let slot = if index < self.0.len() { index } else { ErrorKind::Protocol as usize };
        self.0[slot] = self.0[slot].saturating_add(count);
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.0.iter_mut().zip(other.0) {
            *own = own.saturating_add(theirs);
        }
    }

    /// The kinds that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        ErrorKind::ALL.iter().copied().zip(self.0).filter(|&(_, count)| count > 0)
    }
}

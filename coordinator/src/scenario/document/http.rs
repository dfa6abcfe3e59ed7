//! `http`, as written.

#![expect(clippy::allow_attributes, reason = "a macro cannot know which of the fields it declares are read")]

use serde_json::{Value as Json, json};

use crate::scenario::decode::{
    Bytes, CapRate, Count, Decode, Definitions, Duration, Mapped, Quantity, Text, mapping, verbs, words,
};
use crate::scenario::problem::{Sink, Span};
use crate::scenario::tree::{Node, Value};

mapping! {
    /// How requests are made.
    struct Http {
        /// Which client: `reqwest`.
        optional client: Client,
        /// Limits on waiting.
        optional timeout: Timeouts,
        /// Redirects that are followed; each is an exchange of its own.
        optional redirects: Quantity<Count>,
        /// `per-user` (kept for a life) or `none`.
        optional cookies: Cookies,
        /// The largest body that is read.
        optional max_body: Quantity<Bytes>,
        /// Headers of every request.
        optional headers: Mapped<Text>,
        /// `auto` (what TLS agrees on, HTTP/1.1 otherwise), `http1` or `http2`.
        optional version: Version,
        /// Whose connections they are, and how long an unused one is kept.
        optional connections: Connections,
        /// Credentials of every request; left out as long as a value in them is missing.
        optional auth: Auth,
        /// How TLS is done.
        optional tls: Tls,
        /// Names and the addresses that stand for them, without asking anybody.
        optional hosts: Mapped<Text>,
        /// A limit on the exchanges sent.
        optional cap: Cap,
    }
}

words! {
    /// The version of HTTP.
    enum Version { "auto" => Auto, "http1" => Http1, "http2" => Http2, }
}

mapping! {
    /// Whose connections they are. A text alone is the mode.
    struct Connections short mode {
        /// `per-user` (each life its own), `new` (one per request) or `shared: { size: N }`.
        optional mode: ConnectionMode,
        /// How long an unused connection is kept; 90s where absent.
        optional idle: Quantity<Duration>,
    }
}

/// A connection mode: a word, or `shared` with its size.
#[derive(Clone, Debug)]
pub(in crate::scenario) enum ConnectionMode {
    /// `per-user` or `new`.
    Word(ConnectionWord),
    /// `shared: { size: N }`.
    Shared(SharedMode),
}

words! {
    /// Whose connections they are.
    enum ConnectionWord { "per-user" => PerUser, "new" => New, }
}

verbs! {
    /// Connections that users share.
    enum SharedMode, "a connection mode" {
        /// All users of the grid share so many.
        "shared" => Shared(SharedSize),
    }
}

mapping! {
    /// How many connections are shared.
    struct SharedSize short size {
        /// Connections of the whole grid.
        required size: Quantity<Count>,
    }
}

impl Decode for ConnectionMode {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match node.value {
            Value::Map(_) => SharedMode::decode(node, sink).map(Self::Shared),
            Value::Scalar { .. } | Value::List(_) => ConnectionWord::decode(node, sink).map(Self::Word),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [ConnectionWord::schema(definitions), SharedMode::schema(definitions)] })
    }
}

/// Credentials.
#[derive(Clone, Debug)]
pub(in crate::scenario) enum Auth {
    /// `none`: without those of all requests.
    None,
    /// Given.
    Given(Credentials),
}

verbs! {
    /// Credentials of a request.
    enum Credentials, "`auth`" {
        /// User and password (RFC 7617).
        "basic" => Basic(Basic),
        /// A token (RFC 6750).
        "bearer" => Bearer(Text),
    }
}

mapping! {
    /// A user and a password.
    struct Basic {
        /// The user.
        required user: Text,
        /// The password.
        required password: Text,
    }
}

impl Decode for Auth {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } if &**text == "none" => Some(Self::None),
            Value::Map(_) => Credentials::decode(node, sink).map(Self::Given),
            Value::Scalar { .. } | Value::List(_) => {
                sink.add_with_hint(
                    node.span,
                    format!("`auth` is `none`, `basic: …` or `bearer: …`, not {}", node.kind()),
                    "write for example auth: { bearer: \"${token}\" }",
                );
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "const": "none" }, Credentials::schema(definitions)] })
    }
}

mapping! {
    /// How TLS is done.
    struct Tls {
        /// Whether the target's certificate is verified; `false` is said in every report.
        optional verify: bool,
        /// A PEM file of certificates to trust, instead of the system's.
        optional ca: Text,
        /// The certificate that the users show.
        optional client: ClientCertificate,
        /// The name that is asked for and verified, instead of the url's host.
        optional sni: Text,
    }
}

mapping! {
    /// A client certificate; PEM files.
    struct ClientCertificate {
        /// The certificate, with those between it and a root.
        required cert: Text,
        /// Its private key; treated as a secret.
        required key: Text,
    }
}

mapping! {
    /// At most so many exchanges in any stretch of time; the waiting is counted apart.
    struct Cap {
        /// How many in which time: `600/m` is at most 600 in any minute.
        required rate: Quantity<CapRate>,
        /// For the whole `grid` (the default), for each `user`, or for each `step` of the grid.
        optional per: CapPer,
        /// How time is cut: `sliding`, the only way.
        optional window: CapWindow,
    }
}

words! {
    /// Whom a cap is for.
    enum CapPer { "grid" => Grid, "user" => User, "step" => Step, }
}

words! {
    /// How time is cut.
    enum CapWindow { "sliding" => Sliding, }
}

words! {
    /// The HTTP client.
    enum Client { "reqwest" => Reqwest, }
    later &["lean"]
}

words! {
    /// Whose cookies are kept.
    enum Cookies { "per-user" => PerUser, "none" => None, }
}

mapping! {
    /// Limits on waiting.
    struct Timeouts {
        /// Until the connection stands, TLS included.
        optional connect: Quantity<Duration>,
        /// From the request to the end of the answer.
        optional response: Quantity<Duration>,
    }
}

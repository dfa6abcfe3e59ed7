//! The settings of `http`.

use loadgrid_common::plan;

use super::blobs;
use super::document::{self as doc, Cookies};
use super::flow::Flows;

/// Under this name the client's private key travels among the secrets; no scenario can name it so.
const CLIENT_KEY: &str = "tls:client-key";
/// How long an unused connection is kept.
const IDLE_NS: u64 = 90_000_000_000;

/// The settings, and what must not stand in the plan.
pub(super) struct HttpSettings {
    pub(super) http: plan::Http,
    pub(super) secrets: Vec<(String, String)>,
}

impl Flows<'_> {
    /// Compiles the settings of `http`.
    pub(super) fn http(&mut self, http: Option<&doc::Http>) -> Option<HttpSettings> {
        let mut out = plan::Http {
            connect_timeout_ns: 5_000_000_000,
            response_timeout_ns: 30_000_000_000,
            redirects: 3,
            cookies: true,
            max_body_bytes: 16 << 20,
            idle_ns: IDLE_NS,
            ..plan::Http::default()
        };
        let mut secrets = Vec::new();
        let Some(http) = http else { return Some(HttpSettings { http: out, secrets }) };
        let timeouts = self.timeouts(http, &mut out);
        if let Some(redirects) = &http.redirects {
            out.redirects = u32::try_from(self.constants.quantity(redirects, self.sink)?).unwrap_or(u32::MAX);
        }
        out.cookies = http.cookies != Some(Cookies::None);
        if let Some(max_body) = &http.max_body {
            out.max_body_bytes = self.constants.quantity(max_body, self.sink)?;
        }
        out.version = match http.version {
            Some(doc::Version::Http1) => plan::HttpVersion::Http1,
            Some(doc::Version::Http2) => plan::HttpVersion::Http2,
            Some(doc::Version::Auto) | None => plan::HttpVersion::Auto,
        }
        .into();
        let headers = http.headers.as_ref().map_or(Some(Vec::new()), |headers| self.headers(headers));
        let auth = http.auth.as_ref().map(|auth| self.auth(auth));
        let cap = http.cap.as_ref().map(|cap| self.cap(cap));
        let connections = self.connections(http.connections.as_ref(), &mut out);
        let hosts = self.hosts(http, &mut out);
        let tls = http.tls.as_ref().map(|tls| self.tls(tls, &mut secrets));
        timeouts.and(connections).and(hosts)?;
        out.headers = headers?;
        out.auth = match auth {
            Some(auth) => Some(auth?),
            None => None,
        };
        out.cap = match cap {
            Some(cap) => Some(cap?),
            None => None,
        };
        out.tls = match tls {
            Some(tls) => Some(tls?),
            None => None,
        };
        Some(HttpSettings { http: out, secrets })
    }

    fn timeouts(&mut self, http: &doc::Http, out: &mut plan::Http) -> Option<()> {
        let Some(timeout) = &http.timeout else { return Some(()) };
        if let Some(connect) = &timeout.connect {
            out.connect_timeout_ns = self.ns(connect)?;
        }
        if let Some(response) = &timeout.response {
            out.response_timeout_ns = self.ns(response)?;
        }
        for (quantity, ns) in
            [(&timeout.connect, out.connect_timeout_ns), (&timeout.response, out.response_timeout_ns)]
        {
            if let (Some(quantity), 0) = (quantity, ns) {
                self.sink.add(quantity.text.span, "nothing is done in no time at all; write for example 5s");
                return None;
            }
        }
        Some(())
    }

    fn connections(&mut self, connections: Option<&doc::Connections>, out: &mut plan::Http) -> Option<()> {
        let Some(connections) = connections else { return Some(()) };
        if let Some(idle) = &connections.idle {
            out.idle_ns = self.ns(idle)?;
        }
        let mode = match &connections.mode {
            None | Some(doc::ConnectionMode::Word(doc::ConnectionWord::PerUser)) => {
                plan::Connections::PerUser
            }
            Some(doc::ConnectionMode::Word(doc::ConnectionWord::New)) => plan::Connections::New,
            Some(doc::ConnectionMode::Shared(doc::SharedMode::Shared(shared))) => {
                out.shared_connections = self.constants.quantity(&shared.size, self.sink)?;
                if out.shared_connections == 0 {
                    self.sink.add(shared.size.text.span, "nobody could send anything over 0 connections");
                    return None;
                }
                plan::Connections::Shared
            }
        };
        out.connections = mode.into();
        Some(())
    }

    fn hosts(&mut self, http: &doc::Http, out: &mut plan::Http) -> Option<()> {
        let mut good = true;
        for (name, address) in http.hosts.iter().flat_map(|hosts| &hosts.entries) {
            let Some(value) = self.constants.text(address, self.sink) else {
                good = false;
                continue;
            };
            if value.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() {
                let message = format!("`{value}` is not an address");
                self.sink.add_with_hint(address.span, message, "write for example 127.0.0.1 or ::1");
                good = false;
                continue;
            }
            // The address counts, not the name: a name that may be sent load must not lend that to any address.
            self.names.hosts.insert(value.trim_matches(['[', ']']).to_owned());
            out.hosts.push(plan::Pair { name: name.0.value.to_ascii_lowercase(), value });
        }
        good.then_some(())
    }

    fn tls(&mut self, tls: &doc::Tls, secrets: &mut Vec<(String, String)>) -> Option<plan::Tls> {
        let mut out = plan::Tls { unverified: tls.verify == Some(false), ..plan::Tls::default() };
        if let Some(ca) = &tls.ca {
            if out.unverified {
                let hint = "remove `ca`, or `verify: false`";
                self.sink.add_with_hint(
                    ca.span,
                    "`ca` says whom to trust, `verify: false` to trust all",
                    hint,
                );
                return None;
            }
            out.ca = self.blobs.borrow_mut().read_pem(self.resolver, ca, "CERTIFICATE", self.sink)?;
        }
        if let Some(client) = &tls.client {
            let cert =
                self.blobs.borrow_mut().read_pem(self.resolver, &client.cert, "CERTIFICATE", self.sink);
            let key = blobs::read_file(self.resolver, &client.key, self.sink);
            let (cert, key) = (cert?, key?);
            if !blobs::is_pem(&key, &client.key, "PRIVATE KEY", self.sink) {
                return None;
            }
            out.client_cert = cert;
            CLIENT_KEY.clone_into(&mut out.client_key_secret);
            secrets.push((CLIENT_KEY.to_owned(), String::from_utf8_lossy(&key).into_owned()));
        }
        if let Some(sni) = &tls.sni {
            let name = self.constants.text(sni, self.sink)?;
            if name.is_empty() || url::Host::parse(&name).is_err() {
                self.sink.add(sni.span, format!("`{name}` is not the name of a host"));
                return None;
            }
            out.sni = name;
        }
        Some(out)
    }
}

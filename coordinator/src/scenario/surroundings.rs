//! What stands around users and phases: vars and their profiles, targets, secrets, labels.

use std::time::Duration;

use loadgrid_common::plan;

use super::constants::{Constants, Vars};
use super::decode::{Any, Mapped};
use super::document::{Document, Secret};
use super::problem::{Sink, Span, suggest};
use super::{Overrides, Resolver};

/// See the module.
pub(super) struct Surroundings {
    pub(super) constants: Constants,
    /// The address under test, where it can be read.
    pub(super) target: Option<String>,
    /// Further addresses by name.
    pub(super) targets: Vec<(String, String)>,
    /// Secrets that were read here.
    pub(super) secrets: Secrets,
    /// Secrets that stand with the coordinator.
    pub(super) stored_secrets: Secrets,
    /// Names of all of them.
    pub(super) secret_names: Vec<String>,
}

impl Surroundings {
    /// Reads them, and takes `vars` from the document.
    pub(super) fn read(
        document: &mut Document,
        resolver: &dyn Resolver,
        overrides: &Overrides,
        sink: &mut Sink,
    ) -> Self {
        let vars = profile(document, overrides, sink);
        let mut constants = Constants::resolve(&vars, resolver.environment(), sink);
        let target = target(document, &constants, overrides, sink);
        constants.set_target(target.clone().unwrap_or_default());
        let targets = targets(document, &constants, sink);
        let (secrets, stored_secrets) = secrets(document, resolver, sink);
        let names = document.secrets.iter().flat_map(|secrets| secrets.names().map(str::to_owned));
        let secret_names = names.collect();
        Self { constants, target, targets, secrets, stored_secrets, secret_names }
    }

    /// The hosts of all targets.
    pub(super) fn hosts(&self) -> impl Iterator<Item = String> + '_ {
        let addresses = self.target.iter().chain(self.targets.iter().map(|(_, address)| address));
        addresses.filter_map(|address| Some(host_of(url::Url::parse(address).ok()?.host_str()?)))
    }

    /// What the target must answer before anything starts.
    pub(super) fn wait_for(&self, document: &Document, sink: &mut Sink) -> Option<Option<plan::WaitFor>> {
        let Some(wait) = &document.wait_for else { return Some(None) };
        let within = wait.within.as_ref().map(|within| self.constants.quantity(within, sink));
        let text = self.constants.text(&wait.get, sink)?;
        let named = text.split_once(':').and_then(|(name, path)| {
            let (_, address) = self.targets.iter().find(|(known, _)| known == name)?;
            Some(format!("{address}{path}"))
        });
        let url = match named {
            Some(url) => url,
            None if text.starts_with(['/', '?']) => {
                format!("{}{text}", self.target.as_deref().unwrap_or_default())
            }
            None => text.clone(),
        };
        if !url::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            let message = format!("`{text}` is neither a path nor an address");
            sink.add_with_hint(wait.get.span, message, "write for example /api/health");
            return None;
        }
        let within_ns = loadgrid_common::time::nanos(within.map_or(Some(Duration::from_secs(60)), |w| w)?);
        Some(Some(plan::WaitFor { url, within_ns }))
    }

    /// The labels of the run.
    pub(super) fn labels(&self, document: &Document, sink: &mut Sink) -> Option<Vec<plan::Pair>> {
        let labels = document.labels.iter().flat_map(|labels| &labels.entries);
        let read: Vec<_> = labels
            .map(|(name, value)| {
                let value = self.constants.text(value, sink)?;
                Some(plan::Pair { name: name.0.value.clone(), value })
            })
            .collect();
        read.into_iter().collect()
    }
}

/// The host in `host`, `host:port` or `user@host:port`.
pub(super) fn host_of(authority: &str) -> String {
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Some(end) = host.find(']') {
        return host[..=end].to_owned();
    }
    host.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

/// The values of `vars`, with those of the profile and of the command line in their places.
fn profile(document: &mut Document, overrides: &Overrides, sink: &mut Sink) -> Vars {
    let vars = document.vars.take().unwrap_or_default();
    let mut given: Vec<(String, Any)> = Vec::new();
    for (profile, values) in document.profiles.iter().flat_map(|profiles| &profiles.entries) {
        for (name, value) in &values.entries {
            if vars.get(&name.0.value).is_none() && !vars.is_broken(&name.0.value) {
                let hint = suggest(&name.0.value, vars.names())
                    .unwrap_or_else(|| "declare it under `vars`".to_owned());
                let message = format!("the profile gives `{}`, which is no var", name.0.value);
                sink.add_with_hint(name.0.span, message, hint);
            } else if overrides.profile.as_ref() == Some(&profile.0.value) {
                given.push((name.0.value.clone(), value.clone()));
            }
        }
    }
    if let Some(name) = &overrides.profile {
        let known: Vec<&str> = document.profiles.iter().flat_map(Mapped::names).collect();
        if !known.contains(&name.as_str()) {
            let hint = suggest(name, known.iter().copied());
            let hint = hint.unwrap_or_else(|| "the scenario declares no profiles".to_owned());
            let message = format!("--profile {name}: the scenario has no such profile");
            sink.add_with_hint(Span::default(), message, hint);
        }
    }
    for (name, _) in &overrides.vars {
        if vars.get(name).is_none() {
            let hint =
                suggest(name, vars.names()).unwrap_or_else(|| "the scenario declares no vars".to_owned());
            let message = format!("--var {name}: the scenario has no such var");
            sink.add_with_hint(Span::default(), message, hint);
        }
    }
    Vars { declared: vars, profile: given, overrides: overrides.vars.clone() }
}

/// Addresses by name.
fn targets(document: &Document, constants: &Constants, sink: &mut Sink) -> Vec<(String, String)> {
    let mut targets = Vec::new();
    for (name, address) in document.targets.iter().flat_map(|targets| &targets.entries) {
        let good = name.0.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if !good || name.0.value.is_empty() {
            let hint = "a url begins with it, so it has letters, digits, - and _";
            sink.add_with_hint(name.0.span, format!("`{}` cannot name a target", name.0.value), hint);
            continue;
        }
        let Some(text) = constants.text(address, sink) else { continue };
        if let Some(text) = address_of(&text, address.span, sink) {
            targets.push((name.0.value.clone(), text));
        }
    }
    targets
}

fn target(
    document: &Document,
    constants: &Constants,
    overrides: &Overrides,
    sink: &mut Sink,
) -> Option<String> {
    let (text, span) = match &overrides.target {
        Some(target) => (target.clone(), Span::default()),
        None => (constants.text(&document.target, sink)?, document.target.span),
    };
    address_of(&text, span, sink)
}

/// An address without its last slash; tells where a text is none.
fn address_of(text: &str, span: Span, sink: &mut Sink) -> Option<String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => {
            Some(text.trim_end_matches('/').to_owned())
        }
        _ => {
            sink.add_with_hint(
                span,
                format!("the target `{text}` is not an address"),
                "write for example http://127.0.0.1:8080",
            );
            None
        }
    }
}

/// Names and values, or names and names in the coordinator's directory.
type Secrets = Vec<(String, String)>;

/// Secrets that are read here, and those that stand with the coordinator.
fn secrets(document: &Document, resolver: &dyn Resolver, sink: &mut Sink) -> (Secrets, Secrets) {
    let (mut read, mut stored) = (Vec::new(), Vec::new());
    let environment = resolver.environment();
    for (name, secret) in document.secrets.iter().flat_map(|secrets| &secrets.entries) {
        let (value, span) = match secret {
            Secret::Env(variable) => {
                let value = environment.get(&variable.value);
                let value = value.map(|value| value.trim_end_matches(['\r', '\n']).to_owned());
                (
                    value.ok_or_else(|| format!("the environment has no variable `{}`", variable.value)),
                    variable.span,
                )
            }
            Secret::Store(stored_name) => {
                let text = &stored_name.value;
                let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
                if text.is_empty() || text.starts_with('.') || !good {
                    let hint = "it is the name of a file in the coordinator's --secrets directory";
                    sink.add_with_hint(stored_name.span, format!("`{text}` cannot name a secret"), hint);
                }
                stored.push((name.0.value.clone(), text.clone()));
                continue;
            }
            Secret::File(path) => {
                let value = resolver.read_file(&path.value).and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|_| format!("`{}` is not UTF-8 text", path.value))
                });
                (value.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()), path.span)
            }
        };
        match value {
            Ok(value) => read.push((name.0.value.clone(), value)),
            Err(message) => {
                let hint = "set it, pass `-e NAME=…`, or name a file or a `store`";
                let message = format!("the secret `{}` cannot be read: {message}", name.0.value);
                sink.add_with_hint(span, message, hint);
            }
        }
    }
    (read, stored)
}

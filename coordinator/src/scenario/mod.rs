//! Scenario text to plan.
//!
//! Three steps, three types: the tree (places), the document (as written), the plan (resolved, validated,
//! names as indices). All problems of a file come at once. Files, environment and secrets are read here,
//! by whoever submits, through a [`Resolver`]; nobody after this opens a path or reads a variable that a
//! scenario names.

mod blobs;
mod constants;
mod data;
mod decode;
mod document;
mod flow;
mod http;
mod include;
mod load;
mod problem;
mod request;
mod template;
mod tree;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use loadgrid_common::plan::{self, Plan};
use prost::Message as _;

pub use load::{LoadOverrides, PhaseChoice};
pub use problem::{Problem, Problems, SourceText, Span, suggest};

use crate::judge::{Known, Threshold};
use blobs::Blobs;
use constants::{Constants, Vars};
use decode::{Any, Decode as _, Mapped};
use document::{Document, Secret, UserType};
use flow::{Flows, Names};
use http::HttpSettings;
use problem::Sink;

/// What a scenario names outside of its text.
pub trait Resolver {
    /// Variables of the environment.
    fn environment(&self) -> BTreeMap<String, String>;
    /// Reads a file that the scenario names, relative to it.
    ///
    /// # Errors
    /// With a sentence that says why it cannot be read.
    fn read_file(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// What the command line changes.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--var NAME=VALUE`.
    pub vars: Vec<(String, String)>,
    /// `--target`.
    pub target: Option<String>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// `-u`, `-d`, `-r`.
    pub load: LoadOverrides,
    /// `--profile`.
    pub profile: Option<String>,
    /// `--with`, `--only`.
    pub phases: PhaseChoice,
}

/// A scenario, ready to submit.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the coordinator gets.
    pub bundle: plan::Bundle,
    /// The plan in it, for `validate` and `plan`.
    pub plan: Plan,
}

/// The longest window of a threshold: the coordinator keeps its measures apart.
const LONGEST_WINDOW: Duration = Duration::from_secs(600);

/// The largest bundle.
pub const MOST_BUNDLE_BYTES: usize = 256 << 20;

/// Reads a scenario.
///
/// # Errors
/// With all problems of the file.
pub fn load(
    file: &str,
    text: &str,
    resolver: &dyn Resolver,
    overrides: &Overrides,
) -> Result<Loaded, Box<Problems>> {
    let mut sink = Sink::default();
    let mut texts = vec![SourceText { name: file.to_owned(), text: text.to_owned(), base: 0 }];
    let loaded = compile(&mut texts, resolver, overrides, &mut sink);
    match loaded {
        Some(loaded) if sink.is_empty() => Ok(loaded),
        _ => {
            if sink.is_empty() {
                sink.add(Span::default(), "the scenario cannot be read");
            }
            Err(Box::new(Problems { texts, list: sink.into_sorted() }))
        }
    }
}

/// The JSON Schema of scenarios.
#[must_use]
pub fn schema() -> serde_json::Value {
    document::schema()
}

/// The host in `host`, `host:port` or `user@host:port`.
fn host_of(authority: &str) -> String {
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Some(end) = host.find(']') {
        return host[..=end].to_owned();
    }
    host.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

fn compile(
    texts: &mut Vec<SourceText>,
    resolver: &dyn Resolver,
    overrides: &Overrides,
    sink: &mut Sink,
) -> Option<Loaded> {
    let text = texts.first()?.text.clone();
    let tree = tree::parse(&text, 0, sink)?;
    let mut document = Document::decode(&tree, sink)?;
    check_version(&document, sink)?;
    let included = include::read(&mut document, resolver, texts, sink);
    let mut perhaps = BTreeSet::new();
    if !sink.is_empty() {
        [&tree].into_iter().chain(&included).for_each(|tree| variables_of(tree, &mut perhaps));
    }
    let users = users(&mut document, sink);
    let vars = profile(&mut document, overrides, sink);
    let mut constants = Constants::resolve(&vars, resolver.environment(), sink);
    let target = target(&document, &constants, overrides, sink);
    constants.set_target(target.clone().unwrap_or_default());
    let targets = targets(&document, &constants, sink);
    let (secrets, stored_secrets) = secrets(&document, resolver, sink);
    let sources = data::read(document.data.as_ref(), &constants, resolver, sink);
    let secret_names: Vec<String> =
        document.secrets.iter().flat_map(|secrets| secrets.names().map(str::to_owned)).collect();
    let columns = sources.columns();
    if !sink.is_empty() {
        // A source that could not be read was told already.
        perhaps.extend(document.data.iter().flat_map(|data| data.names().map(str::to_owned)));
        perhaps.extend(document.targets.iter().flat_map(|targets| targets.names().map(str::to_owned)));
    }

    let mut names = Names::default();
    let used_columns = RefCell::new(BTreeSet::new());
    let no_flows = Mapped::default();
    let flows = document.flows.as_ref().unwrap_or(&no_flows);
    let mut setup_names = Vec::new();
    flow::variables(document.setup.as_deref().unwrap_or_default(), flows, 0, &mut setup_names);
    let blobs = RefCell::new(Blobs::default());
    let (mut user_plans, http) = {
        let parts = Parts {
            document: &document,
            users: &users,
            flows,
            columns: &columns,
            secrets: &secret_names,
            setup: &setup_names,
            targets: &targets,
            blobs: &blobs,
            resolver,
            perhaps: &perhaps,
        };
        compile_users(&parts, &constants, &used_columns, &mut names, sink)
    };
    let response_timeout_ns = http.as_ref().map_or(30_000_000_000, |http| http.http.response_timeout_ns);
    let loads = load::Loads {
        document: &document,
        users: &users,
        constants: &constants,
        overrides: overrides.load,
        choice: &overrides.phases,
        response_timeout_ns,
    };
    let phases = load::phases(&loads, sink);
    let wait_for = wait_for(&document, &constants, target.as_deref().unwrap_or_default(), &targets, sink);
    let labels = labels(&document, &constants, sink);
    let thresholds = thresholds(&document, &constants, &names, phases.as_deref(), sink);
    let mut phases = phases?;
    data::bind(&sources, &users, &mut user_plans, &mut phases, sink);
    around(&document, &mut phases, user_plans.len());
    let grid = grid(document.grid.as_ref(), &constants, sink);
    let (plan_sources, mut tables) = sources.finish(&used_columns.borrow(), sink);
    let seed = match (overrides.seed, &document.seed) {
        (Some(seed), _) => Some(seed),
        (None, Some(seed)) => constants.quantity(seed, sink),
        (None, None) => Some(1),
    };
    let file_name = texts.first().and_then(|text| Path::new(&text.name).file_stem());
    let file_name =
        file_name.map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let mut hosts = names.hosts;
    let target = target?;
    for address in [&target].into_iter().chain(targets.iter().map(|(_, address)| address)) {
        hosts.insert(host_of(url::Url::parse(address).ok()?.host_str()?));
    }
    let files = blobs.into_inner().finish();
    let blobs: Vec<String> = files.iter().map(|blob| blob.hash.clone()).collect();
    tables.extend(files);
    let HttpSettings { http, secrets: tls_secrets } = http?;
    let plan = Plan {
        name: document.name.as_ref().map_or(file_name, |name| name.0.value.clone()),
        seed: seed?,
        target,
        http: Some(http),
        sources: plan_sources,
        users: user_plans,
        steps: names.steps,
        step_places: names.places,
        groups: names.groups,
        observed: names.observed,
        actions: names.actions,
        counters: names.counters,
        checks: names.checks,
        phases,
        thresholds,
        constants_json: constants.to_json(),
        grid: Some(grid?),
        labels: labels?,
        setup_names,
        wait_for: wait_for?,
        blobs,
    };
    let bundle = plan::Bundle {
        plan: plan.encode_to_vec().into(),
        secrets: secrets.into_iter().chain(tls_secrets).collect(),
        stored_secrets: stored_secrets.into_iter().collect(),
        blobs: tables,
        scenario_text: text,
        hosts: hosts.into_iter().collect(),
    };
    if bundle.encoded_len() > MOST_BUNDLE_BYTES {
        let mib = bundle.encoded_len() >> 20;
        let message = format!("with its data the scenario has {mib} MiB; at most 256 MiB are sent");
        sink.add(Span::default(), message);
        return None;
    }
    Some(Loaded { bundle, plan })
}

/// What the compilation of user types reads.
struct Parts<'a> {
    document: &'a Document,
    users: &'a Mapped<UserType>,
    flows: &'a Mapped<Vec<document::Step>>,
    columns: &'a Bound,
    secrets: &'a [String],
    setup: &'a [String],
    targets: &'a [(String, String)],
    blobs: &'a RefCell<Blobs>,
    resolver: &'a dyn Resolver,
    perhaps: &'a BTreeSet<String>,
}

/// Compiles every type of user (`setup` and `teardown` are types of their own), and the settings of `http`, whose
/// headers may name variables.
fn compile_users(
    parts: &Parts<'_>,
    constants: &Constants,
    used_columns: &RefCell<BTreeSet<(String, String)>>,
    names: &mut Names,
    sink: &mut Sink,
) -> (Vec<plan::UserType>, Option<HttpSettings>) {
    let mut user_plans = Vec::new();
    let mut http = None;
    let once = |steps: &Option<Vec<document::Step>>| {
        steps.as_ref().map(|steps| UserType {
            span: parts.document.span,
            data: None,
            start: None,
            r#loop: steps.clone(),
            stop: None,
        })
    };
    let (setup, teardown) = (once(&parts.document.setup), once(&parts.document.teardown));
    let around = [("setup", &setup), ("teardown", &teardown)];
    let types = parts.users.entries.iter().map(|(name, user)| (name.0.value.as_str(), user));
    let types: Vec<_> =
        types.chain(around.into_iter().filter_map(|(name, user)| Some((name, user.as_ref()?)))).collect();
    for (name, user) in types {
        let (slots, bound) = slots_of(user, parts.flows, parts.columns, parts.perhaps, sink);
        let mut compiler = Flows {
            flows: parts.flows,
            constants,
            slots: &slots,
            sources: &bound,
            secrets: parts.secrets,
            setup: parts.setup,
            targets: parts.targets,
            blobs: parts.blobs,
            resolver: parts.resolver,
            used_columns,
            names,
            sink,
            perhaps: parts.perhaps,
            calls: Vec::new(),
            expanded: 0,
            group: 0,
        };
        let start = compiler.steps(user.start.as_deref().unwrap_or_default());
        let body = compiler.steps(&user.r#loop);
        let stop = compiler.steps(user.stop.as_deref().unwrap_or_default());
        if http.is_none() {
            // Headers of all requests may name variables; the first type of user's are checked against.
            http = compiler.http(parts.document.http.as_ref());
        }
        if user.r#loop.is_empty() && sink.is_empty() {
            let message = format!("the loop of `{name}` is empty");
            sink.add_with_hint(user.span, message, "give it a step, for example `- get: /`");
        }
        user_plans.push(plan::UserType {
            name: name.to_owned(),
            slots,
            bindings: Vec::new(),
            start,
            body,
            stop,
        });
    }
    (user_plans, http)
}

/// Puts `setup` before and `teardown` behind the phases. Their user types are the last ones.
fn around(document: &Document, phases: &mut Vec<plan::Phase>, types: usize) {
    let number = |back: usize| u32::try_from(types.saturating_sub(back)).unwrap_or(u32::MAX);
    if document.setup.is_some() {
        let user = number(1 + usize::from(document.teardown.is_some()));
        phases.insert(0, load::once("setup", plan::PhaseKind::Setup, user));
    }
    if document.teardown.is_some() {
        phases.push(load::once("teardown", plan::PhaseKind::Teardown, number(1)));
    }
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

fn wait_for(
    document: &Document,
    constants: &Constants,
    target: &str,
    targets: &[(String, String)],
    sink: &mut Sink,
) -> Option<Option<plan::WaitFor>> {
    let Some(wait) = &document.wait_for else { return Some(None) };
    let within = wait.within.as_ref().map(|within| constants.quantity(within, sink));
    let text = constants.text(&wait.get, sink)?;
    let named = text.split_once(':').and_then(|(name, path)| {
        let (_, address) = targets.iter().find(|(known, _)| known == name)?;
        Some(format!("{address}{path}"))
    });
    let url = match named {
        Some(url) => url,
        None if text.starts_with(['/', '?']) => format!("{target}{text}"),
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

fn labels(document: &Document, constants: &Constants, sink: &mut Sink) -> Option<Vec<plan::Pair>> {
    let labels = document.labels.iter().flat_map(|labels| &labels.entries);
    let read: Vec<_> = labels
        .map(|(name, value)| {
            let value = constants.text(value, sink)?;
            Some(plan::Pair { name: name.0.value.clone(), value })
        })
        .collect();
    read.into_iter().collect()
}

fn check_version(document: &Document, sink: &mut Sink) -> Option<()> {
    if document.version.text.value.trim() == "1" {
        return Some(());
    }
    let message = format!("version {} is not known", document.version.text.value);
    sink.add_with_hint(document.version.text.span, message, "this loadgrid reads `version: 1`");
    None
}

/// The types of user: those declared, or the one of the short form.
fn users(document: &mut Document, sink: &mut Sink) -> Mapped<UserType> {
    let span = document.span;
    match (document.users.take(), document.steps.take()) {
        (Some(users), None) => {
            if users.entries.is_empty() && sink.is_empty() {
                sink.add(span, "`users` is empty");
            }
            users
        }
        (None, Some(steps)) => {
            let name = decode::Name(decode::Text { value: "user".to_owned(), span, plain: true });
            let span = Span { start: span.start, length: 0 };
            Mapped::one(name, UserType { span, data: None, start: None, r#loop: steps, stop: None })
        }
        (None, None) => {
            sink.add_with_hint(
                Span { start: span.start, length: 1 },
                "the scenario has no steps",
                "give `steps:` (short form) or `users:`",
            );
            Mapped::default()
        }
        (Some(users), Some(_)) => {
            sink.add_with_hint(
                Span { start: span.start, length: 1 },
                "the scenario has both `steps` and `users`",
                "`steps` is the short form for one user; keep one of them",
            );
            users
        }
    }
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

/// Names and columns of the sources of one type of user.
type Bound = Vec<(String, Vec<String>)>;

/// The slots of a type of user: the fixed ones, its sources, its variables.
fn slots_of(
    user: &UserType,
    flows: &Mapped<Vec<document::Step>>,
    columns: &Bound,
    perhaps: &BTreeSet<String>,
    sink: &mut Sink,
) -> (Vec<String>, Bound) {
    let mut slots = template::fixed_slots();
    let mut bound = Bound::new();
    for source in user.data.iter().flatten() {
        match columns.iter().find(|(name, _)| *name == source.value) {
            Some(found) => {
                slots.push(source.value.clone());
                bound.push(found.clone());
            }
            None if perhaps.contains(&source.value) => {}
            None => {
                let known = columns.iter().map(|(name, _)| name.as_str());
                let hint =
                    suggest(&source.value, known).unwrap_or_else(|| "declare it under `data`".to_owned());
                sink.add_with_hint(source.span, format!("there is no data source `{}`", source.value), hint);
            }
        }
    }
    let mut variables = Vec::new();
    for steps in
        [user.start.as_deref(), Some(user.r#loop.as_slice()), user.stop.as_deref()].into_iter().flatten()
    {
        flow::variables(steps, flows, 0, &mut variables);
    }
    variables.retain(|name| !slots.contains(name));
    slots.extend(variables);
    (slots, bound)
}

fn thresholds(
    document: &Document,
    constants: &Constants,
    names: &Names,
    phases: Option<&[plan::Phase]>,
    sink: &mut Sink,
) -> Vec<plan::Threshold> {
    let declared: Vec<String> = match &document.phases {
        Some(phases) => phases.iter().map(|phase| phase.name.0.value.clone()).collect(),
        None => vec!["main".to_owned()],
    };
    let all_read = sink.is_empty();
    let known = Known {
        counters: &names.counters,
        observed: &names.observed,
        phases: &declared,
        steps: &names.steps,
        groups: &names.groups,
        places: &names.places,
    };
    let carried_out =
        |name: &String| phases.is_none_or(|phases| phases.iter().any(|phase| phase.name == *name));
    let mut out = Vec::new();
    for threshold in document.thresholds.iter().flatten() {
        let text = &threshold.text;
        let parsed = match Threshold::parse(&text.value, &known) {
            Ok(parsed) => parsed,
            // The step or phase may be one that could not be read.
            Err(error) if error.is_unknown_name && !all_read => continue,
            Err(error) => {
                sink.add_with_hint(text.at(error.offset, error.length), error.message, error.hint);
                continue;
            }
        };
        let mut compiled = plan::Threshold { text: text.value.clone(), ..plan::Threshold::default() };
        let mut good = true;
        if let Some(more) = &threshold.more {
            let mut ns = |quantity: &Option<decode::Quantity<decode::Duration>>| {
                let Some(quantity) = quantity else { return 0 };
                constants.quantity(quantity, sink).map_or_else(
                    || {
                        good = false;
                        0
                    },
                    loadgrid_common::time::nanos,
                )
            };
            (compiled.window_ns, compiled.for_ns, compiled.grace_ns) =
                (ns(&more.window), ns(&more.r#for), ns(&more.grace));
            compiled.abort = more.abort.unwrap_or(false);
            if Duration::from_nanos(compiled.window_ns) > LONGEST_WINDOW {
                let span = more.window.as_ref().map_or(more.span, |window| window.text.span);
                sink.add_with_hint(
                    span,
                    "a window is at most 10 minutes long",
                    "leave it out for the whole run",
                );
                good = false;
            }
        }
        // A phase that is not carried out this time has no figures, and that is no failure.
        if good && parsed.phase.as_ref().is_none_or(carried_out) {
            out.push(compiled);
        }
    }
    out
}

/// Names of variables that stand anywhere in the text, for what could not be read.
fn variables_of(node: &tree::Node, found: &mut BTreeSet<String>) {
    match &node.value {
        tree::Value::Scalar { .. } => {}
        tree::Value::List(items) => items.iter().for_each(|item| variables_of(item, found)),
        tree::Value::Map(entries) => {
            for (key, value) in entries.iter() {
                if matches!(&*key.text, "capture" | "set" | "data")
                    && let tree::Value::Map(names) = &value.value
                {
                    found.extend(names.iter().map(|(name, _)| name.text.to_string()));
                }
                variables_of(value, found);
            }
        }
    }
}

fn grid(grid: Option<&document::Grid>, constants: &Constants, sink: &mut Sink) -> Option<plan::GridSettings> {
    let mut out = plan::GridSettings {
        min_workers: 1,
        wait_ns: 60_000_000_000,
        weights: 0,
        start_skew_ns: 0,
        snapshot_ns: 1_000_000_000,
    };
    let Some(grid) = grid else { return Some(out) };
    if let Some(min) = &grid.min_workers {
        out.min_workers = u32::try_from(constants.quantity(min, sink)?).unwrap_or(u32::MAX).max(1);
    }
    let mut ns = |quantity: &Option<decode::Quantity<decode::Duration>>, out: &mut u64| {
        if let Some(quantity) = quantity {
            *out = loadgrid_common::time::nanos(constants.quantity(quantity, sink)?);
        }
        Some(())
    };
    ns(&grid.wait, &mut out.wait_ns)?;
    ns(&grid.start_skew, &mut out.start_skew_ns)?;
    ns(&grid.snapshot, &mut out.snapshot_ns)?;
    out.snapshot_ns = out.snapshot_ns.clamp(nanos_of(200), nanos_of(60_000));
    out.weights = match grid.weights {
        Some(document::Weights::Equal) => plan::Weights::Equal.into(),
        Some(document::Weights::Cores) | None => plan::Weights::Cores.into(),
    };
    Some(out)
}

fn nanos_of(milliseconds: u64) -> u64 {
    loadgrid_common::time::nanos(Duration::from_millis(milliseconds))
}

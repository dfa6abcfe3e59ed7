//! Scenario text to plan.
//!
//! Three steps, three types: the tree (places), the document (as written), the plan (resolved, validated,
//! names as indices). All problems of a file come at once. Files, environment and secrets are read here,
//! by whoever submits, through a [`Resolver`]; nobody after this opens a path or reads a variable that a
//! scenario names.

mod constants;
mod data;
mod decode;
mod document;
mod flow;
mod load;
mod problem;
mod template;
mod tree;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use loadgrid_common::plan::{self, Plan};
use prost::Message as _;

pub use load::LoadOverrides;
pub use problem::{Problem, Problems, Span, suggest};

use crate::judge::Threshold;
use constants::Constants;
use decode::{Decode as _, Mapped};
use document::{Document, Secret, UserType};
use flow::{Flows, Names};
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
}

/// A scenario, ready to submit.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the coordinator gets.
    pub bundle: plan::Bundle,
    /// The plan in it, for `validate` and `plan`.
    pub plan: Plan,
}

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
    let loaded = compile(file, text, resolver, overrides, &mut sink);
    match loaded {
        Some(loaded) if sink.is_empty() => Ok(loaded),
        _ => {
            if sink.is_empty() {
                sink.add(Span::default(), "the scenario cannot be read");
            }
            Err(Box::new(Problems { file: file.to_owned(), text: text.to_owned(), list: sink.into_sorted() }))
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
    file: &str,
    text: &str,
    resolver: &dyn Resolver,
    overrides: &Overrides,
    sink: &mut Sink,
) -> Option<Loaded> {
    let tree = tree::parse(text, sink)?;
    let mut document = Document::decode(&tree, sink)?;
    check_version(&document, sink)?;
    let mut perhaps = BTreeSet::new();
    if !sink.is_empty() {
        variables_of(&tree, &mut perhaps);
    }
    let users = users(&mut document, sink);
    let no_vars = Mapped::default();
    let mut constants = Constants::resolve(
        document.vars.as_ref().unwrap_or(&no_vars),
        resolver.environment(),
        &overrides.vars,
        sink,
    );
    let target = target(&document, &constants, overrides, sink);
    constants.set_target(target.clone().unwrap_or_default());
    let secrets = secrets(&document, resolver, sink);
    let sources = data::read(document.data.as_ref(), &constants, resolver, sink);
    let secret_names: Vec<String> =
        document.secrets.iter().flat_map(|secrets| secrets.names().map(str::to_owned)).collect();
    let columns = sources.columns();
    if !sink.is_empty() {
        // A source that could not be read was told already.
        perhaps.extend(document.data.iter().flat_map(|data| data.names().map(str::to_owned)));
    }

    let mut names = Names::default();
    let used_columns = RefCell::new(BTreeSet::new());
    let no_flows = Mapped::default();
    let flows = document.flows.as_ref().unwrap_or(&no_flows);
    let (mut user_plans, http) = {
        let parts = Parts {
            document: &document,
            users: &users,
            flows,
            columns: &columns,
            secrets: &secret_names,
            perhaps: &perhaps,
        };
        compile_users(&parts, &constants, &used_columns, &mut names, sink)
    };
    let response_timeout = http.as_ref().map_or(30_000_000_000, |http| http.response_timeout_ns);
    let phases = load::phases(&document, &users, &constants, &overrides.load, response_timeout, sink);
    let thresholds = thresholds(&document, &names, sink);
    let mut phases = phases?;
    data::bind(&sources, &users, &mut user_plans, &mut phases, sink);
    let grid = grid(document.grid.as_ref(), &constants, sink);
    let (plan_sources, tables) = sources.finish(&used_columns.borrow(), sink);
    let seed = match (overrides.seed, &document.seed) {
        (Some(seed), _) => Some(seed),
        (None, Some(seed)) => constants.quantity(seed, sink),
        (None, None) => Some(1),
    };
    let file_name = Path::new(file)
        .file_stem()
        .map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let mut hosts = names.hosts;
    let target = target?;
    hosts.insert(host_of(url::Url::parse(&target).ok()?.host_str()?));
    let plan = Plan {
        name: document.name.as_ref().map_or(file_name, |name| name.0.value.clone()),
        seed: seed?,
        target,
        http: Some(http?),
        sources: plan_sources,
        users: user_plans,
        steps: names.steps,
        actions: names.actions,
        counters: names.counters,
        checks: names.checks,
        phases,
        thresholds,
        constants_json: constants.to_json(),
        grid: Some(grid?),
    };
    let bundle = plan::Bundle {
        plan: plan.encode_to_vec().into(),
        secrets: secrets.into_iter().collect(),
        tables,
        scenario_text: text.to_owned(),
        hosts: hosts.into_iter().collect(),
    };
    if bundle.encoded_len() > MOST_BUNDLE_BYTES {
        sink.add(
            Span::default(),
            format!(
                "with its data the scenario has {} MiB; at most 256 MiB are sent",
                bundle.encoded_len() >> 20
            ),
        );
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
    perhaps: &'a BTreeSet<String>,
}

/// Compiles every type of user, and the settings of `http`, whose headers may name variables.
fn compile_users(
    parts: &Parts<'_>,
    constants: &Constants,
    used_columns: &RefCell<BTreeSet<(String, String)>>,
    names: &mut Names,
    sink: &mut Sink,
) -> (Vec<plan::UserType>, Option<plan::Http>) {
    let mut user_plans = Vec::new();
    let mut http = None;
    for (name, user) in &parts.users.entries {
        let (slots, bound) = slots_of(user, parts.flows, parts.columns, parts.perhaps, sink);
        let mut compiler = Flows {
            flows: parts.flows,
            constants,
            slots: &slots,
            sources: &bound,
            secrets: parts.secrets,
            used_columns,
            names,
            sink,
            perhaps: parts.perhaps,
            calls: Vec::new(),
            expanded: 0,
        };
        let start = compiler.steps(user.start.as_deref().unwrap_or_default());
        let body = compiler.steps(&user.r#loop);
        let stop = compiler.steps(user.stop.as_deref().unwrap_or_default());
        if http.is_none() {
            // Headers of all requests may name variables; the first type of user's are checked against.
            http = compiler.http(parts.document.http.as_ref());
        }
        if user.r#loop.is_empty() && sink.is_empty() {
            sink.add(user.span, format!("the loop of `{}` is empty", name.0.value));
        }
        user_plans.push(plan::UserType {
            name: name.0.value.clone(),
            slots,
            bindings: Vec::new(),
            start,
            body,
            stop,
        });
    }
    (user_plans, http)
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
    match url::Url::parse(&text) {
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

fn secrets(document: &Document, resolver: &dyn Resolver, sink: &mut Sink) -> Vec<(String, String)> {
    let mut read = Vec::new();
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
                sink.add(span, format!("the secret `{}` cannot be read: {message}", name.0.value))
            }
        }
    }
    read
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

fn thresholds(document: &Document, names: &Names, sink: &mut Sink) -> Vec<String> {
    let phases: Vec<String> = match &document.phases {
        Some(phases) => phases.iter().map(|phase| phase.name.0.value.clone()).collect(),
        None => vec!["main".to_owned()],
    };
    let all_read = sink.is_empty();
    let mut texts = Vec::new();
    for threshold in document.thresholds.iter().flatten() {
        let text = &threshold.0;
        match Threshold::parse(&text.value, &names.counters, &phases, &names.steps) {
            Ok(_) => texts.push(text.value.clone()),
            // The step or phase may be one that could not be read.
            Err(error) if error.is_unknown_name && !all_read => {}
            Err(error) => sink.add_with_hint(text.at(error.offset, error.length), error.message, error.hint),
        }
    }
    texts
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

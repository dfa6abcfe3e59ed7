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
mod surroundings;
mod template;
mod thresholds;
mod tree;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use loadgrid_common::plan::{self, Plan};
use prost::Message as _;

pub use load::{LoadOverrides, PhaseChoice};
pub use problem::{Problem, Problems, SourceText, Span, suggest};

use blobs::Blobs;
use constants::Constants;
use decode::{Decode as _, Mapped};
use document::{Document, UserType};
use flow::{Flows, Names};
use http::HttpSettings;
use problem::Sink;
use surroundings::{Surroundings, host_of};

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
    let mut perhaps = perhaps(&tree, &included, sink);
    let users = users(&mut document, sink);
    let around = Surroundings::read(&mut document, resolver, overrides, sink);
    let constants = &around.constants;
    let sources = data::read(document.data.as_ref(), constants, resolver, sink);
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
            secrets: &around.secret_names,
            setup: &setup_names,
            targets: &around.targets,
            blobs: &blobs,
            resolver,
            perhaps: &perhaps,
        };
        compile_users(&parts, constants, &used_columns, &mut names, sink)
    };
    let response_timeout_ns = http.as_ref().map_or(30_000_000_000, |http| http.http.response_timeout_ns);
    let loads = load::Loads {
        document: &document,
        users: &users,
        constants,
        overrides: overrides.load,
        choice: &overrides.phases,
        response_timeout_ns,
    };
    let phases = load::phases(&loads, sink);
    let wait_for = around.wait_for(&document, sink);
    let labels = around.labels(&document, sink);
    let thresholds = thresholds::compile(&document, constants, &names, phases.as_deref(), sink);
    let mut phases = phases?;
    data::bind(&sources, &users, &mut user_plans, &mut phases, sink);
    surround(&document, &mut phases, user_plans.len());
    let grid = grid(document.grid.as_ref(), constants, sink);
    let (plan_sources, mut tables) = sources.finish(&used_columns.borrow(), sink);
    let seed = match (overrides.seed, &document.seed) {
        (Some(seed), _) => Some(seed),
        (None, Some(seed)) => constants.quantity(seed, sink),
        (None, None) => Some(1),
    };
    let mut hosts = names.hosts;
    hosts.extend(around.hosts());
    let target = around.target.clone()?;
    let files = blobs.into_inner().finish();
    let blobs: Vec<String> = files.iter().map(|blob| blob.hash.clone()).collect();
    tables.extend(files);
    let HttpSettings { http, secrets: tls_secrets } = http?;
    let plan = Plan {
        name: name_of(&document, texts),
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
        secrets: around.secrets.into_iter().chain(tls_secrets).collect(),
        stored_secrets: around.stored_secrets.into_iter().collect(),
        blobs: tables,
        scenario_text: text,
        hosts: hosts.into_iter().collect(),
    };
    fits(&bundle, sink)?;
    Some(Loaded { bundle, plan })
}

/// Names that may be variables of parts that could not be read: nobody knows, so nobody complains of them.
fn perhaps(tree: &tree::Node, included: &[tree::Node], sink: &Sink) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if !sink.is_empty() {
        [tree].into_iter().chain(included).for_each(|tree| variables_of(tree, &mut names));
    }
    names
}

/// The scenario's name: its own, or its file's.
fn name_of(document: &Document, texts: &[SourceText]) -> String {
    let file = || {
        let stem = texts.first().and_then(|text| Path::new(&text.name).file_stem());
        stem.map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned())
    };
    document.name.as_ref().map_or_else(file, |name| name.0.value.clone())
}

/// Whether a bundle can be sent; tells where it is too large.
fn fits(bundle: &plan::Bundle, sink: &mut Sink) -> Option<()> {
    if bundle.encoded_len() <= MOST_BUNDLE_BYTES {
        return Some(());
    }
    let mib = bundle.encoded_len() >> 20;
    let message = format!("with its data the scenario has {mib} MiB; at most 256 MiB are sent");
    sink.add_with_hint(Span::default(), message, "leave out columns or rows that no user needs");
    None
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

impl<'a> Parts<'a> {
    /// A compiler of steps for these variables and sources.
    fn flows<'b>(
        &'b self,
        constants: &'b Constants,
        (slots, sources): (&'b [String], &'b [(String, Vec<String>)]),
        used_columns: &'b RefCell<BTreeSet<(String, String)>>,
        names: &'b mut Names,
        sink: &'b mut Sink,
    ) -> Flows<'b>
    where
        'a: 'b,
    {
        Flows {
            flows: self.flows,
            constants,
            slots,
            sources,
            secrets: self.secrets,
            setup: self.setup,
            targets: self.targets,
            blobs: self.blobs,
            resolver: self.resolver,
            used_columns,
            names,
            sink,
            perhaps: self.perhaps,
            calls: Vec::new(),
            expanded: 0,
            group: 0,
            by_name: false,
        }
    }
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
    // Variables and sources of any type, for the settings that serve them all.
    let (mut all_slots, mut all_bound) = (template::fixed_slots(), Bound::new());
    for (name, user) in types {
        let (slots, bound) = slots_of(user, parts.flows, parts.columns, parts.perhaps, sink);
        let mut compiler = parts.flows(constants, (&slots, &bound), used_columns, names, sink);
        let start = compiler.steps(user.start.as_deref().unwrap_or_default());
        let mut body = compiler.steps(&user.r#loop);
        let stop = compiler.steps(user.stop.as_deref().unwrap_or_default());
        if name == "setup" && parts.document.setup.is_some() {
            require_all(&mut body);
        }
        if user.r#loop.is_empty() && sink.is_empty() {
            let message = format!("the loop of `{name}` is empty");
            sink.add_with_hint(user.span, message, "give it a step, for example `- get: /`");
        }
        all_slots.extend(slots.iter().filter(|slot| !all_slots.contains(slot)).cloned().collect::<Vec<_>>());
        all_bound.extend(bound.iter().filter(|own| !all_bound.contains(own)).cloned().collect::<Vec<_>>());
        let (name, bindings) = (name.to_owned(), Vec::new());
        user_plans.push(plan::UserType { name, slots, bindings, start, body, stop });
    }
    let mut compiler = parts.flows(constants, (&all_slots, &all_bound), used_columns, names, sink);
    compiler.by_name = true;
    let http = compiler.http(parts.document.http.as_ref());
    (user_plans, http)
}

/// A step of `setup` that fails ends it.
fn require_all(steps: &mut [plan::Step]) {
    use plan::step::Step;
    for step in steps.iter_mut().filter_map(|step| step.step.as_mut()) {
        match step {
            Step::Http(http) => http.required = true,
            Step::Choose(choose) => {
                choose.branches.iter_mut().for_each(|branch| require_all(&mut branch.steps));
            }
            Step::If(step) => {
                require_all(&mut step.then);
                require_all(&mut step.otherwise);
            }
            Step::Repeat(repeat) => require_all(&mut repeat.steps),
            Step::Group(group) => require_all(&mut group.steps),
            _ => {}
        }
    }
}

/// Puts `setup` before and `teardown` behind the phases. Their user types are the last ones.
fn surround(document: &Document, phases: &mut Vec<plan::Phase>, types: usize) {
    let number = |back: usize| u32::try_from(types.saturating_sub(back)).unwrap_or(u32::MAX);
    if document.setup.is_some() {
        let user = number(1 + usize::from(document.teardown.is_some()));
        phases.insert(0, load::once("setup", plan::PhaseKind::Setup, user));
    }
    if document.teardown.is_some() {
        phases.push(load::once("teardown", plan::PhaseKind::Teardown, number(1)));
    }
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
        // What was mistyped or could not be read was told already.
        (None, None) if !sink.is_empty() => Mapped::default(),
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

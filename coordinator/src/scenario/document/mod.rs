//! The scenario as written: which keys exist, where, and of which kind. Nothing is resolved yet.

#![expect(clippy::allow_attributes, reason = "a macro cannot know which of the fields it declares are read")]

mod http;
mod load;
mod request;

use serde_json::{Value as Json, json};

pub(in crate::scenario) use self::http::*;
pub(in crate::scenario) use self::load::*;
pub(in crate::scenario) use self::request::*;

use crate::scenario::decode::{
    Any, Count, Decode, Definitions, Duration, Mapped, Name, Quantity, Rate, Text, mapping, verbs, words,
};
use crate::scenario::problem::{Sink, Span};
use crate::scenario::tree::{Node, Value};

mapping! {
    /// A loadgrid scenario, version 1: a whole test in one document.
    struct Document {
        /// Version of the format: 1.
        required version: Quantity<Count>,
        /// A name for the report; the file's name where absent.
        optional name: Name,
        /// Seed of all randomness; the same seed gives the same test on any number of workers.
        optional seed: Quantity<Count>,
        /// Further files whose `flows`, `data` and `vars` belong to this scenario.
        optional include: Vec<Text>,
        /// The address under test; steps name paths below it.
        required target: Text,
        /// Further addresses by name: a step's url may begin with one, `auth:/login`.
        optional targets: Mapped<Text>,
        /// The target is asked for this until it answers well, before anything starts.
        optional wait_for: WaitFor,
        /// Labels of the run, for the report.
        optional labels: Mapped<Text>,
        /// Values for `${vars.NAME}`; `--var NAME=VALUE` overrides.
        optional vars: Mapped<Any>,
        /// Named sets of values for `vars`; `--profile NAME` takes one.
        optional profiles: Mapped<Mapped<Any>>,
        /// Values that no report, log or history shows: `${secrets.NAME}`.
        optional secrets: Mapped<Secret>,
        /// Data sources, named in the singular: `${account.email}`.
        optional data: Mapped<Data>,
        /// How requests are made.
        optional http: Http,
        /// Steps that one worker carries out once, before everything; what they capture is `${setup.NAME}` everywhere.
        optional setup: Vec<Step>,
        /// Steps that one worker carries out once, after everything, also after a failure or Ctrl-C.
        optional teardown: Vec<Step>,
        /// Short form: the loop of the only user.
        optional steps: Vec<Step>,
        /// Short form: the load of the only phase.
        optional load: ShortLoad,
        /// Types of virtual users.
        optional users: Mapped<UserType>,
        /// Named lists of steps for `call`.
        optional flows: Mapped<Vec<Step>>,
        /// Phases, in order; each with its own figures.
        optional phases: Vec<Phase>,
        /// Conditions on the figures that decide the verdict.
        optional thresholds: Vec<Threshold>,
        /// What the run asks of the grid.
        optional grid: Grid,
    }
    later &["websocket", "expectations", "report"]
}

mapping! {
    /// A file that is included: no scenario of its own.
    struct Included {
        /// Values for `${vars.NAME}`; those of the scenario itself come later and may use them.
        optional vars: Mapped<Any>,
        /// Data sources.
        optional data: Mapped<Data>,
        /// Named lists of steps for `call`.
        optional flows: Mapped<Vec<Step>>,
    }
}

mapping! {
    /// What the target must answer before anything starts.
    struct WaitFor {
        /// A path below the target, or an address; a status below 400 is an answer.
        required get: Text,
        /// How long it may take; 60s where absent.
        optional within: Quantity<Duration>,
    }
}

mapping! {
    /// The short form of a load: `rate` or `vus`, and `for`.
    struct ShortLoad {
        /// Arrivals per time, for the whole grid.
        optional rate: Quantity<Rate>,
        /// Virtual users, for the whole grid.
        optional vus: Quantity<Count>,
        /// How long.
        required r#for: Quantity<Duration>,
    }
}

verbs! {
    /// Where a secret comes from.
    enum Secret, "a secret" {
        /// A variable of the environment in which the command runs.
        "env" => Env(Text),
        /// The content of a file, without the line end.
        "file" => File(Text),
        /// A secret of the coordinator, by its name in the directory of `--secrets`.
        "store" => Store(Text),
    }
}

verbs! {
    /// A data source.
    enum Data, "a data source" {
        /// Rows of a CSV file whose first line names the columns.
        "csv" => Csv(Csv),
        /// Rows made from their number.
        "generate" => Generate(Generate),
        /// Rows that stand here.
        "inline" => Inline(Inline),
    }
}

mapping! {
    /// Rows that stand in the scenario.
    struct Inline {
        /// The rows; the first one names the columns.
        required rows: Vec<Mapped<Text>>,
        /// How users get rows: `unique` (the default), `sequential` or `random`.
        optional pick: Pick,
        /// What happens when there are more users than rows.
        optional exhausted: Exhausted,
        /// The column that holds each row's weight, with `pick: random`.
        optional weight: Text,
    }
}

mapping! {
    /// A CSV file.
    struct Csv short file {
        /// The file, relative to the scenario.
        required file: Text,
        /// How users get rows: `unique` (each row belongs to one user of the whole grid), `sequential` or `random`.
        optional pick: Pick,
        /// What happens when there are more users than rows: `fail`, `recycle` or `stop-user`.
        optional exhausted: Exhausted,
        /// The column that holds each row's weight, with `pick: random`.
        optional weight: Text,
        /// What stands between fields: one character, or `tab`; a comma where absent.
        optional delimiter: Text,
        /// What fields are quoted with; `"` where absent.
        optional quote: Text,
        /// Lines that begin with this character are left out.
        optional comment: Text,
        /// The columns, for a file whose first line is a row already.
        optional columns: Vec<Text>,
        /// Whether spaces around fields are dropped.
        optional trim: bool,
    }
}

mapping! {
    /// Rows made from their number: `${row}`.
    struct Generate {
        /// How many rows there are.
        required rows: Quantity<Count>,
        /// Columns, each a text with `${row}` in it.
        required columns: Mapped<Text>,
        /// How users get rows.
        optional pick: Pick,
        /// What happens when there are more users than rows.
        optional exhausted: Exhausted,
        /// The column that holds each row's weight, with `pick: random`.
        optional weight: Text,
    }
}

words! {
    /// How users get rows.
    enum Pick { "unique" => Unique, "sequential" => Sequential, "random" => Random, }
}

words! {
    /// What happens when rows run out.
    enum Exhausted { "fail" => Fail, "recycle" => Recycle, "stop-user" => StopUser, }
}

mapping! {
    /// A type of virtual user.
    struct UserType {
        /// Data sources of which each user has its own row.
        optional data: Vec<Text>,
        /// Steps at the beginning of a life; measured, but no part of an iteration.
        optional start: Vec<Step>,
        /// Steps of an iteration.
        required r#loop: Vec<Step>,
        /// Steps at the end of a life.
        optional stop: Vec<Step>,
    }
}

/// What a later version can say in a step.
const LATER_STEPS: &[&str] = &[
    "ws.connect",
    "ws.send",
    "ws.request",
    "ws.subscribe",
    "ws.publish",
    "ws.receive",
    "ws.hold",
    "ws.reconnect",
    "ws.close",
];

verbs! {
    /// One step of a flow: a mapping with exactly one verb.
    enum Step, "a step" {
        /// Sends a GET request.
        "get" => Get(Request),
        /// Sends a POST request.
        "post" => Post(Request),
        /// Sends a PUT request.
        "put" => Put(Request),
        /// Sends a PATCH request.
        "patch" => Patch(Request),
        /// Sends a DELETE request.
        "delete" => Delete(Request),
        /// Sends a HEAD request.
        "head" => Head(Request),
        /// Sends an OPTIONS request.
        "options" => Options(Request),
        /// Carries out the steps of a flow.
        "call" => Call(Text),
        /// Carries out one of several branches, by weight.
        "choose" => Choose(Vec<Branch>),
        /// Carries out steps on a condition.
        "if" => If(If),
        /// Carries out steps again and again.
        "repeat" => Repeat(Repeat),
        /// Waits as a person would.
        "think" => Think(Think),
        /// Sets headers of all later requests of this life.
        "headers" => Headers(Mapped<Text>),
        /// Sets variables.
        "set" => Set(Mapped<Any>),
        /// Adds to counters.
        "count" => Count(Mapped<Text>),
        /// Adds values to distributions of your own.
        "observe" => Observe(Mapped<Text>),
        /// Carries out steps whose duration together is a series of its own.
        "group" => Group(Group),
        /// Ends the iteration, the user's life or the run.
        "end" => End(End),
    }
    later LATER_STEPS
}

mapping! {
    /// Steps that belong together.
    struct Group {
        /// The name under which the report shows their duration.
        required name: Name,
        /// The steps.
        required r#do: Vec<Step>,
    }
}

words! {
    /// What ends.
    enum End { "iteration" => Iteration, "user" => User, "run" => Run, }
}

mapping! {
    /// One branch of a `choose`.
    struct Branch {
        /// Its share of all choices, against the sum of the weights.
        required weight: Quantity<Count>,
        /// A name under which the report counts it.
        optional name: Name,
        /// Its steps.
        required r#do: Vec<Step>,
    }
}

mapping! {
    /// Steps on a condition.
    struct If {
        /// An expression, with or without `${…}`.
        required when: Text,
        /// Steps where it is true.
        required then: Vec<Step>,
        /// Steps where it is not.
        optional otherwise: Vec<Step>,
    }
}

mapping! {
    /// Steps again and again.
    struct Repeat {
        /// How often.
        optional times: Quantity<Count>,
        /// How often at most, with `until`.
        optional max: Quantity<Count>,
        /// From the beginning of one pass to the beginning of the next.
        optional every: Quantity<Duration>,
        /// An expression that ends it, looked at after each pass.
        optional until: Text,
        /// The steps.
        required r#do: Vec<Step>,
    }
}

/// A pause. A text alone is its length.
#[derive(Clone, Debug)]
pub(in crate::scenario) enum Think {
    /// Always as long.
    Constant(Quantity<Duration>),
    /// By a distribution.
    Drawn(Drawn),
}

verbs! {
    /// A pause of random length.
    enum Drawn, "a think time" {
        /// Evenly between two lengths: `[1s, 3s]`.
        "between" => Between(Vec<Quantity<Duration>>),
        /// Log-normal, as people's pauses are.
        "lognormal" => LogNormal(LogNormal),
        /// Exponential, with a mean.
        "exponential" => Exponential(Exponential),
    }
}

mapping! {
    /// A log-normal distribution.
    struct LogNormal {
        /// Half of the pauses are shorter.
        required median: Quantity<Duration>,
        /// One in twenty is longer.
        required p95: Quantity<Duration>,
        /// Longer ones are cut to this.
        optional max: Quantity<Duration>,
    }
}

mapping! {
    /// An exponential distribution.
    struct Exponential {
        /// The mean.
        required mean: Quantity<Duration>,
    }
}

impl Decode for Think {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match node.value {
            Value::Map(_) => Drawn::decode(node, sink).map(Self::Drawn),
            Value::Scalar { .. } | Value::List(_) => Quantity::decode(node, sink).map(Self::Constant),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [Quantity::<Duration>::schema(definitions), Drawn::schema(definitions)] })
    }
}

mapping! {
    /// What the run asks of the grid.
    struct Grid {
        /// Fewer workers than this, and nothing starts.
        optional min_workers: Quantity<Count>,
        /// How long it waits for them.
        optional wait: Quantity<Duration>,
        /// `cores` (by load threads) or `equal`.
        optional weights: Weights,
        /// The start is refused where a worker's clock is less certain than this.
        optional start_skew: Quantity<Duration>,
        /// How often workers report.
        optional snapshot: Quantity<Duration>,
    }
    later &["on_worker_loss", "max_lost_share"]
}

words! {
    /// How shares are weighted.
    enum Weights { "cores" => Cores, "equal" => Equal, }
    later &["declared"]
}

/// A condition on figures: a text such as `p99(response_time, step=login) < 300ms`, or a mapping with more.
#[derive(Clone, Debug)]
pub(in crate::scenario) struct Threshold {
    /// The condition.
    pub(in crate::scenario) text: Text,
    /// What else is said of it.
    pub(in crate::scenario) more: Option<LongThreshold>,
}

mapping! {
    /// A threshold with its circumstances.
    struct LongThreshold {
        /// The condition: `STAT(METRIC, selector=…) OP VALUE`.
        required threshold: Text,
        /// It is judged over the last so long, again and again; over the whole run where absent.
        optional window: Quantity<Duration>,
        /// It fails only once it was broken for so long.
        optional r#for: Quantity<Duration>,
        /// Whether it ends the run when it fails.
        optional abort: bool,
        /// It is not looked at before so long after the beginning of load.
        optional grace: Quantity<Duration>,
    }
}

impl Decode for Threshold {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return Text::decode(node, sink).map(|text| Self { text, more: None });
        };
        let known = ["threshold", "window", "for", "abort", "grace"];
        if entries.iter().all(|(key, _)| !known.contains(&&*key.text)) {
            sink.add_with_hint(
                node.span,
                "this should be a threshold, not a mapping",
                "in `[ … ]`, put a threshold with a `,` or `:` in it into quotes",
            );
            return None;
        }
        let more = LongThreshold::decode(node, sink)?;
        Some(Self { text: more.threshold.clone(), more: Some(more) })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "type": "string" }, LongThreshold::schema(definitions)] })
    }
}

/// The JSON Schema of a scenario.
pub(in crate::scenario) fn schema() -> Json {
    let mut definitions = Definitions::default();
    let _reference = Document::schema(&mut definitions);
    let mut root = definitions.0.remove("Document").unwrap_or_default();
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("loadgrid scenario, version 1");
    root["$defs"] = json!(definitions.0);
    root
}

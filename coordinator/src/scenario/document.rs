//! The scenario as written: which keys exist, where, and of which kind. Nothing is resolved yet.

#![expect(clippy::allow_attributes, reason = "a macro cannot know which of the fields it declares are read")]

use serde_json::{Value as Json, json};

use super::decode::{
    Any, Bytes, Count, Decode, Definitions, Duration, Mapped, Name, Quantity, Rate, Text, mapping, verbs,
};
use super::problem::{Sink, Span};
use super::tree::{Node, Value};

mapping! {
    /// A loadgrid scenario, version 1: a whole test in one document.
    struct Document {
        /// Version of the format: 1.
        required version: Quantity<Count>,
        /// A name for the report; the file's name where absent.
        optional name: Name,
        /// Seed of all randomness; the same seed gives the same test on any number of workers.
        optional seed: Quantity<Count>,
        /// The address under test; steps name paths below it.
        required target: Text,
        /// Values for `${vars.NAME}`; `--var NAME=VALUE` overrides.
        optional vars: Mapped<Any>,
        /// Values that no report, log or history shows: `${secrets.NAME}`.
        optional secrets: Mapped<Secret>,
        /// Data sources, named in the singular: `${account.email}`.
        optional data: Mapped<Data>,
        /// How requests are made.
        optional http: Http,
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
        optional thresholds: Vec<ThresholdText>,
        /// What the run asks of the grid.
        optional grid: Grid,
    }
    later &["include", "targets", "wait_for", "labels", "profiles", "websocket", "setup", "teardown", "expectations", "report"]
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
    }
    later &["store"]
}

verbs! {
    /// A data source.
    enum Data, "a data source" {
        /// Rows of a CSV file whose first line names the columns.
        "csv" => Csv(Csv),
        /// Rows made from their number.
        "generate" => Generate(Generate),
    }
    later &["inline"]
}

mapping! {
    /// A CSV file.
    struct Csv short file {
        /// The file, relative to the scenario.
        required file: Text,
        /// How users get rows; `unique`: each row belongs to one user of the whole grid.
        optional pick: Pick,
        /// What happens when there are more users than rows; `fail` when the scenario is loaded.
        optional exhausted: Exhausted,
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
    }
}

/// Declares a choice between words.
macro_rules! words {
    ($(#[doc = $doc:literal])* enum $name:ident { $($word:literal => $variant:ident,)* } $(later $later:expr)?) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $(#[doc = $word] $variant,)* }

        impl Decode for $name {
            fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
                let later: &[&str] = words!(@later $($later)?);
                let text = Text::decode(node, sink)?;
                match text.value.as_str() {
                    $($word => return Some(Self::$variant),)*
                    word if later.contains(&word) => {
                        sink.add_with_hint(text.span, format!("`{word}` is not supported yet by this version"), "remove it; the changelog tells when it comes");
                    }
                    word => sink.add_with_hint(text.span, format!("`{word}` is not known here"), format!("one of: {}", [$($word),*].join(", "))),
                }
                None
            }

            fn schema(_: &mut Definitions) -> Json {
                json!({ "enum": [$($word),*] })
            }
        }
    };
    (@later) => { &[] };
    (@later $later:expr) => { $later };
}

words! {
    /// How users get rows.
    enum Pick { "unique" => Unique, }
    later &["sequential", "random"]
}

words! {
    /// What happens when rows run out.
    enum Exhausted { "fail" => Fail, }
    later &["recycle", "stop-user"]
}

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
    }
    later &["version", "connections", "auth", "tls", "hosts", "cap"]
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
    "group",
    "observe",
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
        /// Ends the iteration, the user's life or the run.
        "end" => End(End),
    }
    later LATER_STEPS
}

words! {
    /// What ends.
    enum End { "iteration" => Iteration, "user" => User, "run" => Run, }
}

mapping! {
    /// A request. A text alone is its url.
    struct Request short url {
        /// A path below the target, or a whole address.
        required url: Text,
        /// The name in the report; METHOD and url where absent.
        optional name: Name,
        /// Parameters that are added to the url, encoded.
        optional query: Mapped<Text>,
        /// Headers of this request.
        optional headers: Mapped<Text>,
        /// Cookies of this request, beside those of the user.
        optional cookies: Mapped<Text>,
        /// A JSON body.
        optional json: Any,
        /// A form body, encoded.
        optional form: Mapped<Text>,
        /// A body as it stands.
        optional body: Text,
        /// What a good answer is; where no status is given, one below 400.
        optional expect: Expect,
        /// Values of the answer that become variables.
        optional capture: Mapped<Capture>,
        /// Whether a failure ends the iteration.
        optional required: bool,
        /// Redirects that are followed.
        optional redirects: Quantity<Count>,
        /// From the request to the end of the answer, at most.
        optional timeout: Quantity<Duration>,
    }
    later &["multipart", "auth", "retry", "labels", "publishes", "cap"]
}

mapping! {
    /// What a good answer is.
    struct Expect {
        /// `200`, `[200, 304]` or `2xx`.
        optional status: Statuses,
        /// The longest response time.
        optional within: Quantity<Duration>,
        /// Conditions on a JSON body, by JSONPath.
        optional json: Mapped<JsonExpect>,
    }
    later &["headers", "body", "not_status", "owner"]
}

/// Accepted statuses.
#[derive(Clone, Debug)]
pub(super) struct Statuses(pub(super) Vec<(u16, u16)>);

impl Decode for Statuses {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let one = |node: &Node, sink: &mut Sink| {
            let text = Text::decode(node, sink)?;
            let range = match text.value.strip_suffix("xx") {
                Some(class) => class
                    .parse::<u16>()
                    .ok()
                    .filter(|class| (1..=5).contains(class))
                    .map(|c| (c * 100, c * 100 + 99)),
                None => text
                    .value
                    .parse::<u16>()
                    .ok()
                    .filter(|status| (100..=599).contains(status))
                    .map(|s| (s, s)),
            };
            if range.is_none() {
                sink.add_with_hint(
                    text.span,
                    format!("`{}` is not an HTTP status", text.value),
                    "write 200, [200, 304] or 2xx",
                );
            }
            range
        };
        match &node.value {
            Value::List(items) => {
                let read: Vec<_> = items.iter().map(|item| one(item, sink)).collect();
                read.into_iter().collect::<Option<_>>().map(Self)
            }
            Value::Scalar { .. } | Value::Map(_) => one(node, sink).map(|range| Self(vec![range])),
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        let one = json!({ "anyOf": [{ "type": "integer", "minimum": 100, "maximum": 599 }, { "type": "string", "pattern": "^([1-5]xx|[1-5][0-9][0-9])$" }] });
        json!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// A condition on one value of a JSON body.
#[derive(Clone, Debug)]
pub(super) enum JsonExpect {
    /// Equal to a value.
    Equals(Any),
    /// Exactly one of the conditions below.
    Condition(JsonCondition),
}

verbs! {
    /// A condition on one value of a JSON body.
    enum JsonCondition, "a condition" {
        /// The value is equal to this.
        "equals" => Equals(Any),
        /// The value is there, or is not.
        "exists" => Exists(bool),
        /// The value, as text, matches a regular expression.
        "matches" => Matches(Text),
    }
    later &["count", "type"]
}

impl Decode for JsonExpect {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match node.value {
            Value::Map(_) => JsonCondition::decode(node, sink).map(Self::Condition),
            Value::Scalar { .. } | Value::List(_) => Any::decode(node, sink).map(Self::Equals),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "type": ["string", "number", "boolean", "null", "array"] }, JsonCondition::schema(definitions)] })
    }
}

/// Where a variable's value comes from. A text alone is a JSONPath.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    pub(super) from: CaptureFrom,
    pub(super) optional: bool,
}

/// See [`Capture`].
#[derive(Clone, Debug)]
pub(super) enum CaptureFrom {
    /// A JSONPath into the body; the first match.
    Json(Text),
    /// A header of the answer.
    Header(Text),
    /// A cookie of the user after the answer.
    Cookie(Text),
}

mapping! {
    /// Where a variable's value comes from: one of `json`, `header` and `cookie`.
    struct CaptureKeys {
        /// A JSONPath into the body.
        optional json: Text,
        /// A header of the answer.
        optional header: Text,
        /// A cookie.
        optional cookie: Text,
        /// Whether it may be absent.
        optional optional: bool,
    }
    later &["pick", "regex", "css", "attr", "body"]
}

impl Decode for Capture {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        if let Value::Scalar { .. } = node.value {
            return Some(Self { from: CaptureFrom::Json(Text::decode(node, sink)?), optional: false });
        }
        let keys = CaptureKeys::decode(node, sink)?;
        let from = [
            keys.json.map(CaptureFrom::Json),
            keys.header.map(CaptureFrom::Header),
            keys.cookie.map(CaptureFrom::Cookie),
        ];
        let mut from = from.into_iter().flatten();
        match (from.next(), from.next()) {
            (Some(from), None) => Some(Self { from, optional: keys.optional.unwrap_or(false) }),
            _ => {
                sink.add_with_hint(
                    node.span,
                    "a capture has exactly one of `json`, `header` and `cookie`",
                    "write for example `token: $.token`",
                );
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [{ "type": "string" }, CaptureKeys::schema(definitions)] })
    }
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
pub(super) enum Think {
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
    /// A phase: a stretch of the test with its own figures.
    struct Phase {
        /// Its name.
        required name: Name,
        /// Its loads; they run at the same time.
        required load: Vec<Load>,
    }
    later &["settle", "record", "continues", "graceful_stop", "marks", "when"]
}

verbs! {
    /// A load: users of one type under an executor.
    enum Load, "a load" {
        /// A fixed number of virtual users.
        "constant-vus" => ConstantVus(ConstantVus),
        /// A number of virtual users that changes over time.
        "ramping-vus" => RampingVus(RampingVus),
        /// Arrivals at a fixed rate, whatever the target does.
        "constant-arrival-rate" => ConstantRate(ConstantRate),
        /// Arrivals at a rate that changes over time.
        "ramping-arrival-rate" => RampingRate(RampingRate),
    }
    later &["per-vu-iterations", "shared-iterations", "burst", "at-once", "paced", "capacity-search", "externally-controlled"]
}

mapping! {
    /// A fixed number of virtual users.
    struct ConstantVus {
        /// The type of user; may be absent where there is only one.
        optional user: Text,
        /// How many, for the whole grid.
        required vus: Quantity<Count>,
        /// How long.
        required duration: Quantity<Duration>,
    }
}

mapping! {
    /// A number of virtual users that changes over time.
    struct RampingVus {
        /// The type of user.
        optional user: Text,
        /// How many there are at the beginning; 0 where absent.
        optional start: Quantity<Count>,
        /// Where the number goes, and in which time.
        required stages: Vec<UserStage>,
    }
}

mapping! {
    /// A stretch of a ramp of users.
    struct UserStage {
        /// The number at its end.
        required to: Quantity<Count>,
        /// Its length.
        required over: Quantity<Duration>,
    }
    later &["batch"]
}

mapping! {
    /// Arrivals at a fixed rate.
    struct ConstantRate {
        /// The type of user.
        optional user: Text,
        /// Arrivals per time, for the whole grid.
        required rate: Quantity<Rate>,
        /// How long.
        required duration: Quantity<Duration>,
        /// `uniform` (evenly spaced) or `poisson`.
        optional arrivals: ArrivalKind,
        /// The most virtual users at once, for the whole grid.
        optional max_vus: Quantity<Count>,
    }
    later &["prepared", "when_full"]
}

words! {
    /// How arrivals are spaced.
    enum ArrivalKind { "uniform" => Uniform, "poisson" => Poisson, }
}

mapping! {
    /// Arrivals at a rate that changes over time.
    struct RampingRate {
        /// The type of user.
        optional user: Text,
        /// The rate at the beginning; 0 where absent.
        optional start: Quantity<Rate>,
        /// Where the rate goes, and in which time.
        required stages: Vec<RateStage>,
        /// `uniform` or `poisson`.
        optional arrivals: ArrivalKind,
        /// The most virtual users at once.
        optional max_vus: Quantity<Count>,
    }
    later &["prepared", "when_full"]
}

mapping! {
    /// A stretch of a ramp of the rate.
    struct RateStage {
        /// The rate at its end.
        required to: Quantity<Rate>,
        /// Its length.
        required over: Quantity<Duration>,
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

/// A threshold as text, such as `p99(response_time, step=login) < 300ms`.
#[derive(Clone, Debug)]
pub(super) struct ThresholdText(pub(super) Text);

impl Decode for ThresholdText {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        if let Value::Map(entries) = &node.value {
            if entries.iter().any(|(key, _)| &*key.text == "threshold") {
                sink.add_with_hint(
                    node.span,
                    "the long form of a threshold is not supported yet by this version",
                    "write it as a text: \"p99(response_time) < 300ms\"",
                );
            } else {
                sink.add_with_hint(
                    node.span,
                    "this should be a threshold, not a mapping",
                    "in `[ … ]`, put a threshold with a `,` or `:` in it into quotes",
                );
            }
            return None;
        }
        Text::decode(node, sink).map(Self)
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string" })
    }
}

/// The JSON Schema of a scenario.
pub(super) fn schema() -> Json {
    let mut definitions = Definitions::default();
    let _reference = Document::schema(&mut definitions);
    let mut root = definitions.0.remove("Document").unwrap_or_default();
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("loadgrid scenario, version 1");
    root["$defs"] = json!(definitions.0);
    root
}

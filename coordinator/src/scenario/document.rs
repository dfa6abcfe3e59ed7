//! The scenario as written: which keys exist, where, and of which kind. Nothing is resolved yet.

#![expect(clippy::allow_attributes, reason = "a macro cannot know which of the fields it declares are read")]

use serde_json::{Value as Json, json};

use super::decode::{
    Any, Bytes, CapRate, Count, Decode, Definitions, Duration, Factor, Mapped, Name, Quantity, Rate, Text,
    mapping, verbs,
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
    enum Pick { "unique" => Unique, "sequential" => Sequential, "random" => Random, }
}

words! {
    /// What happens when rows run out.
    enum Exhausted { "fail" => Fail, "recycle" => Recycle, "stop-user" => StopUser, }
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
pub(super) enum ConnectionMode {
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
pub(super) enum Auth {
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
        /// A body as it stands: a text, or a `file`.
        optional body: Body,
        /// A multipart/form-data body: names to texts, or to files.
        optional multipart: Mapped<FormPart>,
        /// Credentials of this request instead of those of all; `none` for none.
        optional auth: Auth,
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
        /// When and how often a failed attempt is repeated; each attempt is an exchange of its own.
        optional retry: Retry,
        /// A limit on the exchanges of this step, beside that of all requests.
        optional cap: Cap,
        /// Labels; thresholds may select by them.
        optional labels: Mapped<Text>,
    }
    later &["publishes"]
}

/// A body as it stands.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// A text.
    Text(Text),
    /// A file.
    File(FileBody),
}

mapping! {
    /// A file whose content is the body.
    struct FileBody {
        /// The file, relative to the scenario; it travels with the scenario.
        required file: Text,
        /// Its media type; application/octet-stream where absent.
        optional r#type: Text,
    }
}

impl Decode for Body {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match node.value {
            Value::Map(_) => FileBody::decode(node, sink).map(Self::File),
            Value::Scalar { .. } | Value::List(_) => Text::decode(node, sink).map(Self::Text),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [Text::schema(definitions), FileBody::schema(definitions)] })
    }
}

/// A part of a multipart body.
#[derive(Clone, Debug)]
pub(super) enum FormPart {
    /// A text field.
    Text(Text),
    /// A file.
    File(FilePart),
}

mapping! {
    /// A file in a multipart body.
    struct FilePart {
        /// The file, relative to the scenario; it travels with the scenario.
        required from: Text,
        /// Its media type; application/octet-stream where absent.
        optional r#type: Text,
        /// The name it is sent under; its own where absent.
        optional name: Text,
    }
}

impl Decode for FormPart {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match node.value {
            Value::Map(_) => FilePart::decode(node, sink).map(Self::File),
            Value::Scalar { .. } | Value::List(_) => Text::decode(node, sink).map(Self::Text),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [Text::schema(definitions), FilePart::schema(definitions)] })
    }
}

mapping! {
    /// When and how often a failed attempt is repeated.
    struct Retry {
        /// Statuses (`503`, `5xx`) and kinds of failure (`connect`, `timeout`, `reset`, …).
        required when: Vec<Text>,
        /// How often at most.
        required max: Quantity<Count>,
        /// How long before the first repetition; twice as long before each further one.
        optional backoff: Quantity<Duration>,
    }
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
        /// Statuses that are no good answer; any other one is.
        optional not_status: Statuses,
        /// Conditions on headers: a text it is equal to, or a condition.
        optional headers: Mapped<HeaderExpect>,
        /// Conditions on the body; a text alone is one that it contains.
        optional body: BodyExpect,
    }
    later &["owner"]
}

/// A condition on a header.
#[derive(Clone, Debug)]
pub(super) enum HeaderExpect {
    /// Equal to a text.
    Equals(Text),
    /// Exactly one of the conditions below.
    Condition(HeaderCondition),
}

verbs! {
    /// A condition on a header.
    enum HeaderCondition, "a condition" {
        /// It is equal to this.
        "equals" => Equals(Text),
        /// It is there, or is not.
        "exists" => Exists(bool),
        /// It contains this.
        "contains" => Contains(Text),
        /// It matches a regular expression.
        "matches" => Matches(Text),
    }
}

impl Decode for HeaderExpect {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match node.value {
            Value::Map(_) => HeaderCondition::decode(node, sink).map(Self::Condition),
            Value::Scalar { .. } | Value::List(_) => Text::decode(node, sink).map(Self::Equals),
        }
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "anyOf": [Text::schema(definitions), HeaderCondition::schema(definitions)] })
    }
}

mapping! {
    /// Conditions on a body. A text alone is one that it contains.
    struct BodyExpect short contains {
        /// It contains this.
        optional contains: Text,
        /// It matches a regular expression.
        optional matches: Text,
        /// Its length in bytes: a number, or `min` and `max`.
        optional length: Amount,
    }
}

mapping! {
    /// How many. A number alone is exactly so many.
    struct Amount short exactly {
        /// Exactly so many.
        optional exactly: Quantity<Count>,
        /// At least so many.
        optional min: Quantity<Count>,
        /// At most so many.
        optional max: Quantity<Count>,
    }
}

/// Accepted statuses.
#[derive(Clone, Debug)]
pub(super) struct Statuses(pub(super) Vec<(u16, u16)>);

/// `200` as 200 to 200, `2xx` as 200 to 299.
pub(super) fn status_range(text: &str) -> Option<(u16, u16)> {
    match text.strip_suffix("xx") {
        Some(class) => {
            let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class));
            class.map(|class| (class * 100, class * 100 + 99))
        }
        None => {
            let status = text.parse::<u16>().ok().filter(|status| (100..=599).contains(status));
            status.map(|status| (status, status))
        }
    }
}

impl Decode for Statuses {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let one = |node: &Node, sink: &mut Sink| {
            let text = Text::decode(node, sink)?;
            let range = status_range(&text.value);
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
        /// How many values the path finds, or items where it finds one list.
        "count" => Count(Amount),
        /// The value's type: string, number, boolean, null, array or object.
        "type" => Type(JsonType),
    }
}

words! {
    /// A type of JSON value.
    enum JsonType {
        "string" => String,
        "number" => Number,
        "boolean" => Boolean,
        "null" => Null,
        "array" => Array,
        "object" => Object,
    }
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
    pub(super) pick: Option<CapturePick>,
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
    /// A regular expression on the body: its first group, or the whole match.
    Regex(Text),
    /// A CSS selector on an HTML body: an attribute, or the text inside.
    Css(Text, Option<Text>),
    /// The body itself.
    Body,
}

words! {
    /// Which of several matches.
    enum CapturePick { "first" => First, "random" => Random, "all" => All, }
}

mapping! {
    /// Where a variable's value comes from: one of `json`, `header`, `cookie`, `regex`, `css` and `body`.
    struct CaptureKeys {
        /// A JSONPath into the body.
        optional json: Text,
        /// A header of the answer.
        optional header: Text,
        /// A cookie.
        optional cookie: Text,
        /// A regular expression on the body: its first group, or the whole match where it has none.
        optional regex: Text,
        /// A CSS selector on an HTML body: the text inside, or an attribute with `attr`.
        optional css: Text,
        /// The attribute of the element that `css` finds.
        optional attr: Text,
        /// The body itself, as text.
        optional body: bool,
        /// Which of several matches: `first`, `random` or `all` (a list); for `json`, `regex` and `css`.
        optional pick: CapturePick,
        /// Whether it may be absent.
        optional optional: bool,
    }
}

impl Decode for Capture {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        if let Value::Scalar { .. } = node.value {
            let from = CaptureFrom::Json(Text::decode(node, sink)?);
            return Some(Self { from, optional: false, pick: None });
        }
        let before = sink.count();
        let keys = CaptureKeys::decode(node, sink)?;
        if keys.css.is_none()
            && let Some(attribute) = &keys.attr
        {
            let hint = "write for example { css: \"form input\", attr: value }";
            sink.add_with_hint(attribute.span, "`attr` goes with `css`", hint);
        }
        let from = [
            keys.json.map(CaptureFrom::Json),
            keys.header.map(CaptureFrom::Header),
            keys.cookie.map(CaptureFrom::Cookie),
            keys.regex.map(CaptureFrom::Regex),
            keys.css.map(|css| CaptureFrom::Css(css, keys.attr)),
            keys.body.filter(|body| *body).map(|_| CaptureFrom::Body),
        ];
        let mut from = from.into_iter().flatten();
        match (from.next(), from.next()) {
            (Some(from), None) => {
                let optional = keys.optional.unwrap_or(false);
                Some(Self { from, optional, pick: keys.pick })
            }
            // Which one it was could not be read.
            (None, None) if sink.count() > before => None,
            _ => {
                sink.add_with_hint(
                    node.span,
                    "a capture has exactly one of `json`, `header`, `cookie`, `regex`, `css` and `body`",
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
        /// A pause before it.
        optional settle: Quantity<Duration>,
        /// Whether its figures belong to the totals; `false` for a warm-up.
        optional record: bool,
        /// The phase before, whose users live on: with their variables, cookies and connections.
        optional continues: Text,
        /// How long iterations under way may go on after its end; 30s where absent.
        optional graceful_stop: Quantity<Duration>,
        /// `always`, or `manual`: only with `--with NAME`.
        optional when: When,
    }
    later &["marks"]
}

words! {
    /// When a phase is carried out.
    enum When { "always" => Always, "manual" => Manual, }
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
        /// A number of iterations for each virtual user.
        "per-vu-iterations" => PerVu(PerVu),
        /// A number of iterations that all virtual users share.
        "shared-iterations" => SharedIterations(SharedIterations),
        /// A base rate with bursts.
        "burst" => Burst(Burst),
        /// All virtual users at one instant, once.
        "at-once" => AtOnce(AtOnce),
        /// Virtual users that take turns at a fixed pace or total rate.
        "paced" => Paced(Paced),
    }
    later &["capacity-search", "externally-controlled"]
}

mapping! {
    /// A number of iterations for each virtual user.
    struct PerVu {
        /// The type of user.
        optional user: Text,
        /// How many, for the whole grid.
        required vus: Quantity<Count>,
        /// Iterations of each.
        required iterations: Quantity<Count>,
        /// The longest time it may take; 10m where absent. What was not started then is not.
        optional max_duration: Quantity<Duration>,
        /// `any`: side by side; `sequential`: one user after the other, in the order of their indices.
        optional order: Order,
    }
}

words! {
    /// In which order users go.
    enum Order { "any" => Any, "sequential" => Sequential, }
}

mapping! {
    /// A number of iterations that all virtual users share: a slow worker holds nothing back.
    struct SharedIterations {
        /// The type of user.
        optional user: Text,
        /// How many users, for the whole grid.
        required vus: Quantity<Count>,
        /// Iterations of all of them together.
        required iterations: Quantity<Count>,
        /// The longest time it may take; 10m where absent.
        optional max_duration: Quantity<Duration>,
    }
}

mapping! {
    /// A base rate with bursts. Each period is: base, burst, base again, the stretches of base equally long.
    struct Burst {
        /// The type of user.
        optional user: Text,
        /// Arrivals per time between bursts.
        required base: Quantity<Rate>,
        /// How many times the base rate a burst has.
        required factor: Quantity<Factor>,
        /// How long a burst is.
        required burst: Quantity<Duration>,
        /// The length of a period.
        required every: Quantity<Duration>,
        /// How many periods; 1 where absent.
        optional times: Quantity<Count>,
        /// `uniform` or `poisson`.
        optional arrivals: ArrivalKind,
        /// The most virtual users at once.
        optional max_vus: Quantity<Count>,
        /// Users that have begun their lives before the first arrival.
        optional prepared: Quantity<Count>,
        /// What happens to an arrival when no user is free: `drop` (and count) or `queue`.
        optional when_full: WhenFull,
    }
}

mapping! {
    /// All virtual users at one instant, once; `start` is carried out before that instant.
    struct AtOnce {
        /// The type of user.
        optional user: Text,
        /// How many, for the whole grid.
        required vus: Quantity<Count>,
        /// The longest time it may take; 10m where absent.
        optional max_duration: Quantity<Duration>,
    }
}

mapping! {
    /// Virtual users that take turns: each at a `pace`, or all of them at a total `rate`. A turn counts from when
    /// it was due, even where its user was busy.
    struct Paced {
        /// The type of user.
        optional user: Text,
        /// How many, for the whole grid; those that live, in a phase that continues another.
        optional vus: Quantity<Count>,
        /// From one turn of a user to its next.
        optional pace: Quantity<Duration>,
        /// Turns of all users together.
        optional rate: Quantity<Rate>,
        /// How long.
        required duration: Quantity<Duration>,
    }
}

words! {
    /// What happens to an arrival when no user is free.
    enum WhenFull { "drop" => Drop, "queue" => Queue, }
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
        /// Users come and go in batches of so many.
        optional batch: Quantity<Count>,
    }
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
        /// Users that have begun their lives before the first arrival.
        optional prepared: Quantity<Count>,
        /// What happens to an arrival when no user is free: `drop` (and count) or `queue`.
        optional when_full: WhenFull,
    }
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
        /// Users that have begun their lives before the first arrival.
        optional prepared: Quantity<Count>,
        /// What happens to an arrival when no user is free: `drop` (and count) or `queue`.
        optional when_full: WhenFull,
    }
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

/// A condition on figures: a text such as `p99(response_time, step=login) < 300ms`, or a mapping with more.
#[derive(Clone, Debug)]
pub(super) struct Threshold {
    /// The condition.
    pub(super) text: Text,
    /// What else is said of it.
    pub(super) more: Option<LongThreshold>,
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
pub(super) fn schema() -> Json {
    let mut definitions = Definitions::default();
    let _reference = Document::schema(&mut definitions);
    let mut root = definitions.0.remove("Document").unwrap_or_default();
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("loadgrid scenario, version 1");
    root["$defs"] = json!(definitions.0);
    root
}

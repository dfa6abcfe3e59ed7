//! Requests, as written: what they carry, what a good answer is, what is captured.

#![expect(clippy::allow_attributes, reason = "a macro cannot know which of the fields it declares are read")]

use serde_json::{Value as Json, json};

use super::{Auth, Cap};
use crate::scenario::decode::{
    Any, Count, Decode, Definitions, Duration, Mapped, Name, Quantity, Text, mapping, verbs, words,
};
use crate::scenario::problem::{Sink, Span};
use crate::scenario::tree::{Node, Value};

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
pub(in crate::scenario) enum Body {
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
pub(in crate::scenario) enum FormPart {
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
pub(in crate::scenario) enum HeaderExpect {
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
pub(in crate::scenario) struct Statuses(pub(in crate::scenario) Vec<(u16, u16)>);

/// `200` as 200 to 200, `2xx` as 200 to 299.
pub(in crate::scenario) fn status_range(text: &str) -> Option<(u16, u16)> {
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
pub(in crate::scenario) enum JsonExpect {
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
pub(in crate::scenario) struct Capture {
    pub(in crate::scenario) from: CaptureFrom,
    pub(in crate::scenario) optional: bool,
    pub(in crate::scenario) pick: Option<CapturePick>,
}

/// See [`Capture`].
#[derive(Clone, Debug)]
pub(in crate::scenario) enum CaptureFrom {
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

//! From the tree to typed documents, without stopping at the first mistake.
//!
//! A type says once which keys it has; its decoder and its JSON Schema both come from that. Decoding
//! returns `None` after it has told the sink why, and its siblings go on, so all problems come at once.
//! See `docs/decisions/0003-our-own-decoder.md` for why this is not serde.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde_json::{Value as Json, json};

use super::problem::{Sink, Span, meant, suggest};
use super::tree::{Key, Node, Value};

/// A type that a node can be read as.
pub(super) trait Decode: Sized {
    /// Reads it, or tells why not.
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self>;
    /// Its JSON Schema.
    fn schema(definitions: &mut Definitions) -> Json;
}

/// The named parts of a JSON Schema.
#[derive(Debug, Default)]
pub(super) struct Definitions(pub(super) BTreeMap<&'static str, Json>);

impl Definitions {
    /// A reference to a named part, made the first time it is asked for.
    pub(super) fn reference(&mut self, name: &'static str, make: impl FnOnce(&mut Self) -> Json) -> Json {
        if !self.0.contains_key(name) {
            // A type may refer to itself, so its name is taken before it is made.
            self.0.insert(name, Json::Null);
            let schema = make(self);
            self.0.insert(name, schema);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }
}

/// The entries of a mapping, or a problem.
pub(super) fn entries<'a>(node: &'a Node, what: &str, sink: &mut Sink) -> Option<&'a [(Key, Node)]> {
    if let Value::Map(entries) = &node.value {
        return Some(entries);
    }
    sink.add(node.span, format!("{what} must be a mapping, not {}", node.kind()));
    None
}

/// Tells what is wrong with a key that its mapping does not have. `missing` are the keys that the mapping must have and
/// has not: an unknown key may well be one of them. Gives the key that is most likely meant.
pub(super) fn unknown_key(
    key: &Key,
    known: &[&'static str],
    later: &[&'static str],
    missing: &[&'static str],
    sink: &mut Sink,
) -> Option<&'static str> {
    if later.contains(&&*key.text) {
        sink.add_with_hint(
            key.span,
            format!("`{}` is not supported yet by this version", key.text),
            "remove it; the changelog tells when it comes",
        );
        return None;
    }
    let message = format!("unknown key `{}`", key.text);
    let meant = meant(&key.text, known.iter().copied()).or(match missing {
        [only] => Some(*only),
        _ => None,
    });
    let hint = match meant {
        Some(meant) if missing.contains(&meant) => format!("did you mean `{meant}`? It is missing here"),
        Some(meant) => format!("did you mean `{meant}`?"),
        None => suggest(&key.text, known.iter().copied()).unwrap_or_default(),
    };
    sink.add_with_hint(key.span, message, hint);
    meant
}

/// Declares a mapping: its keys, which of them are required, and which a later version will have.
/// With `short KEY`, a scalar stands for the mapping with only that key.
macro_rules! mapping {
    (
        $(#[doc = $doc:literal])*
        struct $name:ident $(short $short:ident)? {
            $($(#[doc = $field_doc:literal])* $need:ident $field:ident: $type:ty,)*
        }
        $(later $later:expr)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        #[allow(dead_code, reason = "a key may be read for its problems only")]
        pub(in crate::scenario) struct $name {
            /// Where it stands.
            pub(in crate::scenario) span: Span,
            $($(#[doc = $field_doc])* pub(in crate::scenario) $field: mapping!(@type $need $type),)*
        }

        impl $crate::scenario::decode::Decode for $name {
            fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
                const KNOWN: &[&str] = &[$(mapping!(@key $field)),*];
                const LATER: &[&str] = mapping!(@later $($later)?);
                let lifted = $crate::scenario::decode::lift(node, mapping!(@short $($short)?));
                let node = lifted.as_ref().unwrap_or(node);
                let entries = $crate::scenario::decode::entries(node, concat!("`", stringify!($name), "`"), sink)?;
                $(let mut $field = (None::<$type>, false);)*
                let mut unknown = Vec::new();
                for (key, value) in entries {
                    match &*key.text {
                        $(text if text == mapping!(@key $field) => {
                            $field.1 = true;
                            $field.0 = $crate::scenario::decode::Decode::decode(value, sink);
                        })*
                        text if text.starts_with("x-") => {}
                        _ => unknown.push(key),
                    }
                }
                let missing: Vec<&'static str> =
                    [$(mapping!(@absent $need $field)),*].into_iter().flatten().collect();
                // A key that is missing because it is mistyped is told once.
                let meant: Vec<Option<&'static str>> = unknown
                    .into_iter()
                    .map(|key| $crate::scenario::decode::unknown_key(key, KNOWN, LATER, &missing, sink))
                    .collect();
                let missing: Vec<&'static str> =
                    missing.into_iter().filter(|key| !meant.contains(&Some(*key))).collect();
                $crate::scenario::decode::tell_missing(node, &missing, sink);
                let broken = [$(mapping!(@missing $need $field)),*];
                if broken.contains(&true) {
                    return None;
                }
                $(let $field = $field.0;)*
                Some(Self { span: node.span, $($field: mapping!(@take $need $field)),* })
            }

            fn schema(definitions: &mut $crate::scenario::decode::Definitions) -> serde_json::Value {
                definitions.reference(stringify!($name), |definitions| {
                    let mut properties = serde_json::Map::new();
                    let required: &mut Vec<&str> = &mut Vec::new();
                    $(
                        let mut schema = <$type as $crate::scenario::decode::Decode>::schema(definitions);
                        $crate::scenario::decode::describe(&mut schema, &[$($field_doc),*]);
                        properties.insert(mapping!(@key $field).to_owned(), schema);
                        mapping!(@require $need $field required);
                    )*
                    let mut object = serde_json::json!({
                        "type": "object",
                        "properties": properties,
                        "patternProperties": { "^x-": true },
                        "additionalProperties": false,
                    });
                    if !required.is_empty() {
                        object["required"] = serde_json::json!(required);
                    }
                    $crate::scenario::decode::describe(&mut object, &[$($doc),*]);
                    $crate::scenario::decode::allow_short(&mut object, mapping!(@short $($short)?));
                    object
                })
            }
        }
    };
    (@type required $type:ty) => { $type };
    (@type optional $type:ty) => { Option<$type> };
    (@take required $field:ident) => { $field? };
    (@take optional $field:ident) => { $field };
    (@short) => { None };
    (@short $short:ident) => { Some(stringify!($short)) };
    (@key $field:ident) => { $crate::scenario::decode::key_name(stringify!($field)) };
    (@later) => { &[] };
    (@later $later:expr) => { $later };
    (@require required $field:ident $list:ident) => { $list.push(mapping!(@key $field)) };
    (@require optional $field:ident $list:ident) => {};
    (@absent required $field:ident) => { (!$field.1).then_some(mapping!(@key $field)) };
    (@absent optional $field:ident) => { None };
    // A key that cannot be read was told; without a required one there is no value of this type.
    (@missing required $field:ident) => { $field.0.is_none() };
    (@missing optional $field:ident) => { false };
}
pub(super) use mapping;

/// Tells which keys a mapping must have and has not.
pub(super) fn tell_missing(node: &Node, missing: &[&'static str], sink: &mut Sink) {
    for key in missing {
        sink.add_with_hint(node.span, format!("`{key}` is missing here"), format!("add `{key}: …`"));
    }
}

/// A scalar that stands for the mapping with only its short key.
pub(super) fn lift(node: &Node, short: Option<&'static str>) -> Option<Node> {
    let short = short?;
    let is_scalar = matches!(node.value, Value::Scalar { .. }) && !node.is_null();
    is_scalar.then(|| {
        let key = Key { text: short.into(), span: node.span };
        Node { value: Value::Map(std::rc::Rc::new(vec![(key, node.clone())])), span: node.span }
    })
}

/// Lets a schema be a scalar, too, where its mapping has a short key.
pub(super) fn allow_short(schema: &mut Json, short: Option<&'static str>) {
    if short.is_some() {
        *schema = json!({ "anyOf": [{ "type": ["string", "number"] }, schema.take()] });
    }
}

/// The key of a field: `r#loop` is `loop`, and `otherwise` (a word of ours) is `else`.
pub(super) const fn key_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        b"otherwise" => "else",
        b"r#loop" => "loop",
        b"r#do" => "do",
        b"r#for" => "for",
        b"r#type" => "type",
        _ => field,
    }
}

/// Adds a description from doc comments.
pub(super) fn describe(schema: &mut Json, doc: &[&str]) {
    let text = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    if let (false, Some(object)) = (text.is_empty(), schema.as_object_mut()) {
        object.insert("description".to_owned(), Json::String(text));
    }
}

/// Declares a mapping with exactly one key, a verb.
macro_rules! verbs {
    (
        $(#[doc = $doc:literal])*
        enum $name:ident, $what:literal {
            $($(#[doc = $verb_doc:literal])* $verb:literal => $variant:ident($type:ty),)*
        }
        $(later $later:expr)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub(in crate::scenario) enum $name {
            $($(#[doc = $verb_doc])* $variant($type),)*
        }

        impl $crate::scenario::decode::Decode for $name {
            fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
                const KNOWN: &[&str] = &[$($verb),*];
                let later: &[&str] = verbs!(@later $($later)?);
                let (key, value) = $crate::scenario::decode::one_verb(node, $what, KNOWN, sink)?;
                match &*key.text {
                    $($verb => <$type as $crate::scenario::decode::Decode>::decode(value, sink).map(Self::$variant),)*
                    _ => {
                        $crate::scenario::decode::unknown_verb(key, $what, KNOWN, later, sink);
                        None
                    }
                }
            }

            fn schema(definitions: &mut $crate::scenario::decode::Definitions) -> serde_json::Value {
                definitions.reference(stringify!($name), |definitions| {
                    let mut properties = serde_json::Map::new();
                    $(
                        let mut schema = <$type as $crate::scenario::decode::Decode>::schema(definitions);
                        $crate::scenario::decode::describe(&mut schema, &[$($verb_doc),*]);
                        properties.insert($verb.to_owned(), schema);
                    )*
                    let mut object = serde_json::json!({
                        "type": "object",
                        "properties": properties,
                        "patternProperties": { "^x-": true },
                        "additionalProperties": false,
                        "minProperties": 1,
                    });
                    $crate::scenario::decode::describe(&mut object, &[$($doc),*]);
                    object
                })
            }
        }
    };
    (@later) => { &[] };
    (@later $later:expr) => { $later };
}
pub(super) use verbs;

/// Declares a choice between words.
macro_rules! words {
    ($(#[doc = $doc:literal])* enum $name:ident { $($word:literal => $variant:ident,)* } $(later $later:expr)?) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::scenario) enum $name { $(#[doc = $word] $variant,)* }

        impl $crate::scenario::decode::Decode for $name {
            fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
                let later: &[&str] = words!(@later $($later)?);
                let text = <$crate::scenario::decode::Text as $crate::scenario::decode::Decode>::decode(node, sink)?;
                match text.value.as_str() {
                    $($word => return Some(Self::$variant),)*
                    word if later.contains(&word) => {
                        sink.add_with_hint(text.span, format!("`{word}` is not supported yet by this version"), "remove it; the changelog tells when it comes");
                    }
                    word => sink.add_with_hint(text.span, format!("`{word}` is not known here"), format!("one of: {}", [$($word),*].join(", "))),
                }
                None
            }

            fn schema(_: &mut $crate::scenario::decode::Definitions) -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),*] })
            }
        }
    };
    (@later) => { &[] };
    (@later $later:expr) => { $later };
}
pub(super) use words;

/// The one entry of a mapping with exactly one verb.
pub(super) fn one_verb<'a>(
    node: &'a Node,
    what: &str,
    known: &[&str],
    sink: &mut Sink,
) -> Option<(&'a Key, &'a Node)> {
    let Value::Map(entries) = &node.value else {
        let message = format!("{what} is a mapping with one verb, not {}", node.kind());
        let example = known.first().copied().unwrap_or_default();
        sink.add_with_hint(node.span, message, format!("write for example `{example}: …`"));
        return None;
    };
    let mut verbs = entries.iter().filter(|(key, _)| !key.text.starts_with("x-"));
    let Some(first) = verbs.next() else {
        sink.add(node.span, format!("{what} needs a verb"));
        return None;
    };
    if let Some((second, _)) = verbs.next() {
        let message =
            format!("{what} has exactly one verb; here are `{}` and `{}`", first.0.text, second.text);
        let hint = if known.contains(&&*second.text) {
            format!("begin a new one: `- {}: …`", second.text)
        } else {
            format!("is `{}` meant to be a key of `{}`? then indent it below", second.text, first.0.text)
        };
        sink.add_with_hint(second.span, message, hint);
        return None;
    }
    Some((&first.0, &first.1))
}

/// Tells that a verb is unknown, or comes later.
pub(super) fn unknown_verb(key: &Key, what: &str, known: &[&str], later: &[&str], sink: &mut Sink) {
    if later.contains(&&*key.text) {
        sink.add_with_hint(
            key.span,
            format!("`{}` is not supported yet by this version", key.text),
            "remove it; the changelog tells when it comes",
        );
        return;
    }
    let all = known.iter().chain(later).copied();
    let message = format!("`{}` is not a verb of {what}", key.text);
    match suggest(&key.text, all) {
        Some(hint) => sink.add_with_hint(key.span, message, hint),
        None => sink.add(key.span, message),
    }
}

/// A text and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) value: String,
    pub(super) span: Span,
    /// Written without quotes: its span begins with its first character.
    pub(super) plain: bool,
}

impl Text {
    /// The place of a byte of the text; exact where it was written plainly or on one line.
    pub(super) const fn at(&self, offset: usize, length: usize) -> Span {
        self.span.part(offset + if self.plain { 0 } else { 1 }, length)
    }
}

impl Decode for Text {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, plain } if !node.is_null() => {
                Some(Self { value: text.to_string(), span: node.span, plain: *plain })
            }
            Value::Map(entries)
                if entries.iter().any(|(key, _)| key.text.starts_with('$')) || entries.len() == 1 =>
            {
                sink.add_with_hint(
                    node.span,
                    "this should be a text, not a mapping",
                    "put a text that begins with `{` or holds `: ` or `${…}` in `{ }` into quotes",
                );
                None
            }
            _ => {
                sink.add(node.span, format!("this should be a text, not {}", node.kind()));
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

/// A name: some text of at most 200 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) Text);

impl Decode for Name {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let text = Text::decode(node, sink)?;
        let length = text.value.chars().count();
        if length > 200 || text.value.trim().is_empty() || text.value.chars().any(char::is_control) {
            sink.add(text.span, "a name has 1 to 200 characters and no control characters");
            return None;
        }
        Some(Self(text))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": ["string", "number"], "minLength": 1, "maxLength": 200 })
    }
}

impl Decode for bool {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, plain: true } if &**text == "true" => Some(true),
            Value::Scalar { text, plain: true } if &**text == "false" => Some(false),
            _ => {
                sink.add_with_hint(
                    node.span,
                    format!("this should be true or false, not {}", node.kind()),
                    "write true or false, without quotes",
                );
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "boolean" })
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let Value::List(items) = &node.value else {
            let hint = if matches!(node.value, Value::Map(_)) {
                "begin each item with `- `"
            } else {
                "write [ … ] or one item per line, each with `- `"
            };
            sink.add_with_hint(node.span, format!("this should be a list, not {}", node.kind()), hint);
            return None;
        };
        // What cannot be read is told and left out, so that the rest can still be looked at.
        Some(items.iter().filter_map(|item| T::decode(item, sink)).collect())
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "type": "array", "items": T::schema(definitions) })
    }
}

/// Names to values, in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Mapped<T> {
    pub(super) entries: Vec<(Name, T)>,
    /// Names whose values cannot be read; that was told, so nobody else need complain of them.
    broken: Vec<String>,
}

impl<T> Mapped<T> {
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.entries.iter().find(|(key, _)| key.0.value == name).map(|(_, value)| value)
    }

    /// Whether a name is there, though its value cannot be read.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name)
    }

    /// A mapping with one entry.
    pub(super) fn one(name: Name, value: T) -> Self {
        Self { entries: vec![(name, value)], broken: Vec::new() }
    }

    /// Adds the entries of another mapping, where their names are new; gives back the names that are not.
    pub(super) fn add(&mut self, other: Self) -> Vec<Name> {
        let mut doubled = Vec::new();
        for (name, value) in other.entries {
            if self.get(&name.0.value).is_some() {
                doubled.push(name);
            } else {
                self.entries.push((name, value));
            }
        }
        self.broken.extend(other.broken);
        doubled
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries.iter().map(|(key, _)| key.0.value.as_str())
    }
}

impl<T> Default for Mapped<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), broken: Vec::new() }
    }
}

impl<T: Decode> Decode for Mapped<T> {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let entries = entries(node, "this", sink)?;
        let mut mapped = Self::default();
        // Names are the writer's own here: a header may well be called `x-signature`.
        for (key, value) in entries {
            let text = Text { value: key.text.to_string(), span: key.span, plain: true };
            match T::decode(value, sink) {
                Some(value) => mapped.entries.push((Name(text), value)),
                None => mapped.broken.push(text.value),
            }
        }
        Some(mapped)
    }

    fn schema(definitions: &mut Definitions) -> Json {
        json!({ "type": "object", "additionalProperties": T::schema(definitions) })
    }
}

/// Any value, kept as it is written.
#[derive(Clone, Debug)]
pub(super) struct Any(pub(super) Node);

impl Decode for Any {
    fn decode(node: &Node, _: &mut Sink) -> Option<Self> {
        Some(Self(node.clone()))
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({})
    }
}

/// A quantity with a unit, as written: it may hold `${vars.…}`, so it is read when those are known.
#[derive(Clone, Debug)]
pub(super) struct Quantity<U> {
    pub(super) text: Text,
    unit: PhantomData<U>,
}

/// What a [`Quantity`] is read as.
pub(super) trait Unit: 'static {
    /// The value.
    type Value;
    /// Reads the resolved text; an error reads as a sentence.
    fn parse(text: &str) -> Result<Self::Value, String>;
    /// The pattern for editors, beside `${…}`.
    const PATTERN: &'static str;
    /// Name of the schema.
    const NAME: &'static str;
    /// What it may be in JSON, beside a text of the pattern.
    const NUMBER: Option<&'static str>;
    /// A good one, for those who wrote a bad one.
    const EXAMPLE: &'static str;
}

impl<U: Unit> Decode for Quantity<U> {
    fn decode(node: &Node, sink: &mut Sink) -> Option<Self> {
        let text = Text::decode(node, sink)?;
        if !text.value.contains("${")
            && let Err(message) = U::parse(&text.value)
        {
            sink.add_with_hint(text.span, message, U::EXAMPLE);
            return None;
        }
        Some(Self { text, unit: PhantomData })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        definitions.reference(U::NAME, |_| {
            let text = json!({ "type": "string", "pattern": format!("\\$\\{{.*\\}}|{}", U::PATTERN) });
            match U::NUMBER {
                Some(kind) => json!({ "anyOf": [text, { "type": kind, "minimum": 0 }] }),
                None => text,
            }
        })
    }
}

macro_rules! unit {
    ($(#[doc = $doc:literal])* $name:ident, $value:ty, $number:expr, $example:literal, $pattern:literal, $parse:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub(super) struct $name;

        impl Unit for $name {
            type Value = $value;
            const PATTERN: &'static str = $pattern;
            const NAME: &'static str = stringify!($name);
            const NUMBER: Option<&'static str> = $number;
            const EXAMPLE: &'static str = $example;

            fn parse(text: &str) -> Result<$value, String> {
                let parse: fn(&str) -> Result<$value, String> = $parse;
                parse(text)
            }
        }
    };
}

unit!(
    /// A length of time.
    Duration, std::time::Duration, None, "write for example 30s, 250ms or 1m30s", r"^\s*([0-9._]+\s*(ns|us|µs|ms|s|m|min|h|d)\s*)+$",
    |text| loadgrid_common::units::parse_duration(text).map_err(|e| e.to_string())
);
unit!(
    /// Arrivals per time.
    Rate, loadgrid_common::units::Rate, None, "write for example 200/s or 1000/m", r"^\s*[0-9._]+\s*/\s*(s|sec|second|m|min|minute|h|hour)\s*$",
    |text| loadgrid_common::units::parse_rate(text).map_err(|e| e.to_string())
);
unit!(
    /// A number of bytes.
    Bytes, u64, Some("integer"), "write for example 64KiB or 10MB", r"^[0-9._]+\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?$",
    |text| loadgrid_common::units::parse_bytes(text).map_err(|e| e.to_string())
);
unit!(
    /// A whole number.
    Count, u64, Some("integer"), "write a whole number, for example 10", r"^[0-9][0-9_]*$",
    |text| text.trim().replace('_', "").parse().map_err(|_| format!("`{text}` is not a whole number"))
);
unit!(
    /// A number above 0, such as 10 or 1.5.
    Factor, f64, Some("number"), "write for example 10 or 1.5", r"^[0-9][0-9_.]*x?$",
    |text| {
        let number = text.trim().trim_end_matches('x').replace('_', "").parse::<f64>().ok();
        number.filter(|n| n.is_finite() && *n > 0.0).ok_or_else(|| format!("`{text}` is not a number above 0"))
    }
);
unit!(
    /// At most so many in a stretch of time.
    CapRate, (u64, std::time::Duration), None, "write for example 600/m", r"^\s*[0-9_]+\s*/\s*(s|sec|second|m|min|minute|h|hour)\s*$",
    |text| loadgrid_common::units::parse_cap(text).map_err(|e| e.to_string())
);

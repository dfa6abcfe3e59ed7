//! Texts with holes to the plan's templates; names are checked here.

use loadgrid_common::expression::{self, Expression, ExpressionError, Piece, json_of, text_of};
use loadgrid_common::plan::{self, Encoding, Hole, Lookup, Part, Template, slots};

use super::constants::{Constants, members, scalar};
use super::decode::Text;
use super::problem::{Sink, Span, suggest};
use super::tree::{Node, Value as NodeValue};

/// The variables that stand where a template is used.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    /// Names by slot.
    pub(super) slots: &'a [String],
    /// Data sources with their columns.
    pub(super) sources: &'a [(String, Vec<String>)],
    /// Names of secrets.
    pub(super) secrets: &'a [String],
    /// What `setup` yields.
    pub(super) setup: &'a [String],
}

/// What compiles templates.
#[derive(Debug)]
pub(super) struct Templates<'a> {
    pub(super) constants: &'a Constants,
    pub(super) scope: Scope<'a>,
    /// Data columns that were named: (source, column); an empty column stands for all.
    pub(super) used_columns: &'a std::cell::RefCell<std::collections::BTreeSet<(String, String)>>,
    /// Whether variables are looked up by name: the template serves several types of user.
    pub(super) by_name: bool,
    /// Names that may be variables of parts that could not be read: nobody knows, so nobody complains.
    pub(super) perhaps: &'a std::collections::BTreeSet<String>,
}

impl Templates<'_> {
    /// A text for a url, a header or a plain body.
    pub(super) fn text(&self, text: &Text, sink: &mut Sink) -> Option<Template> {
        self.encoded(text, Encoding::Text, sink)
    }

    /// A text whose holes are encoded so.
    pub(super) fn encoded(&self, text: &Text, encoding: Encoding, sink: &mut Sink) -> Option<Template> {
        let mut builder = Builder::default();
        self.add(&mut builder, text, encoding, sink)?;
        Some(builder.finish())
    }

    /// `a=1&b=2`, every name and value encoded.
    pub(super) fn pairs(&self, pairs: &super::decode::Mapped<Text>, sink: &mut Sink) -> Option<Template> {
        let mut builder = Builder::default();
        let mut good = true;
        for (place, (name, value)) in pairs.entries.iter().enumerate() {
            if place > 0 {
                builder.literal("&");
            }
            builder.literal(&url_component(&name.0.value));
            builder.literal("=");
            good &= self.add(&mut builder, value, Encoding::Url, sink).is_some();
        }
        good.then(|| builder.finish())
    }

    /// A JSON value with holes. A text that is exactly one hole keeps the hole's type.
    pub(super) fn json(&self, node: &Node, sink: &mut Sink) -> Option<Template> {
        let mut builder = Builder::default();
        self.add_json(&mut builder, node, sink)?;
        Some(builder.finish())
    }

    /// A condition: an expression, with or without `${…}` around it.
    pub(super) fn condition(&self, text: &Text, sink: &mut Sink) -> Option<String> {
        let inner = match expression::split(&text.value).as_deref() {
            Ok([Piece::Hole { expression, .. }]) => expression.clone(),
            _ => text.value.trim().to_owned(),
        };
        let span = text.at(text.value.find(&inner).unwrap_or(0), inner.len());
        let expression = compile(&inner, span, sink)?;
        self.check_names(&expression, span, sink)?;
        Some(inner)
    }

    fn add_json(&self, builder: &mut Builder, node: &Node, sink: &mut Sink) -> Option<()> {
        match &node.value {
            NodeValue::Scalar { text, plain } if text.contains("${") => {
                let text = Text { value: text.to_string(), span: node.span, plain: *plain };
                if matches!(expression::split(&text.value).as_deref(), Ok([Piece::Hole { .. }])) {
                    return self.add(builder, &text, Encoding::JsonValue, sink);
                }
                builder.literal("\"");
                self.add(builder, &text, Encoding::JsonString, sink)?;
                builder.literal("\"");
                Some(())
            }
            NodeValue::Scalar { .. } => {
                builder.literal(&scalar(node, sink)?.to_string());
                Some(())
            }
            NodeValue::List(items) => {
                let mut good = true;
                builder.literal("[");
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        builder.literal(",");
                    }
                    good &= self.add_json(builder, item, sink).is_some();
                }
                builder.literal("]");
                good.then_some(())
            }
            NodeValue::Map(entries) => {
                let mut good = true;
                builder.literal("{");
                for (place, (key, value)) in entries.iter().enumerate() {
                    if place > 0 {
                        builder.literal(",");
                    }
                    builder.literal(&serde_json::Value::from(&*key.text).to_string());
                    builder.literal(":");
                    good &= self.add_json(builder, value, sink).is_some();
                }
                builder.literal("}");
                good.then_some(())
            }
        }
    }

    fn add(&self, builder: &mut Builder, text: &Text, encoding: Encoding, sink: &mut Sink) -> Option<()> {
        let pieces = match expression::split(&text.value) {
            Ok(pieces) => pieces,
            Err(error) => {
                sink.add_with_hint(
                    text.at(error.offset, 2),
                    error.to_string(),
                    "close it with `}`; in `{ … }`, put the whole value into quotes",
                );
                return None;
            }
        };
        let mut good = true;
        for piece in &pieces {
            match piece {
                Piece::Literal(literal) => builder.literal(&encode_literal(literal, encoding)),
                Piece::Hole { expression, offset } => {
                    let span = text.at(*offset, expression.len());
                    good &= self.add_hole(builder, expression, span, encoding, sink).is_some();
                }
            }
        }
        good.then_some(())
    }

    fn add_hole(
        &self,
        builder: &mut Builder,
        text: &str,
        span: Span,
        encoding: Encoding,
        sink: &mut Sink,
    ) -> Option<()> {
        let expression = compile(text, span, sink)?;
        self.check_names(&expression, span, sink)?;
        if expression.names().iter().all(|name| Constants::is_constant(name)) && expression.is_pure() {
            let value = self.constants.evaluate(&expression, span, sink)?;
            builder.literal(&match encoding {
                Encoding::Text => text_of(&value).into_owned(),
                Encoding::JsonValue => json_of(&value),
                Encoding::JsonString | Encoding::Url => encode_literal(&text_of(&value), encoding),
            });
            return Some(());
        }
        let lookup = expression.simple().and_then(|simple| {
            let slot = self.scope.slots.iter().position(|name| *name == simple.name)?;
            if self.by_name && slot >= slots::FIXED.len() {
                return Some(Lookup { slot: 0, path: simple.path, name: simple.name });
            }
            Some(Lookup { slot: u32::try_from(slot).ok()?, path: simple.path, name: String::new() })
        });
        let source = match lookup {
            Some(lookup) => plan::hole::Source::Lookup(lookup),
            None => plan::hole::Source::Expression(expression.text().to_owned()),
        };
        builder.hole(Hole { encoding: encoding.into(), source: Some(source) });
        Some(())
    }

    /// Every name must be a variable here, and its members must exist where they are known.
    fn check_names(&self, expression: &Expression, span: Span, sink: &mut Sink) -> Option<()> {
        let mut good = self.constants.check_members(expression.text(), span, sink);
        for name in expression.names() {
            if !self.scope.slots.iter().any(|slot| slot == name) && !Constants::is_constant(name) {
                good = false;
                if self.perhaps.contains(name) {
                    continue;
                }
                let message = match name.as_str() {
                    "sent" => format!("`{name}` is not supported yet by this version"),
                    _ => format!("`{name}` is not known here"),
                };
                let mut known: Vec<&str> = self.scope.slots.iter().map(String::as_str).collect();
                expression::known_functions().for_each(|function| known.push(function));
                let hint = suggest(name, known).unwrap_or_default();
                sink.add_with_hint(span, message, hint);
            }
            let text = expression.text();
            let known: Option<Vec<&str>> = match name.as_str() {
                "user" => Some(vec!["index", "id"]),
                "last" => Some(vec!["status", "headers", "json", "body"]),
                "run" => Some(vec!["id"]),
                "setup" => Some(self.scope.setup.iter().map(String::as_str).collect()),
                "secrets" => Some(self.scope.secrets.iter().map(String::as_str).collect()),
                name => self
                    .scope
                    .sources
                    .iter()
                    .find(|source| source.0 == name)
                    .map(|source| source.1.iter().map(String::as_str).collect()),
            };
            let Some(known) = known else { continue };
            for member in members(text, name) {
                if !known.contains(&member) {
                    good = false;
                    if name == "setup" && self.perhaps.contains(member) {
                        continue;
                    }
                    let hint = suggest(member, known.iter().copied())
                        .unwrap_or_else(|| "nothing is declared there".to_owned());
                    sink.add_with_hint(span, format!("`{name}` has no `{member}`"), hint);
                }
            }
            if self.scope.sources.iter().any(|source| source.0 == *name) {
                let named = members(text, name);
                let mut used = self.used_columns.borrow_mut();
                if named.len() < text.matches(name.as_str()).count() {
                    used.insert((name.clone(), String::new()));
                }
                used.extend(named.into_iter().map(|column| (name.clone(), column.to_owned())));
            }
        }
        good.then_some(())
    }
}

fn compile(text: &str, span: Span, sink: &mut Sink) -> Option<Expression> {
    match Expression::compile(text) {
        Ok(expression) => Some(expression),
        Err(error) => {
            sink.add_with_hint(span, error.to_string(), cure(&error));
            None
        }
    }
}

/// What to do about an expression that cannot be compiled.
pub(super) fn cure(error: &ExpressionError) -> String {
    /// Filters that people look for; the engine has more.
    const FILTERS: &[&str] = &[
        "abs", "default", "first", "float", "int", "join", "last", "length", "lower", "max", "min",
        "replace", "reverse", "round", "sort", "split", "string", "sum", "title", "tojson", "trim", "unique",
        "upper",
    ];
    match error {
        ExpressionError::UnknownFilter { name } => suggest(name, FILTERS.iter().copied()).unwrap_or_default(),
        ExpressionError::LaterFunction { .. } => "remove it; the changelog tells when it comes".to_owned(),
        ExpressionError::Empty => "name a value, for example ${user.id}".to_owned(),
        ExpressionError::Syntax { .. } => {
            "see \"Names in expressions\" in docs/scenario.md; a text in an expression stands in quotes"
                .to_owned()
        }
    }
}

fn encode_literal(text: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Text | Encoding::JsonValue => text.to_owned(),
        Encoding::JsonString => {
            let quoted = serde_json::Value::from(text).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        }
        Encoding::Url => url_component(text),
    }
}

/// One name or value of a query or a form, percent-encoded.
pub(super) fn url_component(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Joins literals as they come.
#[derive(Default)]
struct Builder {
    parts: Vec<Part>,
    literal: String,
}

impl Builder {
    fn literal(&mut self, text: &str) {
        self.literal.push_str(text);
    }

    fn hole(&mut self, hole: Hole) {
        self.flush();
        self.parts.push(Part { part: Some(plan::part::Part::Hole(hole)) });
    }

    fn flush(&mut self) {
        if !self.literal.is_empty() {
            let literal = std::mem::take(&mut self.literal);
            self.parts.push(Part { part: Some(plan::part::Part::Literal(literal)) });
        }
    }

    fn finish(mut self) -> Template {
        self.flush();
        Template { parts: self.parts }
    }
}

/// A template of fixed text.
pub(super) fn fixed(text: &str) -> Template {
    let mut builder = Builder::default();
    builder.literal(text);
    builder.finish()
}

/// The names of the slots that every user has.
pub(super) fn fixed_slots() -> Vec<String> {
    slots::FIXED.iter().map(|name| (*name).to_owned()).collect()
}

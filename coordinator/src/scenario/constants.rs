//! What is known when a scenario is loaded: `vars`, `env` and `target`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use loadgrid_common::expression::{self, DrawsObject, Expression, Piece, Value, from_json, text_of};
use serde_json::{Map, Value as Json};

use super::decode::{Any, Mapped, Quantity, Text, Unit};
use super::problem::{Sink, Span, suggest};
use super::tree::{Node, Value as NodeValue};

/// The constants of a scenario.
#[derive(Debug, Default)]
pub(super) struct Constants {
    vars: Map<String, Json>,
    env: BTreeMap<String, String>,
    target: Option<String>,
    /// Where each var is declared, unless its value came from the command line.
    places: BTreeMap<String, Span>,
    /// Variables of the environment that an expression names.
    used_env: RefCell<BTreeSet<String>>,
}

/// `vars` as declared, and what takes their place.
#[derive(Debug, Default)]
pub(super) struct Vars {
    pub(super) declared: Mapped<Any>,
    /// Values of the chosen profile.
    pub(super) profile: Vec<(String, Any)>,
    /// `--var NAME=VALUE`.
    pub(super) overrides: Vec<(String, String)>,
}

impl Constants {
    /// Evaluates `vars` in the order of the file, each knowing those before it. The command line comes before a
    /// profile, a profile before what is declared.
    pub(super) fn resolve(vars: &Vars, env: BTreeMap<String, String>, sink: &mut Sink) -> Self {
        let mut constants = Self { env, ..Self::default() };
        for (name, declared) in &vars.declared.entries {
            let name = &name.0.value;
            let given = vars.overrides.iter().rev().find(|(key, _)| key == name);
            let profile = vars.profile.iter().find(|(key, _)| key == name).map(|(_, value)| value);
            let value = match (given, profile) {
                (Some((_, value)), _) => Some(plain_value(value)),
                (None, Some(value)) => constants.json(&value.0, sink),
                (None, None) => constants.json(&declared.0, sink),
            };
            constants.vars.insert(name.clone(), value.unwrap_or(Json::Null));
            if given.is_none() {
                let place = profile.map_or(declared.0.span, |value| value.0.span);
                constants.places.insert(name.clone(), place);
            }
        }
        constants
    }

    /// Sets `target`.
    pub(super) fn set_target(&mut self, target: String) {
        self.target = Some(target);
    }

    /// The names that are constants.
    pub(super) fn is_constant(name: &str) -> bool {
        matches!(name, "vars" | "env" | "target")
    }

    /// What plans carry of the constants, for expressions that also name variables.
    pub(super) fn to_json(&self) -> String {
        let used = self.used_env.borrow();
        let env: Map<String, Json> = self
            .env
            .iter()
            .filter(|(name, _)| used.contains(*name))
            .map(|(k, v)| (k.clone(), v.clone().into()))
            .collect();
        serde_json::json!({ "vars": self.vars, "env": env }).to_string()
    }

    /// The value of a constant for expressions.
    fn value(&self, name: &str) -> Option<Value> {
        match name {
            "vars" => Some(from_json(&Json::Object(self.vars.clone()))),
            "env" => {
                Some(Value::from_pairs(self.env.iter().map(|(k, v)| (k.clone(), Value::from(v.clone())))))
            }
            "target" => self.target.clone().map(Value::from),
            _ => None,
        }
    }

    /// Checks that the members of `vars` and `env` that an expression names exist, and notes which.
    pub(super) fn check_members(&self, text: &str, span: Span, sink: &mut Sink) -> bool {
        let mut good = true;
        for name in members(text, "vars") {
            if !self.vars.contains_key(name) {
                let hint = suggest(name, self.vars.keys().map(String::as_str))
                    .unwrap_or_else(|| "declare it under `vars`".to_owned());
                sink.add_with_hint(span, format!("there is no var `{name}`"), hint);
                good = false;
            }
        }
        for name in members(text, "env") {
            self.used_env.borrow_mut().insert(name.to_owned());
            if !self.env.contains_key(name) && !text.contains("default(") && !text.contains("is defined") {
                let hint = format!(
                    "set it, pass `-e {name}=…`, or give a default: ${{env.{name} | default(\"…\")}}"
                );
                sink.add_with_hint(span, format!("the environment has no variable `{name}`"), hint);
                good = false;
            }
        }
        good
    }

    /// Evaluates an expression of constants.
    pub(super) fn evaluate(&self, expression: &Expression, span: Span, sink: &mut Sink) -> Option<Value> {
        if !self.check_members(expression.text(), span, sink) {
            return None;
        }
        // A constant has no user and no iteration to draw for; functions that draw are refused before.
        match expression.evaluate(|name| self.value(name), &Arc::new(DrawsObject::default())) {
            Ok(value) => Some(value),
            Err(error) => {
                sink.add(span, format!("this expression fails: {error}"));
                None
            }
        }
    }

    /// A text in which every hole is a constant.
    pub(super) fn text(&self, text: &Text, sink: &mut Sink) -> Option<String> {
        self.whole(text, sink).map(|value| text_of(&value).into_owned())
    }

    /// As [`Self::text`], but a text that is exactly one hole keeps its type.
    fn whole(&self, text: &Text, sink: &mut Sink) -> Option<Value> {
        let pieces = match expression::split(&text.value) {
            Ok(pieces) => pieces,
            Err(error) => {
                sink.add_with_hint(text.at(error.offset, 2), error.to_string(), "close it with `}`");
                return None;
            }
        };
        let mut values = Vec::new();
        for piece in &pieces {
            values.push(match piece {
                Piece::Literal(literal) => Value::from(literal.clone()),
                Piece::Hole { expression, offset } => {
                    let span = text.at(*offset, expression.len());
                    let expression = match Expression::compile(expression) {
                        Ok(expression) => expression,
                        Err(error) => {
                            sink.add_with_hint(span, error.to_string(), super::template::cure(&error));
                            return None;
                        }
                    };
                    if let Some(name) = expression.names().iter().find(|name| !Self::is_constant(name)) {
                        let hint = "here stand only vars, env and target: it is read before the test begins";
                        sink.add_with_hint(span, format!("`{name}` is not known here"), hint);
                        return None;
                    }
                    if expression.draws() {
                        sink.add(span, "a random value cannot stand here: it is read before the test begins");
                        return None;
                    }
                    self.evaluate(&expression, span, sink)?
                }
            });
        }
        Some(match <[Value; 1]>::try_from(values) {
            Ok([value]) => value,
            Err(values) => values.iter().map(text_of).collect::<String>().into(),
        })
    }

    /// A quantity whose holes are constants.
    pub(super) fn quantity<U: Unit>(&self, quantity: &Quantity<U>, sink: &mut Sink) -> Option<U::Value> {
        let text = self.text(&quantity.text, sink)?;
        match U::parse(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                let written = &quantity.text.value;
                let var = written.trim().strip_prefix("${vars.").and_then(|rest| rest.strip_suffix('}'));
                match var.and_then(|var| self.places.get(var.trim())) {
                    // The mistake stands where the var is declared.
                    Some(place) => {
                        let hint = format!("{}: it is used as `{written}`", U::EXAMPLE);
                        sink.add_with_hint(*place, message, hint);
                    }
                    None if written.contains("${") => {
                        let message = format!("{message} (from `{written}`)");
                        sink.add_with_hint(quantity.text.span, message, U::EXAMPLE);
                    }
                    None => sink.add_with_hint(quantity.text.span, message, U::EXAMPLE),
                }
                None
            }
        }
    }

    /// A value whose holes are constants.
    pub(super) fn json(&self, node: &Node, sink: &mut Sink) -> Option<Json> {
        match &node.value {
            NodeValue::Scalar { text, plain } if text.contains("${") => {
                let text = Text { value: text.to_string(), span: node.span, plain: *plain };
                let value = self.whole(&text, sink)?;
                serde_json::to_value(&value).ok()
            }
            NodeValue::Scalar { .. } => scalar(node, sink),
            NodeValue::List(items) => {
                items.iter().map(|item| self.json(item, sink)).collect::<Option<_>>().map(Json::Array)
            }
            NodeValue::Map(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| Some((key.text.to_string(), self.json(value, sink)?)));
                entries.collect::<Option<_>>().map(Json::Object)
            }
        }
    }
}

/// A scalar by YAML's core rules, but only `true` and `false` are booleans, and a number with leading
/// zeros is refused: it is more often a phone number than a number.
pub(super) fn scalar(node: &Node, sink: &mut Sink) -> Option<Json> {
    let NodeValue::Scalar { text, plain } = &node.value else { return None };
    if !plain {
        return Some(Json::String(text.to_string()));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        sink.add_with_hint(
            node.span,
            format!("is `{text}` a number or a text?"),
            format!("write \"{text}\" for the text, or drop the zeros"),
        );
        return None;
    }
    Some(plain_value(text))
}

fn plain_value(text: &str) -> Json {
    match text {
        "" | "~" | "null" => Json::Null,
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        text => match serde_json::from_str::<Json>(text) {
            Ok(number @ Json::Number(_)) => number,
            _ => Json::String(text.to_owned()),
        },
    }
}

/// The members of an object that an expression names: `size` in `vars.size`.
pub(super) fn members<'a>(text: &'a str, object: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(object) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | '\'')) {
            continue;
        }
        if let Some(rest) = text[at + object.len()..].strip_prefix('.') {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            if end > 0 {
                found.push(&rest[..end]);
            }
        }
    }
    found
}

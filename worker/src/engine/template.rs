//! Texts with holes, ready to fill in.

use std::sync::Arc;

use loadgrid_common::expression::{
    DrawsObject, EvalError, Expression, ExpressionError, Value, json_of, text_of,
};
use loadgrid_common::plan::{self, Encoding};

/// A compiled template.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Lookup { slot: usize, path: Vec<String>, encoding: Encoding },
    Expression { expression: Expression, encoding: Encoding },
}

/// Where values come from while a template is filled in.
pub(super) trait Values {
    /// The value of a slot, where it has one.
    fn slot(&self, slot: usize) -> Option<Value>;
    /// The slot of a name.
    fn slot_of(&self, name: &str) -> Option<usize>;
    /// The name of a slot.
    fn name_of(&self, slot: usize) -> &str;
    /// The source of randomness.
    fn draws(&self) -> &Arc<DrawsObject>;
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// Where an expression cannot be compiled.
    pub(super) fn compile(template: &plan::Template) -> Result<Self, ExpressionError> {
        Self::compile_for(template, &[])
    }

    /// As [`Self::compile`], for a template that names its variables: `slots` are those of one type of user.
    ///
    /// # Errors
    /// Where an expression cannot be compiled.
    pub(super) fn compile_for(template: &plan::Template, slots: &[String]) -> Result<Self, ExpressionError> {
        let mut parts = Vec::with_capacity(template.parts.len());
        for part in &template.parts {
            parts.push(match &part.part {
                None => continue,
                Some(plan::part::Part::Literal(text)) => Part::Literal(text.clone()),
                Some(plan::part::Part::Hole(hole)) => {
                    let encoding = hole.encoding();
                    match &hole.source {
                        None => continue,
                        Some(plan::hole::Source::Lookup(lookup)) => {
                            let slot = match lookup.name.as_str() {
                                "" => lookup.slot as usize,
                                // A type without that variable has no value there, ever.
                                name => slots.iter().position(|slot| slot == name).unwrap_or(usize::MAX),
                            };
                            Part::Lookup { slot, path: lookup.path.clone(), encoding }
                        }
                        Some(plan::hole::Source::Expression(text)) => {
                            Part::Expression { expression: Expression::compile(text)?, encoding }
                        }
                    }
                }
            });
        }
        Ok(Self { parts })
    }

    /// The text, where there is no hole in it.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text to `out`.
    ///
    /// # Errors
    /// Where a value is missing or an expression fails.
    pub(super) fn render(&self, values: &impl Values, out: &mut String) -> Result<(), EvalError> {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Lookup { slot, path, encoding } => {
                    encode(&look_up(*slot, path, values)?, *encoding, out)
                }
                Part::Expression { expression, encoding } => {
                    encode(&evaluate(expression, values)?, *encoding, out)
                }
            }
        }
        Ok(())
    }
}

/// Evaluates an expression with a user's values.
///
/// # Errors
/// Where it fails.
pub(super) fn evaluate(expression: &Expression, values: &impl Values) -> Result<Value, EvalError> {
    expression.evaluate(|name| values.slot(values.slot_of(name)?), values.draws())
}

fn look_up(slot: usize, path: &[String], values: &impl Values) -> Result<Value, EvalError> {
    let missing = |message: &str| {
        let mut expression = values.name_of(slot).to_owned();
        path.iter().for_each(|key| {
            expression.push('.');
            expression.push_str(key);
        });
        EvalError { expression, message: message.to_owned() }
    };
    let mut value = values.slot(slot).ok_or_else(|| missing("has no value"))?;
    for key in path {
        value = value
            .get_attr(key)
            .ok()
            .filter(|value| !value.is_undefined())
            .ok_or_else(|| missing("has no value"))?;
    }
    Ok(value)
}

fn encode(value: &Value, encoding: Encoding, out: &mut String) {
    match encoding {
        Encoding::Text => out.push_str(&text_of(value)),
        Encoding::JsonValue => out.push_str(&json_of(value)),
        Encoding::JsonString => {
            let quoted = json_of(&Value::from(text_of(value).into_owned()));
            out.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
        }
        Encoding::Url => out.extend(url::form_urlencoded::byte_serialize(text_of(value).as_bytes())),
    }
}

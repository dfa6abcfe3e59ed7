//! One compiled expression, and what it may name.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{Object, Value};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};

use crate::random::{Draws, mix};

/// Functions that draw: the same values for the same seed, user, iteration and step.
const RANDOM: &[&str] = &["int", "uuid", "pick", "zipf"];
/// Functions that look at the clock.
const CLOCK: &[&str] = &["now_ms", "date"];
/// Functions of their arguments alone.
const PURE: &[&str] = &["base64", "sha256", "hmac_sha256", "json", "urlencode"];

/// Functions of the scenario format that this version does not have yet.
pub const LATER_FUNCTIONS: &[&str] = &["canary", "stamp"];

/// The functions that expressions may call.
pub fn known_functions() -> impl Iterator<Item = &'static str> + Clone {
    RANDOM.iter().chain(CLOCK).chain(PURE).copied()
}

/// Steps an expression may take before it is stopped.
const FUEL: u64 = 100_000;

/// The name under which the source of randomness stands in an expression's context.
const DRAWS: &str = "__draws";

/// The engine. Never changes after it is built, so all threads share one.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    for global in ["range", "dict", "debug", "namespace"] {
        engine.remove_global(global);
    }
    engine.add_function("int", |state: &State<'_, '_>, low: i64, high: i64| {
        if low > high {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("int({low}, {high}): the range is empty"),
            ));
        }
        draws(state)?.with(|draws| draws.between(low, high))
    });
    engine.add_function("uuid", |state: &State<'_, '_>| draws(state)?.uuid());
    super::functions::add(&mut engine);
    engine
});

/// An expression, ready to evaluate.
#[derive(Debug)]
pub struct Expression {
    text: String,
    names: Vec<String>,
    draws: bool,
    reads_clock: bool,
    compiled: minijinja::Expression<'static, 'static>,
}

/// What is wrong with an expression as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is no expression.
    #[error("{message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// It calls a function that a later version will have.
    #[error("the function `{name}` is not supported yet")]
    LaterFunction {
        /// The function.
        name: String,
    },
    /// It uses a filter that does not exist.
    #[error("unknown filter `{name}`")]
    UnknownFilter {
        /// The filter.
        name: String,
    },
    /// It is empty.
    #[error("there is nothing between `${{` and `}}`")]
    Empty,
}

/// Why an expression failed while the test ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{expression}`: {message}")]
pub struct EvalError {
    /// The expression.
    pub expression: String,
    /// What went wrong.
    pub message: String,
}

/// A name, or a name and keys into its value: needs no engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simple {
    /// The variable.
    pub name: String,
    /// Keys into it.
    pub path: Vec<String>,
}

impl Expression {
    /// Compiles an expression and checks functions and filters. Names are for the caller to check.
    ///
    /// # Errors
    /// Where it is no expression or uses what does not exist.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        if text.trim().is_empty() {
            return Err(ExpressionError::Empty);
        }
        for name in words_after_pipes(text) {
            if !exists("filter", name) {
                return Err(ExpressionError::UnknownFilter { name: name.to_owned() });
            }
        }
        let compiled = ENGINE.compile_expression_owned(text.to_owned()).map_err(|error| {
            let message = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
            ExpressionError::Syntax { message: format!("`{text}` is not an expression: {message}") }
        })?;
        let names: BTreeSet<String> = compiled.undeclared_variables(false).into_iter().collect();
        if let Some(name) = names.iter().find(|name| LATER_FUNCTIONS.contains(&name.as_str())) {
            return Err(ExpressionError::LaterFunction { name: name.clone() });
        }
        let calls = |list: &[&str]| names.iter().any(|name| list.contains(&name.as_str()));
        let (draws, reads_clock) = (calls(RANDOM), calls(CLOCK));
        let names = names.into_iter().filter(|name| !known_functions().any(|known| known == name)).collect();
        Ok(Self { text: text.to_owned(), names, draws, reads_clock, compiled })
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The variables it names, sorted.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it calls a function that draws random values.
    #[must_use]
    pub const fn draws(&self) -> bool {
        self.draws
    }

    /// Whether its value follows from its names alone: it neither draws nor looks at the clock.
    #[must_use]
    pub const fn is_pure(&self) -> bool {
        !self.draws && !self.reads_clock
    }

    /// The look-up it is, where it is nothing more.
    #[must_use]
    pub fn simple(&self) -> Option<Simple> {
        let mut words = self.text.split('.').map(str::trim);
        let is_name = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let name = words.next().filter(|word| is_name(word) && self.names.iter().any(|name| name == word))?;
        let path: Option<Vec<String>> = words.map(|word| is_name(word).then(|| word.to_owned())).collect();
        Some(Simple { name: name.to_owned(), path: path? })
    }

    /// Evaluates with the given values of its names and source of randomness.
    ///
    /// # Errors
    /// Where a name has no value, a type does not fit or the expression runs too long.
    pub fn evaluate(
        &self,
        value_of: impl Fn(&str) -> Option<Value>,
        draws: &std::sync::Arc<DrawsObject>,
    ) -> Result<Value, EvalError> {
        let fail = |message: String| EvalError { expression: self.text.clone(), message };
        let values = self.names.iter().filter_map(|name| Some((name.clone(), value_of(name)?)));
        let context = values.chain([(DRAWS.to_owned(), Value::from_dyn_object(draws.clone()))]);
        let value = self.compiled.eval(Value::from_pairs(context)).map_err(|error| {
            fail(
                error
                    .detail()
                    .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind())),
            )
        })?;
        if value.is_undefined() { Err(fail("has no value".to_owned())) } else { Ok(value) }
    }
}

/// The source of randomness of one virtual user: reset for each step, advanced by each draw.
#[derive(Debug, Default)]
pub struct DrawsObject {
    key: AtomicU64,
    next: AtomicU64,
    run: AtomicU64,
}

impl Object for DrawsObject {}

impl DrawsObject {
    /// Begins the stream for `keys`, in the run with hash `run`.
    pub fn begin(&self, keys: &[u64], run: u64) {
        self.key.store(keys.iter().fold(0, |key, &next| mix(key, next)), Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.run.store(run, Ordering::Relaxed);
    }

    pub(super) fn with<T>(&self, draw: impl Fn(&mut Draws) -> T) -> Result<T, Error> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(draw(&mut Draws::keyed(&[self.key.load(Ordering::Relaxed), place])))
    }

    /// A version-4 identifier that also depends on the run: idempotency keys of a second run must differ.
    fn uuid(&self) -> Result<String, Error> {
        let run = self.run.load(Ordering::Relaxed);
        let (high, low) = self.with(|draws| (mix(draws.bits(), run), mix(draws.bits(), !run)))?;
        let high = (high & !0xF000) | 0x4000;
        let low = (low & !(0b11 << 62)) | (0b10 << 62);
        Ok(format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xFFFF,
            high & 0xFFFF,
            low >> 48,
            low & 0xFFFF_FFFF_FFFF
        ))
    }
}

/// A JSON value as expressions see it.
#[must_use]
pub fn from_json(json: &serde_json::Value) -> Value {
    // Every JSON value is a value of the engine, so this cannot fail; undefined would be found at its use.
    serde::Deserialize::deserialize(json).unwrap_or(Value::UNDEFINED)
}

/// A value as text: as JSON writes it, but a string without its quotes.
#[must_use]
pub fn text_of(value: &Value) -> std::borrow::Cow<'_, str> {
    match value.as_str() {
        Some(text) => text.into(),
        None if value.is_number() => value.to_string().into(),
        None => json_of(value).into(),
    }
}

/// A value as JSON text.
#[must_use]
pub fn json_of(value: &Value) -> String {
    // What JSON has no word for (an undefined value, say) is null.
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

pub(super) fn draws(state: &State<'_, '_>) -> Result<std::sync::Arc<DrawsObject>, Error> {
    state
        .lookup(DRAWS)
        .and_then(|value| value.downcast_object::<DrawsObject>())
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "a random value cannot be drawn here"))
}

fn exists(kind: &str, name: &str) -> bool {
    let question = format!("'{name}' is {kind}");
    ENGINE.compile_expression(&question).and_then(|e| e.eval(())).is_ok_and(|value| value.is_true())
}

/// The words after `|`, outside of quotes.
fn words_after_pipes(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '|') => {
                let rest = text[at + 1..].trim_start();
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                if end > 0 {
                    words.push(&rest[..end]);
                }
            }
            (None, _) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn evaluate(text: &str, values: &[(&str, Value)]) -> Result<String, String> {
        let expression = Expression::compile(text).map_err(|e| e.to_string())?;
        let draws = Arc::new(DrawsObject::default());
        draws.begin(&[1, 2, 3], 9);
        let value_of = |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
        expression.evaluate(value_of, &draws).map(|value| value.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn expressions_evaluate_and_complain() {
        let user = [("user", from_json(&serde_json::json!({"index": 7})))];
        assert_eq!(evaluate("user.index + 1", &user), Ok("8".to_owned()));
        assert_eq!(evaluate("order | default('none')", &user), Ok("none".to_owned()));
        assert_eq!(evaluate("order is defined", &user), Ok("False".to_owned()));
        assert!(evaluate("user.age", &user).unwrap_err().contains("no value"));
        assert!(evaluate("user | shout", &user).unwrap_err().contains("unknown filter `shout`"));
        assert!(evaluate("canary()", &user).unwrap_err().contains("not supported yet"));
        assert!(evaluate("1 +", &user).unwrap_err().contains("not an expression"));
        assert!(evaluate("", &user).is_err());
        assert!(evaluate("int(3, 1)", &user).unwrap_err().contains("empty"));
    }

    #[test]
    fn values_are_written_as_json_writes_them() {
        let show = |json| text_of(&from_json(&json)).into_owned();
        assert_eq!(show(serde_json::json!(true)), "true");
        assert_eq!(show(serde_json::json!(null)), "null");
        assert_eq!(show(serde_json::json!("a b")), "a b");
        assert_eq!(show(serde_json::json!([1, "x", {"k": 2.5}])), r#"[1,"x",{"k":2.5}]"#);
        assert_eq!(show(serde_json::json!(7)), "7");
    }

    #[test]
    fn draws_repeat_and_names_are_found() {
        assert_eq!(evaluate("int(1, 1000000)", &[]), evaluate("int(1, 1000000)", &[]));
        assert_ne!(evaluate("[uuid(), uuid()]|first", &[]), evaluate("[uuid(), uuid()]|last", &[]));
        let uuid = evaluate("uuid()", &[]).unwrap();
        assert!(uuid.len() == 36 && uuid.as_bytes()[14] == b'4', "{uuid}");
        let expression = Expression::compile("a.b + int(1, c) if d else 'x|y'").unwrap();
        assert_eq!(expression.names(), ["a", "c", "d"]);
        assert!(expression.draws() && expression.simple().is_none());
        let simple = Expression::compile("account.email").unwrap().simple().unwrap();
        assert_eq!(
            (simple.name.as_str(), simple.path.as_slice()),
            ("account", ["email".to_owned()].as_slice())
        );
        assert!(Expression::compile("true").unwrap().simple().is_none());
        assert!(Expression::compile("int").is_ok_and(|e| e.simple().is_none()));
    }
}

//! A plan compiled: flat lists of operations with jumps, so that a virtual user is one loop and needs no
//! recursion; expressions, paths and patterns are compiled once for all users.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use loadgrid_common::expression::{Expression, ExpressionError, Value, from_json};
use loadgrid_common::plan::{self, Plan};

use super::table::{Table, TableError};
use super::template::Template;

/// A compiled plan.
#[derive(Debug)]
pub struct Program {
    pub(super) plan: Plan,
    pub(super) users: Vec<UserProgram>,
    pub(super) sources: Vec<Source>,
    pub(super) headers: Vec<(http::HeaderName, Template)>,
    pub(super) settings: Settings,
    pub(super) constants: Constants,
}

/// Settings of all requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) redirects: u32,
    pub(super) cookies: bool,
    pub(super) max_body: u64,
}

/// Values that no user changes.
#[derive(Debug)]
pub(super) struct Constants {
    pub(super) vars: Value,
    pub(super) env: Value,
    pub(super) target: url::Url,
    pub(super) target_text: String,
}

/// One type of user.
#[derive(Debug)]
pub(super) struct UserProgram {
    pub(super) slots: Vec<String>,
    pub(super) bindings: Vec<plan::Binding>,
    pub(super) start: Vec<Op>,
    pub(super) body: Vec<Op>,
    pub(super) stop: Vec<Op>,
}

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    Table(Arc<Table>),
    Generated { columns: Vec<(String, Template)> },
}

/// One operation. Jumps name the index of the next operation.
#[derive(Debug)]
pub(super) enum Op {
    Http(Box<HttpOp>),
    Think(ThinkTime),
    Jump(usize),
    JumpUnless {
        condition: Expression,
        to: usize,
    },
    /// Branches as (end of its share of the weights, first operation).
    Choose {
        total: u64,
        branches: Vec<(u64, usize)>,
    },
    ActionBegin(u32),
    ActionEnd,
    RepeatBegin {
        max: u64,
        end: usize,
    },
    RepeatEnd {
        max: u64,
        every: Duration,
        until: Option<Expression>,
        body: usize,
    },
    Set(Vec<(usize, Template)>),
    Headers(Vec<(http::HeaderName, Template)>),
    Count(Vec<(u32, Template)>),
    End(plan::End),
}

/// A request and what is done with its answer.
#[derive(Debug)]
pub(super) struct HttpOp {
    pub(super) step: u32,
    pub(super) method: http::Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(http::HeaderName, Template)>,
    pub(super) body: Option<(http::HeaderValue, Template)>,
    pub(super) expect: Expect,
    pub(super) captures: Vec<Capture>,
    pub(super) required: bool,
    pub(super) redirects: u32,
    pub(super) timeout: Duration,
    /// Whether a check or a capture reads the body as JSON.
    pub(super) reads_json: bool,
}

/// An address, parsed already where it has no holes.
#[derive(Debug)]
pub(super) enum Url {
    Fixed(url::Url),
    Template(Template),
}

/// What a good answer is.
#[derive(Debug)]
pub(super) struct Expect {
    pub(super) status: Vec<(u16, u16)>,
    pub(super) status_check: u32,
    pub(super) within: Option<(Duration, u32)>,
    pub(super) json: Vec<JsonCheck>,
}

#[derive(Debug)]
pub(super) struct JsonCheck {
    pub(super) path: serde_json_path::JsonPath,
    pub(super) check: u32,
    pub(super) condition: JsonCondition,
}

#[derive(Debug)]
pub(super) enum JsonCondition {
    Exists(bool),
    Matches(regex::Regex),
    Equals(Template),
}

/// A value of an answer that becomes a variable.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) slot: usize,
    pub(super) optional: bool,
    pub(super) from: CaptureFrom,
}

#[derive(Debug)]
pub(super) enum CaptureFrom {
    Json(serde_json_path::JsonPath),
    Header(http::HeaderName),
    Cookie(String),
}

/// A pause.
#[derive(Clone, Copy, Debug)]
pub(super) enum ThinkTime {
    Constant(Duration),
    Between(Duration, Duration),
    LogNormal { mu: f64, sigma: f64, max_ns: u64 },
    Exponential { mean: Duration },
}

/// Why a plan cannot be compiled. A plan was validated where it was made, so this means that the two
/// sides understand it differently.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// An expression.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// A table of data.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Anything else.
    #[error("the plan's {what} cannot be used")]
    Part {
        /// Which part.
        what: &'static str,
    },
}

const fn part(what: &'static str) -> CompileError {
    CompileError::Part { what }
}

impl Program {
    /// Compiles a plan; `tables` are its tables by hash.
    ///
    /// # Errors
    /// Where a part of it cannot be used.
    pub fn compile(plan: Plan, tables: &HashMap<String, Arc<Table>>) -> Result<Self, CompileError> {
        let http = plan.http.clone().unwrap_or_default();
        let target = url::Url::parse(&plan.target).map_err(|_| part("target"))?;
        let settings = Settings {
            connect_timeout: Duration::from_nanos(http.connect_timeout_ns),
            response_timeout: Duration::from_nanos(http.response_timeout_ns),
            redirects: http.redirects,
            cookies: http.cookies,
            max_body: http.max_body_bytes,
        };
        let json: serde_json::Value = serde_json::from_str(&plan.constants_json).unwrap_or_default();
        let constants = Constants {
            vars: from_json(&json["vars"]),
            env: from_json(&json["env"]),
            target: target.clone(),
            target_text: plan.target.clone(),
        };
        let mut sources = Vec::new();
        for source in &plan.sources {
            sources.push(match source.kind.as_ref().ok_or(part("data source"))? {
                plan::source::Kind::TableHash(hash) => {
                    Source::Table(tables.get(hash).ok_or(part("data table"))?.clone())
                }
                plan::source::Kind::Generated(generated) => {
                    let columns =
                        generated.columns.iter().map(Template::compile).collect::<Result<Vec<_>, _>>()?;
                    Source::Generated { columns: source.columns.iter().cloned().zip(columns).collect() }
                }
            });
        }
        let mut users = Vec::new();
        for user in &plan.users {
            let compile = |steps: &[plan::Step]| {
                let mut compiler = Compiler { target: &constants.target, settings, ops: Vec::new() };
                compiler.steps(steps).map(|()| compiler.ops)
            };
            users.push(UserProgram {
                slots: user.slots.clone(),
                bindings: user.bindings.clone(),
                start: compile(&user.start)?,
                body: compile(&user.body)?,
                stop: compile(&user.stop)?,
            });
        }
        let headers = headers(&http.headers)?;
        Ok(Self { plan, users, sources, headers, settings, constants })
    }

    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long a connection may take to stand.
    #[must_use]
    pub const fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }
}

fn headers(headers: &[plan::Header]) -> Result<Vec<(http::HeaderName, Template)>, CompileError> {
    headers
        .iter()
        .map(|header| {
            let name =
                http::HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| part("header name"))?;
            Ok((name, template(header.value.as_ref())?))
        })
        .collect()
}

fn template(template: Option<&plan::Template>) -> Result<Template, CompileError> {
    Ok(Template::compile(template.ok_or(part("template"))?)?)
}

struct Compiler<'a> {
    target: &'a url::Url,
    settings: Settings,
    ops: Vec<Op>,
}

impl Compiler<'_> {
    fn steps(&mut self, steps: &[plan::Step]) -> Result<(), CompileError> {
        steps.iter().try_for_each(|step| self.step(step.step.as_ref().ok_or(part("step"))?))
    }

    fn step(&mut self, step: &plan::step::Step) -> Result<(), CompileError> {
        use plan::step::Step;
        match step {
            Step::Http(step) => {
                let op = self.http(step)?;
                self.ops.push(Op::Http(Box::new(op)));
            }
            Step::Choose(choose) => self.choose(choose)?,
            Step::If(step) => {
                let at = self.ops.len();
                self.ops.push(Op::JumpUnless { condition: Expression::compile(&step.condition)?, to: 0 });
                self.steps(&step.then)?;
                let over = self.ops.len();
                self.ops.push(Op::Jump(0));
                let otherwise = self.ops.len();
                self.steps(&step.otherwise)?;
                let end = self.ops.len();
                if let Op::JumpUnless { to, .. } = &mut self.ops[at] {
                    *to = otherwise;
                }
                self.ops[over] = Op::Jump(end);
            }
            Step::Repeat(step) => {
                let at = self.ops.len();
                self.ops.push(Op::RepeatBegin { max: step.max, end: 0 });
                let body = self.ops.len();
                self.steps(&step.steps)?;
                let until =
                    if step.until.is_empty() { None } else { Some(Expression::compile(&step.until)?) };
                self.ops.push(Op::RepeatEnd {
                    max: step.max,
                    every: Duration::from_nanos(step.every_ns),
                    until,
                    body,
                });
                let end = self.ops.len();
                self.ops[at] = Op::RepeatBegin { max: step.max, end };
            }
            Step::Think(think) => {
                let time = think_time(think.time.as_ref().ok_or(part("think time"))?);
                self.ops.push(Op::Think(time));
            }
            Step::Set(set) => {
                let values =
                    set.values.iter().map(|value| Ok((value.slot as usize, template(value.value.as_ref())?)));
                let values = values.collect::<Result<_, CompileError>>()?;
                self.ops.push(Op::Set(values));
            }
            Step::Headers(step) => self.ops.push(Op::Headers(headers(&step.headers)?)),
            Step::Count(count) => {
                let counters = count.counters.iter().map(|c| Ok((c.counter, template(c.amount.as_ref())?)));
                let counters = counters.collect::<Result<_, CompileError>>()?;
                self.ops.push(Op::Count(counters));
            }
            Step::End(end) => {
                let end = plan::End::try_from(*end).map_err(|_| part("end"))?;
                self.ops.push(Op::End(end));
            }
        }
        Ok(())
    }

    fn choose(&mut self, choose: &plan::Choose) -> Result<(), CompileError> {
        let at = self.ops.len();
        self.ops.push(Op::Jump(0));
        let (mut total, mut branches, mut exits) = (0, Vec::new(), Vec::new());
        for branch in &choose.branches {
            total += u64::from(branch.weight);
            branches.push((total, self.ops.len()));
            if let Some(action) = branch.action.checked_sub(1) {
                self.ops.push(Op::ActionBegin(action));
            }
            self.steps(&branch.steps)?;
            if branch.action > 0 {
                self.ops.push(Op::ActionEnd);
            }
            exits.push(self.ops.len());
            self.ops.push(Op::Jump(0));
        }
        let end = self.ops.len();
        for exit in exits {
            self.ops[exit] = Op::Jump(end);
        }
        self.ops[at] = if total > 0 { Op::Choose { total, branches } } else { Op::Jump(end) };
        Ok(())
    }

    fn http(&self, step: &plan::HttpStep) -> Result<HttpOp, CompileError> {
        let url = template(step.url.as_ref())?;
        let url = match url.constant() {
            Some(text) => Url::Fixed(address(self.target, text).ok_or(part("url"))?),
            None => Url::Template(url),
        };
        let body = if step.has_body {
            let content_type =
                http::HeaderValue::from_str(&step.content_type).map_err(|_| part("content type"))?;
            Some((content_type, template(step.body.as_ref())?))
        } else {
            None
        };
        let expect = expect(step.expect.as_ref())?;
        let captures = step.captures.iter().map(capture).collect::<Result<Vec<_>, _>>()?;
        let reads_json = !expect.json.is_empty()
            || captures.iter().any(|capture| matches!(capture.from, CaptureFrom::Json(_)));
        Ok(HttpOp {
            step: step.step,
            method: http::Method::from_bytes(step.method.as_bytes()).map_err(|_| part("method"))?,
            url,
            headers: headers(&step.headers)?,
            body,
            expect,
            captures,
            required: step.required,
            redirects: step.redirects.unwrap_or(self.settings.redirects),
            timeout: step.timeout_ns.map_or(self.settings.response_timeout, Duration::from_nanos),
            reads_json,
        })
    }
}

/// A whole address, or a path below the target.
pub(super) fn address(target: &url::Url, text: &str) -> Option<url::Url> {
    let text = text.trim();
    if text.contains("://") {
        return url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    }
    let base = target.as_str().trim_end_matches('/');
    url::Url::parse(&format!("{base}{text}")).ok()
}

fn expect(expect: Option<&plan::Expect>) -> Result<Expect, CompileError> {
    let expect = expect.ok_or(part("expectation"))?;
    let status = |status: u32| u16::try_from(status).map_err(|_| part("status"));
    let ranges = expect.status.iter().map(|range| Ok((status(range.first)?, status(range.last)?)));
    let json = expect.json.iter().map(|check| {
        let condition = match check.condition.as_ref().ok_or(part("condition"))? {
            plan::json_check::Condition::Exists(exists) => JsonCondition::Exists(*exists),
            plan::json_check::Condition::Matches(pattern) => {
                JsonCondition::Matches(regex::Regex::new(pattern).map_err(|_| part("pattern"))?)
            }
            plan::json_check::Condition::EqualsJson(value) => {
                JsonCondition::Equals(Template::compile(value)?)
            }
        };
        Ok(JsonCheck { path: json_path(&check.path)?, check: check.check, condition })
    });
    Ok(Expect {
        status: ranges.collect::<Result<_, CompileError>>()?,
        status_check: expect.status_check,
        within: expect.within_ns.map(|ns| (Duration::from_nanos(ns), expect.within_check)),
        json: json.collect::<Result<_, CompileError>>()?,
    })
}

fn json_path(text: &str) -> Result<serde_json_path::JsonPath, CompileError> {
    serde_json_path::JsonPath::parse(text).map_err(|_| part("JSONPath"))
}

fn capture(capture: &plan::Capture) -> Result<Capture, CompileError> {
    let from = match capture.from.as_ref().ok_or(part("capture"))? {
        plan::capture::From::JsonPath(path) => CaptureFrom::Json(json_path(path)?),
        plan::capture::From::Header(name) => CaptureFrom::Header(
            http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| part("header name"))?,
        ),
        plan::capture::From::Cookie(name) => CaptureFrom::Cookie(name.clone()),
    };
    Ok(Capture { slot: capture.slot as usize, optional: capture.optional, from })
}

fn think_time(time: &plan::think::Time) -> ThinkTime {
    use plan::think::Time;
    match time {
        Time::ConstantNs(ns) => ThinkTime::Constant(Duration::from_nanos(*ns)),
        Time::Between(ends) => {
            ThinkTime::Between(Duration::from_nanos(ends.min_ns), Duration::from_nanos(ends.max_ns))
        }
        Time::LogNormal(shape) => {
            // The 95th percentile of a standard normal distribution is 1.644854.
            let mu = (shape.median_ns as f64).max(1.0).ln();
            let sigma = ((shape.p95_ns as f64).max(1.0).ln() - mu) / 1.644_854;
            ThinkTime::LogNormal { mu, sigma, max_ns: shape.max_ns }
        }
        Time::ExponentialMeanNs(ns) => ThinkTime::Exponential { mean: Duration::from_nanos(*ns) },
    }
}

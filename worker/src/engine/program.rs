//! A plan compiled: flat lists of operations with jumps, so that a virtual user is one loop and needs no
//! recursion; expressions, paths and patterns are compiled once for all users.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use loadgrid_common::expression::{Expression, ExpressionError, Value, from_json};
use loadgrid_common::plan::{self, Plan};
use loadgrid_common::random::Draws;

use super::cap::CapOp;
use super::step::{Auth, HttpOp, auth, headers, http_step};
use super::table::{Table, TableError};
use super::template::Template;
use super::user::Identity;
use crate::client::{ClientOptions, TlsOptions};

/// A compiled plan.
#[derive(Debug)]
pub struct Program {
    pub(super) plan: Plan,
    pub(super) users: Vec<UserProgram>,
    pub(super) sources: Vec<Source>,
    pub(super) settings: Settings,
    pub(super) constants: Constants,
    /// Limit on all requests.
    pub(super) cap: Option<CapOp>,
    pub(super) blobs: Blobs,
}

/// Files that travel with the plan, by hash.
pub type Blobs = HashMap<String, Bytes>;

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
    /// Whether a row changes from iteration to iteration.
    pub(super) rebinds: bool,
    /// The counters that its steps add to.
    pub(super) counters: Vec<u32>,
    /// Headers of all its requests.
    pub(super) headers: Vec<(http::HeaderName, Template)>,
    /// Credentials of all its requests.
    pub(super) auth: Option<Auth>,
    pub(super) start: Vec<Op>,
    pub(super) body: Vec<Op>,
    pub(super) stop: Vec<Op>,
}

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The table holds only columns that somebody uses: none, perhaps, so it does not know how many rows there are.
    Table {
        rows: u64,
        table: Arc<Table>,
    },
    Generated {
        rows: u64,
        columns: Vec<(String, Template)>,
    },
}

impl Source {
    /// How many rows there are.
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Table { rows, .. } | Self::Generated { rows, .. } => *rows,
        }
    }
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
    Observe(Vec<(u32, Template)>),
    GroupBegin(u32),
    GroupEnd,
    End(plan::End),
}

/// A pause.
#[derive(Clone, Copy, Debug)]
pub(super) enum ThinkTime {
    Constant(Duration),
    Between(Duration, Duration),
    LogNormal { mu: f64, sigma: f64, max_ns: u64 },
    Exponential { mean: Duration },
}

/// Why there is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutOfRows {
    /// The scenario says that the user ends then.
    StopUser,
    /// The scenario says that this is a mistake.
    Fail,
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

pub(super) const fn part(what: &'static str) -> CompileError {
    CompileError::Part { what }
}

impl Program {
    /// Compiles a plan; `tables` are its tables by [`Table::key`], `blobs` its files by hash.
    ///
    /// # Errors
    /// Where a part of it cannot be used.
    pub fn compile(
        plan: Plan,
        tables: &HashMap<String, Arc<Table>>,
        blobs: Blobs,
    ) -> Result<Self, CompileError> {
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
                    let key = Table::key(hash, &source.weight_column);
                    Source::Table {
                        rows: source.rows,
                        table: tables.get(&key).ok_or(part("data table"))?.clone(),
                    }
                }
                plan::source::Kind::Generated(generated) => {
                    let columns =
                        generated.columns.iter().map(Template::compile).collect::<Result<Vec<_>, _>>()?;
                    let columns = source.columns.iter().cloned().zip(columns).collect();
                    Source::Generated { rows: source.rows, columns }
                }
            });
        }
        let mut users = Vec::new();
        for user in &plan.users {
            let compile = |steps: &[plan::Step]| {
                let target = &constants.target;
                let mut compiler = Compiler { target, settings, blobs: &blobs, ops: Vec::new() };
                compiler.steps(steps).map(|()| compiler.ops)
            };
            let (start, body, stop) = (compile(&user.start)?, compile(&user.body)?, compile(&user.stop)?);
            users.push(UserProgram {
                counters: counters_of([&start, &body, &stop]),
                headers: headers(&http.headers, &user.slots)?,
                auth: http.auth.as_ref().map(|common| auth(common, &user.slots)).transpose()?,
                slots: user.slots.clone(),
                bindings: user.bindings.clone(),
                rebinds: user.bindings.iter().any(|binding| binding.pick() != plan::Pick::Unique),
                start,
                body,
                stop,
            });
        }
        let cap = http.cap.as_ref().map(CapOp::of);
        Ok(Self { plan, users, sources, settings, constants, cap, blobs })
    }

    /// A row's number for a user and a pass, or why there is none.
    pub(super) fn row(
        &self,
        binding: &plan::Binding,
        identity: &Identity,
        sequence: u64,
        draws: impl FnOnce() -> Draws,
    ) -> Result<u64, OutOfRows> {
        let Some(source) = self.sources.get(binding.source as usize) else { return Err(OutOfRows::Fail) };
        let rows = source.rows().max(1);
        let place = match binding.pick() {
            plan::Pick::Random => {
                let mut draws = draws();
                return Ok(match source {
                    Source::Table { table, .. } if table.is_weighted() => table.weighted(draws.unit()),
                    Source::Table { .. } | Source::Generated { .. } => draws.below(rows),
                });
            }
            plan::Pick::Unique => binding.offset + identity.index,
            plan::Pick::Sequential => sequence,
        };
        match binding.exhausted() {
            _ if place < rows => Ok(place),
            plan::Exhausted::Recycle => Ok(place % rows),
            plan::Exhausted::StopUser => Err(OutOfRows::StopUser),
            plan::Exhausted::Fail => Err(OutOfRows::Fail),
        }
    }

    /// Whether a user has a row for a pass, or may go on without.
    pub(super) fn has_rows(&self, identity: &Identity, sequence: u64) -> bool {
        let Some(user) = self.users.get(identity.kind) else { return false };
        let bindings = user.bindings.iter().filter(|binding| binding.pick() != plan::Pick::Random);
        let mut rows = bindings.map(|binding| self.row(binding, identity, sequence, || Draws::keyed(&[])));
        rows.all(|row| row != Err(OutOfRows::StopUser))
    }

    /// Whether a user has the rows that are its own for good, or may be without.
    pub(super) fn has_own_rows(&self, identity: &Identity) -> bool {
        let Some(user) = self.users.get(identity.kind) else { return false };
        let mut bindings = user.bindings.iter().filter(|binding| binding.pick() == plan::Pick::Unique);
        bindings
            .all(|binding| self.row(binding, identity, 0, || Draws::keyed(&[])) != Err(OutOfRows::StopUser))
    }

    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The counts of all caps.
    pub(super) fn caps(&self) -> impl Iterator<Item = u64> + '_ {
        let ops = self.users.iter().flat_map(|user| [&user.start, &user.body, &user.stop]).flatten();
        let of_steps = ops.filter_map(|op| match op {
            Op::Http(step) => step.cap.as_ref(),
            _ => None,
        });
        self.cap.iter().chain(of_steps).map(|cap| cap.count)
    }

    /// How clients behave; `secrets` hold the key of the client's certificate, where there is one.
    ///
    /// # Errors
    /// Where a file is missing.
    pub fn client_options(&self, secrets: &HashMap<String, String>) -> Result<ClientOptions, CompileError> {
        let http = self.plan.http.clone().unwrap_or_default();
        let tls = http.tls.clone().unwrap_or_default();
        let blob = |hash: &String| match hash.is_empty() {
            true => Ok(None),
            false => self.blobs.get(hash).cloned().map(Some).ok_or(part("certificate")),
        };
        let identity = match blob(&tls.client_cert)? {
            None => None,
            Some(cert) => {
                let key = secrets.get(&tls.client_key_secret).ok_or(part("client key"))?;
                Some((cert, key.clone()))
            }
        };
        Ok(ClientOptions {
            connect_timeout: self.settings.connect_timeout,
            idle: Duration::from_nanos(http.idle_ns),
            version: http.version(),
            connections: http.connections(),
            shared: http.shared_connections,
            hosts: http.hosts.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect(),
            tls: TlsOptions {
                verify: !tls.unverified,
                ca: blob(&tls.ca)?,
                identity,
                sni: (!tls.sni.is_empty()).then(|| tls.sni.clone()),
            },
        })
    }

    /// How long a connection may take to stand.
    #[must_use]
    pub const fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }
}

/// The counters that some operations add to.
fn counters_of(programs: [&Vec<Op>; 3]) -> Vec<u32> {
    let counts = programs.into_iter().flatten().filter_map(|op| match op {
        Op::Count(counters) => Some(counters.iter().map(|(counter, _)| *counter)),
        _ => None,
    });
    counts.flatten().collect::<std::collections::BTreeSet<u32>>().into_iter().collect()
}

/// Compiles a template that must be there.
pub(super) fn template(template: Option<&plan::Template>) -> Result<Template, CompileError> {
    Ok(Template::compile(template.ok_or(part("template"))?)?)
}

struct Compiler<'a> {
    target: &'a url::Url,
    settings: Settings,
    blobs: &'a Blobs,
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
                let op = http_step(step, self.target, &self.settings, self.blobs)?;
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
            Step::Headers(step) => self.ops.push(Op::Headers(headers(&step.headers, &[])?)),
            Step::Count(count) => {
                let counters = count.counters.iter().map(|c| Ok((c.counter, template(c.amount.as_ref())?)));
                let counters = counters.collect::<Result<_, CompileError>>()?;
                self.ops.push(Op::Count(counters));
            }
            Step::Observe(observe) => {
                let values = observe.values.iter().map(|v| Ok((v.observed, template(v.value.as_ref())?)));
                let values = values.collect::<Result<_, CompileError>>()?;
                self.ops.push(Op::Observe(values));
            }
            Step::Group(group) => {
                self.ops.push(Op::GroupBegin(group.group));
                self.steps(&group.steps)?;
                self.ops.push(Op::GroupEnd);
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

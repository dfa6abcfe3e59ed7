//! A virtual user: its variables, cookies and connections, carrying out a program. What it does for one request
//! stands in `exchange`, what it makes of the answer in `judge`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cookie_store::CookieStore;
use loadgrid_common::expression::{DrawsObject, EvalError, Value, from_json};
use loadgrid_common::plan::{self, slots};
use loadgrid_common::process::now;
use loadgrid_common::random::{Draws, hash_text, mix};
use loadgrid_common::time::Moment;

use super::cap::OwnCaps;
use super::phase::Thread;
use super::program::{Constants, Op, OutOfRows, Source, ThinkTime, UserProgram};
use super::template::{Template, Values, evaluate};
use crate::client::{Answer, ClientError, Connections};
use crate::record::{GroupGuard, LifeGuard};

/// Who a user is, for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// Index of its type in the plan.
    pub(super) kind: usize,
    /// Its number among the users of that type: `user.index`, and its row.
    pub(super) index: u64,
    /// Its number among the users of its load, and how many those are: which rows are its turn.
    pub(super) place: u64,
    /// See above.
    pub(super) users: u64,
    /// The phase of its lives: what is drawn in one phase is not drawn again in the next.
    pub(super) phase: u32,
}

/// What a pass through a program is drawn for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pass {
    /// An arrival of an open load: the same whoever serves it.
    Arrival { load: u64, arrival: u64 },
    /// An iteration of a closed load.
    Iteration { iteration: u64 },
    /// The beginning or end of a life.
    Life { life: u64, stop: bool },
}

impl Pass {
    /// Which of a source's rows, taken in turn, is this pass's: by arrival, or by rounds of all users.
    pub(super) const fn sequence(self, identity: &Identity) -> u64 {
        match self {
            Self::Arrival { arrival, .. } => arrival,
            Self::Iteration { iteration } => identity.place + iteration * identity.users,
            Self::Life { .. } => identity.place,
        }
    }
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// At its end.
    Complete,
    /// By `end: iteration`, or because a required step failed.
    Iteration,
    /// By `end: user`.
    User,
    /// By `end: run`.
    Run,
}

impl Ended {
    const fn of(end: plan::End) -> Self {
        match end {
            plan::End::Iteration => Self::Iteration,
            plan::End::User => Self::User,
            plan::End::Run => Self::Run,
        }
    }
}

/// The result of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassResult {
    pub(super) ended: Ended,
    /// Whether nothing failed in it.
    pub(super) ok: bool,
    /// Whether it waited for anything.
    pub(super) waited: bool,
}

/// See the module. One life; the next one is a new value.
pub(super) struct VirtualUser {
    pub(super) thread: Rc<Thread>,
    pub(super) identity: Identity,
    pub(super) client: Connections,
    pub(super) cookies: Option<CookieStore>,
    pub(super) state: State,
    /// Headers that the `headers` step has set.
    pub(super) headers: http::HeaderMap,
    /// Caps that are each user's own.
    pub(super) caps: Rc<RefCell<OwnCaps>>,
    /// Whether anything failed in this life: then a missing value is a consequence, no fault of the scenario.
    pub(super) failed_before: bool,
    /// The first failure of this life, in words.
    pub(super) failure: Option<String>,
    /// Which of its lives this is, from 0.
    pub(super) life: u64,
    began: Moment,
    /// Named actions of this life.
    actions: u64,
    /// What its counters have come to.
    counted: Vec<(u32, f64)>,
    record: Option<LifeGuard>,
}

/// The values of a user's variables.
pub(super) struct State {
    thread: Rc<Thread>,
    kind: usize,
    slots: Vec<Value>,
    pub(super) last: Option<Last>,
    draws: Arc<DrawsObject>,
}

/// The newest answer.
pub(super) struct Last {
    pub(super) answer: Answer,
    pub(super) json: Option<Option<serde_json::Value>>,
}

impl Last {
    pub(super) fn json(&mut self) -> Option<&serde_json::Value> {
        self.json.get_or_insert_with(|| serde_json::from_slice(&self.answer.body).ok()).as_ref()
    }

    fn to_value(&self) -> Value {
        let headers = self.answer.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        let json = match &self.json {
            Some(parsed) => parsed.as_ref().map(from_json),
            None => serde_json::from_slice(&self.answer.body).ok().map(|json| from_json(&json)),
        };
        let mut entries = vec![
            ("status", Value::from(self.answer.status)),
            ("headers", Value::from_pairs(headers)),
            ("body", Value::from(String::from_utf8_lossy(&self.answer.body).into_owned())),
        ];
        entries.extend(json.map(|json| ("json", json)));
        Value::from_pairs(entries)
    }
}

impl State {
    pub(super) fn program(&self) -> &UserProgram {
        &self.thread.program.users[self.kind]
    }

    pub(super) fn constants(&self) -> &Constants {
        &self.thread.program.constants
    }

    pub(super) fn set(&mut self, slot: usize, value: Value) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Value::UNDEFINED);
        }
        self.slots[slot] = value;
    }
}

impl Values for State {
    fn slot(&self, slot: usize) -> Option<Value> {
        let fixed = match u32::try_from(slot).unwrap_or(u32::MAX) {
            slots::LAST => return self.last.as_ref().map(Last::to_value),
            slots::VARS => Some(&self.constants().vars),
            slots::ENV => Some(&self.constants().env),
            slots::TARGET => return Some(Value::from(self.constants().target_text.clone())),
            slots::SECRETS => Some(&self.thread.secrets),
            slots::RUN => Some(&self.thread.run_value),
            slots::SETUP => return Some(self.thread.setup.borrow().clone()).filter(|v| !v.is_undefined()),
            _ => None,
        };
        fixed.or_else(|| self.slots.get(slot)).filter(|value| !value.is_undefined()).cloned()
    }

    fn slot_of(&self, name: &str) -> Option<usize> {
        self.program().slots.iter().position(|slot| slot == name)
    }

    fn name_of(&self, slot: usize) -> &str {
        self.program().slots.get(slot).map_or("?", String::as_str)
    }

    fn draws(&self) -> &Arc<DrawsObject> {
        &self.draws
    }
}

/// The values of a generated row: `row` in slot 0.
struct RowValues<'a> {
    row: u64,
    constants: &'a Constants,
    draws: Arc<DrawsObject>,
}

impl Values for RowValues<'_> {
    fn slot(&self, slot: usize) -> Option<Value> {
        [
            Value::from(self.row),
            self.constants.vars.clone(),
            self.constants.env.clone(),
            Value::from(self.constants.target_text.clone()),
        ]
        .get(slot)
        .cloned()
    }

    fn slot_of(&self, name: &str) -> Option<usize> {
        ["row", "vars", "env", "target"].iter().position(|known| *known == name)
    }

    fn name_of(&self, _: usize) -> &'static str {
        "row"
    }

    fn draws(&self) -> &Arc<DrawsObject> {
        &self.draws
    }
}

/// Where a pass stands in nested branches and loops.
#[derive(Default)]
struct Nesting {
    /// Actions under way, with whether the pass was still good when they began.
    actions: Vec<(u32, bool)>,
    loops: Vec<(u64, Moment)>,
    /// Groups under way: when they were due, and whether the pass was still good then.
    groups: Vec<(GroupGuard, Moment, bool)>,
}

/// Takes the place of an operation in the keys of randomness, for the rows of a pass.
const ROWS: usize = usize::MAX;

impl VirtualUser {
    /// A user at the beginning of a life.
    pub(super) fn new(
        thread: &Rc<Thread>,
        identity: Identity,
        life: u64,
        caps: &Rc<RefCell<OwnCaps>>,
    ) -> Result<Self, ClientError> {
        let program = &thread.program.users[identity.kind];
        let mut state = State {
            thread: thread.clone(),
            kind: identity.kind,
            slots: vec![Value::UNDEFINED; program.slots.len()],
            last: None,
            draws: Arc::default(),
        };
        let id = format!("u{}", identity.index);
        state.set(
            slots::USER as usize,
            Value::from_pairs([("index", Value::from(identity.index)), ("id", Value::from(id))]),
        );
        for binding in &program.bindings {
            if binding.pick() != plan::Pick::Unique {
                continue;
            }
            let row = thread.program.row(binding, &identity, 0, || Draws::keyed(&[]));
            let source = thread.program.sources.get(binding.source as usize);
            let row =
                source.zip(row.ok()).and_then(|(source, row)| row_of(source, row, &thread.program.constants));
            state.set(binding.slot as usize, row.unwrap_or(Value::UNDEFINED));
        }
        let cookies = thread.program.settings.cookies.then(CookieStore::new);
        let plan = thread.program.plan();
        let is_load = plan.phases.get(identity.phase as usize).is_some_and(plan::Phase::is_load);
        let kind = u32::try_from(identity.kind).unwrap_or(u32::MAX);
        Ok(Self {
            thread: thread.clone(),
            identity,
            client: thread.connections.user()?,
            cookies,
            state,
            headers: http::HeaderMap::new(),
            caps: caps.clone(),
            failed_before: !is_load && thread.after_failure.get(),
            failure: None,
            life,
            began: now(),
            actions: 0,
            counted: program.counters.iter().map(|counter| (*counter, 0.0)).collect(),
            record: is_load.then(|| thread.recorder.life(kind)),
        })
    }

    /// Goes on in another phase: with its variables, cookies and connections.
    pub(super) fn continue_in(&mut self, identity: Identity) {
        self.identity = identity;
    }

    /// The life ended in order.
    pub(super) fn end_life(&mut self) {
        if let Some(record) = self.record.take() {
            record.end(!self.failed_before, now().since(self.began), self.actions, &self.counted);
        }
    }

    /// What the user's own variables hold, for `setup`.
    pub(super) fn yields(&self) -> serde_json::Value {
        let names = self.state.program().slots.iter().zip(&self.state.slots).skip(slots::FIXED.len());
        let values = names.filter(|(_, value)| !value.is_undefined()).map(|(name, value)| {
            // Every value came from JSON, or is a text.
            (name.clone(), serde_json::to_value(value).unwrap_or_default())
        });
        serde_json::Value::Object(values.collect())
    }

    /// Takes the rows of a pass, where rows change from pass to pass. A life that begins before there is an iteration
    /// for it takes its place's.
    fn take_rows(&mut self, pass: Pass) -> Result<(), EvalError> {
        let thread = self.thread.clone();
        let program = &thread.program;
        let user = &program.users[self.identity.kind];
        if !user.rebinds {
            return Ok(());
        }
        let sequence = pass.sequence(&self.identity);
        for binding in user.bindings.iter().filter(|binding| binding.pick() != plan::Pick::Unique) {
            let mut keys = self.keys(pass, ROWS, &[]).to_vec();
            keys.push(u64::from(binding.source));
            let row = program.row(binding, &self.identity, sequence, || Draws::keyed(&keys));
            let source = program.sources.get(binding.source as usize);
            let row = match (row, pass) {
                (Ok(row), _) => row,
                (Err(_), Pass::Life { .. }) => sequence % source.map_or(1, Source::rows).max(1),
                (Err(OutOfRows::StopUser | OutOfRows::Fail), _) => {
                    let expression = self.state.name_of(binding.slot as usize).to_owned();
                    let message = "has no more rows (see `exhausted`)".to_owned();
                    return Err(EvalError { expression, message });
                }
            };
            let row = source.and_then(|source| row_of(source, row, &program.constants));
            self.state.set(binding.slot as usize, row.unwrap_or(Value::UNDEFINED));
        }
        Ok(())
    }

    /// Carries out the steps at the beginning of a life; `due` is when they should have begun, `first` the pass that the
    /// life begins for.
    pub(super) async fn start(&mut self, due: Moment, first: Pass) -> PassResult {
        if let Err(error) = self.take_rows(first) {
            return self.without_rows(&error);
        }
        let thread = self.thread.clone();
        let pass = Pass::Life { life: self.life, stop: false };
        self.pass(&thread.program.users[self.identity.kind].start, pass, due).await
    }

    /// Carries out the loop once.
    pub(super) async fn iterate(&mut self, pass: Pass, due: Moment) -> PassResult {
        let thread = self.thread.clone();
        let number = match pass {
            Pass::Arrival { arrival, .. } => arrival,
            Pass::Iteration { iteration } => iteration,
            Pass::Life { life, .. } => life,
        };
        self.state.set(slots::ITERATION as usize, Value::from(number));
        if let Err(error) = self.take_rows(pass) {
            return self.without_rows(&error);
        }
        self.pass(&thread.program.users[self.identity.kind].body, pass, due).await
    }

    /// Carries out the steps at the end of a life.
    pub(super) async fn stop(&mut self) -> PassResult {
        let thread = self.thread.clone();
        let pass = Pass::Life { life: self.life, stop: true };
        self.pass(&thread.program.users[self.identity.kind].stop, pass, now()).await
    }

    /// The keys of the randomness of operation `at` of a pass, in the given turns of its loops.
    fn keys(&self, pass: Pass, at: usize, loops: &[(u64, Moment)]) -> [u64; 6] {
        let seed = self.thread.seed;
        let kind = u64::from(self.identity.phase) << 32 | (self.identity.kind as u64) << 8;
        let turns = loops.iter().fold(0, |turns, (count, _)| mix(turns, count + 1));
        let at = at as u64;
        match pass {
            Pass::Arrival { load, arrival } => [seed, 1, load, arrival, at, turns],
            Pass::Iteration { iteration } => {
                [seed, 2 | kind, self.identity.index, self.life << 40 | iteration, at, turns]
            }
            Pass::Life { life, stop } => {
                [seed, 3 | kind, self.identity.index, life << 1 | u64::from(stop), at, turns]
            }
        }
    }

    /// An expression failed: nothing more can be done with this pass. Whose fault it is depends on what went before.
    fn broken(&mut self, error: &EvalError, result: &mut PassResult) {
        if !self.failed_before {
            self.thread.recorder.scenario_error(&error.to_string());
        }
        self.failure.get_or_insert_with(|| error.to_string());
        result.ok = false;
        result.ended = Ended::Iteration;
    }

    fn without_rows(&mut self, error: &EvalError) -> PassResult {
        let mut result = PassResult { ended: Ended::Iteration, ok: false, waited: false };
        self.broken(error, &mut result);
        self.failed_before = true;
        result
    }

    async fn pass(&mut self, ops: &[Op], pass: Pass, mut due: Moment) -> PassResult {
        let mut nesting = Nesting::default();
        let mut result = PassResult { ended: Ended::Complete, ok: true, waited: false };
        let mut at = 0;
        while let Some(op) = ops.get(at) {
            let keys = self.keys(pass, at, &nesting.loops);
            self.state.draws.begin(&keys, self.thread.run_hash);
            let step = self.perform(op, &keys, at, &mut due, &mut nesting, &mut result).await;
            match step {
                Ok(Flow::Next) => at += 1,
                Ok(Flow::To(to)) => at = to,
                Ok(Flow::End(ended)) => {
                    result.ended = ended;
                    break;
                }
                Err(error) => {
                    self.broken(&error, &mut result);
                    break;
                }
            }
        }
        for (guard, began, was_ok) in nesting.groups.drain(..).rev() {
            guard.end(result.ok, now().since(began));
            result.ok &= was_ok;
        }
        for (action, was_ok) in nesting.actions.drain(..).rev() {
            self.actions += 1;
            self.thread.recorder.action(action, result.ok);
            result.ok &= was_ok;
        }
        self.failed_before |= !result.ok;
        result
    }

    async fn perform(
        &mut self,
        op: &Op,
        keys: &[u64],
        at: usize,
        due: &mut Moment,
        nesting: &mut Nesting,
        result: &mut PassResult,
    ) -> Result<Flow, EvalError> {
        match op {
            Op::Http(step) => {
                let good = self.exchange(step, *due, keys).await?;
                result.waited = true;
                *due = now();
                result.ok &= good;
                self.failed_before |= !good;
                if !good && step.required {
                    return Ok(Flow::End(Ended::Iteration));
                }
            }
            Op::Think(time) => {
                *due = *due + draw(*time, &mut Draws::keyed(keys));
                self.thread.timer.sleep_until(*due).await;
                result.waited = true;
            }
            Op::Jump(to) => return Ok(Flow::To(*to)),
            Op::JumpUnless { condition, to } => {
                if !evaluate(condition, &self.state)?.is_true() {
                    return Ok(Flow::To(*to));
                }
            }
            Op::Choose { total, branches } => {
                let ticket = Draws::keyed(keys).below(*total);
                let branch = branches.partition_point(|(end, _)| *end <= ticket);
                return Ok(Flow::To(branches.get(branch).map_or(at + 1, |(_, to)| *to)));
            }
            Op::ActionBegin(action) => {
                nesting.actions.push((*action, std::mem::replace(&mut result.ok, true)))
            }
            Op::ActionEnd => {
                if let Some((action, was_ok)) = nesting.actions.pop() {
                    self.actions += 1;
                    self.thread.recorder.action(action, result.ok);
                    result.ok &= was_ok;
                }
            }
            Op::RepeatBegin { max, end } => {
                if *max == 0 {
                    return Ok(Flow::To(*end));
                }
                nesting.loops.push((0, now()));
            }
            Op::RepeatEnd { max, every, until, body } => {
                let done = match until {
                    Some(until) => evaluate(until, &self.state)?.is_true(),
                    None => false,
                };
                if self.repeats(nesting, *max, *every, done, due, result).await {
                    return Ok(Flow::To(*body));
                }
            }
            Op::Set(values) => {
                for (slot, template) in values {
                    let mut text = String::new();
                    template.render(&self.state, &mut text)?;
                    let json: serde_json::Value =
                        serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
                    self.state.set(*slot, from_json(&json));
                }
            }
            Op::Headers(headers) => {
                for (name, template) in headers {
                    let value = self.header_value(name, template)?;
                    self.headers.insert(name.clone(), value);
                }
            }
            Op::Count(counters) => {
                for (counter, template) in counters {
                    self.count(*counter, template)?;
                }
            }
            Op::Observe(values) => {
                for (observed, template) in values {
                    let value = self.number("observe", template)?;
                    if value < 0.0 {
                        let message = format!("{value} is negative; observed values begin at 0");
                        return Err(EvalError { expression: "observe".to_owned(), message });
                    }
                    self.thread.recorder.observe(*observed, value);
                }
            }
            Op::GroupBegin(group) => {
                let guard = self.thread.recorder.group(*group);
                nesting.groups.push((guard, *due, std::mem::replace(&mut result.ok, true)));
            }
            Op::GroupEnd => {
                if let Some((guard, began, was_ok)) = nesting.groups.pop() {
                    guard.end(result.ok, now().since(began));
                    result.ok &= was_ok;
                }
            }
            Op::End(end) => return Ok(Flow::End(Ended::of(*end))),
        }
        Ok(Flow::Next)
    }

    /// At the end of a turn of the innermost loop: whether there is another one, once it is due.
    async fn repeats(
        &self,
        nesting: &mut Nesting,
        max: u64,
        every: Duration,
        done: bool,
        due: &mut Moment,
        result: &mut PassResult,
    ) -> bool {
        let Some((count, began)) = nesting.loops.last_mut() else { return false };
        *count += 1;
        if done || *count >= max {
            nesting.loops.pop();
            return false;
        }
        if !every.is_zero() {
            let next = *began + every * u32::try_from(*count).unwrap_or(u32::MAX);
            *due = (*due).max(next);
            self.thread.timer.sleep_until(next).await;
            result.waited = true;
        }
        true
    }

    fn count(&mut self, counter: u32, amount: &Template) -> Result<(), EvalError> {
        let amount = self.number("count", amount)?;
        if let Some((_, sum)) = self.counted.iter_mut().find(|(known, _)| *known == counter) {
            *sum += amount;
        }
        self.thread.recorder.count(counter, amount);
        Ok(())
    }

    fn number(&self, step: &str, template: &Template) -> Result<f64, EvalError> {
        let mut text = String::new();
        template.render(&self.state, &mut text)?;
        let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| EvalError {
            expression: step.to_owned(),
            // The text is not shown: it may hold a secret.
            message: "the value is not a number".to_owned(),
        })
    }

    pub(super) fn header_value(
        &self,
        name: &http::HeaderName,
        template: &Template,
    ) -> Result<http::HeaderValue, EvalError> {
        let mut text = String::new();
        template.render(&self.state, &mut text)?;
        // The value is not shown: it may hold a secret.
        http::HeaderValue::from_str(&text).map_err(|_| EvalError {
            expression: format!("header {name}"),
            message: "has a value that no header can have (a line end, perhaps)".to_owned(),
        })
    }
}

pub(super) enum Flow {
    Next,
    To(usize),
    End(Ended),
}

fn row_of(source: &Source, row: u64, constants: &Constants) -> Option<Value> {
    match source {
        Source::Table { table, .. } => table.row(row),
        Source::Generated { columns, .. } => {
            let values = RowValues { row, constants, draws: Arc::default() };
            let mut pairs = Vec::with_capacity(columns.len());
            for (name, template) in columns {
                let mut text = String::new();
                template.render(&values, &mut text).ok()?;
                pairs.push((name.clone(), Value::from(text)));
            }
            Some(Value::from_pairs(pairs))
        }
    }
}

fn draw(time: ThinkTime, draws: &mut Draws) -> Duration {
    match time {
        ThinkTime::Constant(duration) => duration,
        ThinkTime::Between(min, max) => min + (max.saturating_sub(min)).mul_f64(draws.unit()),
        ThinkTime::LogNormal { mu, sigma, max_ns } => {
            Duration::from_nanos((mu + sigma * draws.normal()).exp().min(max_ns as f64) as u64)
        }
        ThinkTime::Exponential { mean } => mean.mul_f64(draws.exponential().min(100.0)),
    }
}

/// The hash of a run's identifier, for values that must differ between runs.
pub(super) fn run_hash(run: &str) -> u64 {
    hash_text(run)
}

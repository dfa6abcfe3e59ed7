//! A virtual user: its variables, cookies and connections, carrying out a program.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cookie_store::CookieStore;
use loadgrid_common::expression::{DrawsObject, EvalError, Value, from_json, text_of};
use loadgrid_common::plan::{self, slots};
use loadgrid_common::process::now;
use loadgrid_common::random::{Draws, hash_text, mix};
use loadgrid_common::stats::ErrorKind;
use loadgrid_common::time::Moment;

use super::phase::Thread;
use super::program::{
    CaptureFrom, Constants, HttpOp, JsonCondition, Op, Source, ThinkTime, Url, UserProgram, address,
};
use super::template::{Template, Values, evaluate};
use crate::client::{Answer, ClientError, HttpClient, Request, ReqwestClient};
use crate::record::ExchangeRecord;

/// Who a user is, for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// Index of its type in the plan.
    pub(super) kind: usize,
    /// Its number among the users of that type: `user.index`, and its row.
    pub(super) index: u64,
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
    thread: Rc<Thread>,
    identity: Identity,
    client: ReqwestClient,
    cookies: Option<CookieStore>,
    state: State,
    /// Headers that the `headers` step has set.
    headers: http::HeaderMap,
    /// Whether anything failed in this life: then a missing value is a consequence, no fault of the scenario.
    failed_before: bool,
    /// Which of its lives this is, from 0.
    life: u64,
}

/// The values of a user's variables.
struct State {
    thread: Rc<Thread>,
    kind: usize,
    slots: Vec<Value>,
    last: Option<Last>,
    draws: Arc<DrawsObject>,
}

struct Last {
    answer: Answer,
    json: Option<Option<serde_json::Value>>,
}

impl Last {
    fn json(&mut self) -> Option<&serde_json::Value> {
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
    fn program(&self) -> &UserProgram {
        &self.thread.program.users[self.kind]
    }

    fn constants(&self) -> &Constants {
        &self.thread.program.constants
    }

    fn set(&mut self, slot: usize, value: Value) {
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
}

impl VirtualUser {
    /// A user at the beginning of a life.
    pub(super) fn new(thread: &Rc<Thread>, identity: Identity, life: u64) -> Result<Self, ClientError> {
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
            let row = thread.program.sources.get(binding.source as usize).and_then(|source| {
                row_of(source, binding.offset + identity.index, &thread.program.constants)
            });
            state.set(binding.slot as usize, row.unwrap_or(Value::UNDEFINED));
        }
        let cookies = thread.program.settings.cookies.then(CookieStore::new);
        Ok(Self {
            thread: thread.clone(),
            identity,
            client: ReqwestClient::new(&thread.client_settings)?,
            cookies,
            state,
            headers: http::HeaderMap::new(),
            failed_before: false,
            life,
        })
    }

    /// Carries out the steps at the beginning of a life; `due` is when they should have begun.
    pub(super) async fn start(&mut self, due: Moment) -> PassResult {
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
                    // Nothing more can be done with this pass. Whose fault it is depends on what went before.
                    if !self.failed_before {
                        self.thread.recorder.scenario_error(&error.to_string());
                    }
                    result.ok = false;
                    result.ended = Ended::Iteration;
                    break;
                }
            }
        }
        for (action, was_ok) in nesting.actions.drain(..).rev() {
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
                let good = self.exchange(step, *due).await?;
                result.waited = true;
                *due = now();
                if !good {
                    result.ok = false;
                    self.failed_before = true;
                    if step.required {
                        return Ok(Flow::End(Ended::Iteration));
                    }
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
                if let Some((count, began)) = nesting.loops.last_mut() {
                    *count += 1;
                    if !done && *count < *max {
                        if !every.is_zero() {
                            let next = *began + *every * u32::try_from(*count).unwrap_or(u32::MAX);
                            *due = (*due).max(next);
                            self.thread.timer.sleep_until(next).await;
                            result.waited = true;
                        }
                        return Ok(Flow::To(*body));
                    }
                    nesting.loops.pop();
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
            Op::End(end) => {
                return Ok(Flow::End(match end {
                    plan::End::Iteration => Ended::Iteration,
                    plan::End::User => Ended::User,
                    plan::End::Run => Ended::Run,
                }));
            }
        }
        Ok(Flow::Next)
    }

    fn count(&self, counter: u32, amount: &Template) -> Result<(), EvalError> {
        let mut text = String::new();
        amount.render(&self.state, &mut text)?;
        let amount = text.trim().parse::<f64>().ok().filter(|amount| amount.is_finite());
        let amount = amount.ok_or_else(|| EvalError {
            expression: "count".to_owned(),
            message: "the amount is not a number".to_owned(),
        })?;
        self.thread.recorder.count(counter, amount);
        Ok(())
    }

    fn header_value(
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

    /// Sends a request and follows redirects; every hop is an exchange. Returns whether all was well.
    async fn exchange(&mut self, op: &HttpOp, due: Moment) -> Result<bool, EvalError> {
        let mut request = self.request(op)?;
        let (mut due, mut hops) = (due, 0);
        loop {
            let guard = self.thread.recorder.exchange(op.step);
            let (url, method) = (request.url.clone(), request.method.clone());
            let exchange = self
                .client
                .exchange(request.clone(), op.timeout, self.thread.program.settings.max_body)
                .await;
            let response = exchange.done.since(due);
            let mut record = ExchangeRecord {
                response,
                service: exchange.done.since(exchange.sent),
                connect: exchange.connect,
                tls: exchange.tls,
                first_byte: exchange.first_byte.map(|first| first.since(exchange.sent)),
                status: None,
                bytes_sent: exchange.bytes_sent,
                bytes_received: exchange.bytes_received,
                error: None,
            };
            let answer = match exchange.outcome {
                Ok(answer) => answer,
                Err(kind) => {
                    record.error = Some(kind);
                    guard.end(&record);
                    self.state.last = None;
                    return Ok(false);
                }
            };
            record.status = Some(answer.status);
            if let Some(cookies) = &mut self.cookies {
                keep_cookies(cookies, &answer, &url);
            }
            let next = if op.redirects > 0 { redirect(&answer, &url, &method) } else { None };
            if let Some((next_url, next_method)) = next {
                if hops >= op.redirects {
                    record.error = Some(ErrorKind::Redirects);
                    guard.end(&record);
                    return Ok(false);
                }
                guard.end(&record);
                hops += 1;
                due = exchange.done;
                request = self.follow(request, next_url, next_method, &url);
                continue;
            }
            self.state.last = Some(Last { answer, json: None });
            record.error = self.judge(op, response)?;
            guard.end(&record);
            return Ok(record.error.is_none());
        }
    }

    fn request(&self, op: &HttpOp) -> Result<Request, EvalError> {
        let url = match &op.url {
            Url::Fixed(url) => url.clone(),
            Url::Template(template) => {
                let mut text = String::new();
                template.render(&self.state, &mut text)?;
                address(&self.state.constants().target, &text).ok_or_else(|| {
                    let step =
                        self.thread.program.plan.steps.get(op.step as usize).cloned().unwrap_or_default();
                    EvalError { expression: step, message: "its url is not an address".to_owned() }
                })?
            }
        };
        let mut headers = self.thread.default_headers.clone();
        for (name, template) in &self.thread.program.headers {
            headers.insert(name.clone(), self.header_value(name, template)?);
        }
        headers.extend(
            self.headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())).collect::<Vec<_>>(),
        );
        let body = match &op.body {
            Some((content_type, template)) => {
                headers.insert(http::header::CONTENT_TYPE, content_type.clone());
                let mut text = String::new();
                template.render(&self.state, &mut text)?;
                Some(Bytes::from(text))
            }
            None => None,
        };
        for (name, template) in &op.headers {
            headers.insert(name.clone(), self.header_value(name, template)?);
        }
        let mut request = Request { method: op.method.clone(), url, headers, body };
        self.add_cookies(&mut request);
        Ok(request)
    }

    fn add_cookies(&self, request: &mut Request) {
        let Some(store) = &self.cookies else { return };
        let mut pairs: Vec<String> =
            store.get_request_values(&request.url).map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() {
            return;
        }
        if let Some(own) = request.headers.get(http::header::COOKIE).and_then(|value| value.to_str().ok()) {
            pairs.push(own.to_owned());
        }
        if let Ok(value) = http::HeaderValue::from_str(&pairs.join("; ")) {
            request.headers.insert(http::header::COOKIE, value);
        }
    }

    fn follow(&self, mut request: Request, url: url::Url, method: http::Method, from: &url::Url) -> Request {
        if method != request.method {
            request.body = None;
            request.headers.remove(http::header::CONTENT_TYPE);
        }
        let same_origin = url.origin() == from.origin();
        request.headers.remove(http::header::COOKIE);
        if !same_origin {
            // Credentials are for the host they were given for.
            request.headers.remove(http::header::AUTHORIZATION);
        }
        request.method = method;
        request.url = url;
        self.add_cookies(&mut request);
        request
    }

    /// Checks and captures on the newest answer.
    fn judge(&mut self, op: &HttpOp, response: Duration) -> Result<Option<ErrorKind>, EvalError> {
        let Some(mut last) = self.state.last.take() else { return Ok(None) };
        let (recorder, status) = (&self.thread.recorder, last.answer.status);
        let mut error = None;
        if op.expect.status.is_empty() {
            if status >= 400 {
                error = Some(ErrorKind::Status);
            }
        } else {
            let passed = op.expect.status.iter().any(|&(first, last)| (first..=last).contains(&status));
            recorder.check(op.expect.status_check, passed);
            if !passed {
                error = Some(ErrorKind::Status);
            }
        }
        if let Some((limit, check)) = op.expect.within {
            let passed = response <= limit;
            recorder.check(check, passed);
            if !passed {
                error = error.or(Some(ErrorKind::Check));
            }
        }
        if op.reads_json {
            let _parsed = last.json();
        }
        let json = last.json.as_ref().and_then(Option::as_ref).unwrap_or(&serde_json::Value::Null);
        for check in &op.expect.json {
            let found = check.path.query(json).first();
            let passed = match &check.condition {
                JsonCondition::Exists(exists) => found.is_some() == *exists,
                JsonCondition::Matches(pattern) => {
                    found.is_some_and(|value| pattern.is_match(&text_of(&from_json(value))))
                }
                JsonCondition::Equals(template) => {
                    let mut text = String::new();
                    template.render(&self.state, &mut text)?;
                    let expected: serde_json::Value =
                        serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
                    found.is_some_and(|value| same(value, &expected))
                }
            };
            recorder.check(check.check, passed);
            if !passed {
                error = error.or(Some(ErrorKind::Check));
            }
        }
        let mut captured = Vec::new();
        for capture in &op.captures {
            let value = match &capture.from {
                CaptureFrom::Json(path) => path.query(json).first().map(from_json),
                CaptureFrom::Header(name) => last
                    .answer
                    .headers
                    .get(name)
                    .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned())),
                CaptureFrom::Cookie(name) => self.cookie(name).map(Value::from),
            };
            if value.is_none() && !capture.optional {
                error = error.or(Some(ErrorKind::Capture));
            }
            captured.push((capture.slot, value.unwrap_or(Value::UNDEFINED)));
        }
        for (slot, value) in captured {
            self.state.set(slot, value);
        }
        self.state.last = Some(last);
        Ok(error)
    }

    fn cookie(&self, name: &str) -> Option<String> {
        let store = self.cookies.as_ref()?;
        store.iter_unexpired().find(|cookie| cookie.name() == name).map(|cookie| cookie.value().to_owned())
    }
}

enum Flow {
    Next,
    To(usize),
    End(Ended),
}

/// Equal, where 1 and 1.0 are the same number.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn row_of(source: &Source, row: u64, constants: &Constants) -> Option<Value> {
    match source {
        Source::Table(table) => table.row(row),
        Source::Generated { columns } => {
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

fn keep_cookies(store: &mut CookieStore, answer: &Answer, url: &url::Url) {
    for value in answer.headers.get_all(http::header::SET_COOKIE) {
        // A cookie that cannot be read is the target's affair; a browser would drop it, too.
        if let Ok(Err(error)) = value.to_str().map(|text| store.parse(text, url).map(|_| ())) {
            tracing::trace!(%error, "a cookie was not kept");
        }
    }
}

/// Where an answer sends its client, and with which method (RFC 9110, section 15.4).
fn redirect(answer: &Answer, url: &url::Url, method: &http::Method) -> Option<(url::Url, http::Method)> {
    let method = match answer.status {
        301 | 302 if *method == http::Method::POST => http::Method::GET,
        303 if *method != http::Method::HEAD => http::Method::GET,
        301 | 302 | 303 | 307 | 308 => method.clone(),
        _ => return None,
    };
    let location = answer.headers.get(http::header::LOCATION)?.to_str().ok()?;
    let next = url.join(location).ok().filter(|next| matches!(next.scheme(), "http" | "https"))?;
    Some((next, method))
}

/// The hash of a run's identifier, for values that must differ between runs.
pub(super) fn run_hash(run: &str) -> u64 {
    hash_text(run)
}

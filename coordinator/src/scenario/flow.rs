//! Steps as written to steps of the plan: calls are replaced by what they call, names become indices.

use std::cell::RefCell;
use std::collections::BTreeSet;

use loadgrid_common::plan::{self as plan, Template};

use super::constants::Constants;
use super::decode::{Any, Duration, Mapped, Quantity, Text};
use super::document::{self as doc, CaptureFrom, Cookies, JsonExpect, Step, Think};
use super::problem::{Sink, suggest};
use super::template::{Scope, Templates, fixed};

/// Lists of names that the plan refers to by index.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) steps: Vec<String>,
    pub(super) actions: Vec<String>,
    pub(super) counters: Vec<String>,
    pub(super) checks: Vec<String>,
    /// Hosts that urls name.
    pub(super) hosts: BTreeSet<String>,
}

/// The most names of steps; the rest is measured together, so that statistics stay bounded.
const MOST_STEPS: usize = 250;
/// The name of that rest.
const OTHER: &str = "__other__";
/// The most steps of a user, calls replaced: a guard against flows that multiply.
const MOST_EXPANDED: usize = 20_000;

fn intern(list: &mut Vec<String>, name: &str) -> u32 {
    let place = list.iter().position(|known| known == name).unwrap_or_else(|| {
        list.push(name.to_owned());
        list.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl Names {
    fn step(&mut self, name: &str) -> u32 {
        if self.steps.len() >= MOST_STEPS && !self.steps.iter().any(|known| known == name) {
            return intern(&mut self.steps, OTHER);
        }
        intern(&mut self.steps, name)
    }
}

/// The variables that steps set, calls followed, in the order of their first place.
pub(super) fn variables(steps: &[Step], flows: &Mapped<Vec<Step>>, depth: usize, found: &mut Vec<String>) {
    if depth > 32 {
        return;
    }
    let mut add = |name: &str| {
        if !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    };
    for step in steps {
        match step {
            Step::Get(r)
            | Step::Post(r)
            | Step::Put(r)
            | Step::Patch(r)
            | Step::Delete(r)
            | Step::Head(r) => {
                r.capture.iter().flat_map(Mapped::names).for_each(&mut add);
            }
            Step::Set(values) => values.names().for_each(&mut add),
            _ => {}
        }
    }
    for step in steps {
        match step {
            Step::Call(name) => {
                if let Some(flow) = flows.get(&name.value) {
                    variables(flow, flows, depth + 1, found);
                }
            }
            Step::Choose(branches) => {
                branches.iter().for_each(|branch| variables(&branch.r#do, flows, depth + 1, found))
            }
            Step::If(step) => {
                variables(&step.then, flows, depth + 1, found);
                variables(step.otherwise.as_deref().unwrap_or_default(), flows, depth + 1, found);
            }
            Step::Repeat(step) => variables(&step.r#do, flows, depth + 1, found),
            _ => {}
        }
    }
}

/// Compiles the steps of one type of user.
pub(super) struct Flows<'a> {
    pub(super) flows: &'a Mapped<Vec<Step>>,
    pub(super) constants: &'a Constants,
    pub(super) slots: &'a [String],
    pub(super) sources: &'a [(String, Vec<String>)],
    pub(super) secrets: &'a [String],
    pub(super) used_columns: &'a RefCell<BTreeSet<(String, String)>>,
    pub(super) names: &'a mut Names,
    pub(super) sink: &'a mut Sink,
    /// Names that may be variables of parts that could not be read.
    pub(super) perhaps: &'a BTreeSet<String>,
    /// Flows that are being expanded, to find a flow that calls itself.
    pub(super) calls: Vec<String>,
    pub(super) expanded: usize,
}

impl<'a> Flows<'a> {
    fn templates(&self) -> Templates<'a> {
        let scope = Scope { slots: self.slots, sources: self.sources, secrets: self.secrets };
        Templates { constants: self.constants, scope, used_columns: self.used_columns, perhaps: self.perhaps }
    }

    /// Compiles a list of steps; problems go to the sink and leave their step out.
    pub(super) fn steps(&mut self, steps: &[Step]) -> Vec<plan::Step> {
        let mut compiled = Vec::new();
        for step in steps {
            self.expanded += 1;
            if self.expanded > MOST_EXPANDED {
                return compiled;
            }
            if let Step::Call(name) = step {
                self.call(name, &mut compiled);
            } else if let Some(step) = self.step(step) {
                compiled.push(plan::Step { step: Some(step) });
            }
        }
        compiled
    }

    fn call(&mut self, name: &Text, compiled: &mut Vec<plan::Step>) {
        let Some(flow) = self.flows.get(&name.value) else {
            if self.flows.is_broken(&name.value) {
                return;
            }
            let hint = suggest(&name.value, self.flows.names())
                .unwrap_or_else(|| "declare it under `flows`".to_owned());
            self.sink.add_with_hint(name.span, format!("there is no flow `{}`", name.value), hint);
            return;
        };
        if self.calls.contains(&name.value) {
            let path = self.calls.join(" -> ");
            self.sink
                .add(name.span, format!("the flow `{}` calls itself: {path} -> {}", name.value, name.value));
            return;
        }
        self.calls.push(name.value.clone());
        let steps = self.steps(flow);
        self.calls.pop();
        if self.expanded > MOST_EXPANDED && self.calls.is_empty() {
            self.sink.add(
                name.span,
                format!("with all calls replaced, this user has more than {MOST_EXPANDED} steps"),
            );
        }
        compiled.extend(steps);
    }

    fn step(&mut self, step: &Step) -> Option<plan::step::Step> {
        use plan::step::Step as Out;
        Some(match step {
            Step::Get(request) => Out::Http(self.request("GET", request)?),
            Step::Post(request) => Out::Http(self.request("POST", request)?),
            Step::Put(request) => Out::Http(self.request("PUT", request)?),
            Step::Patch(request) => Out::Http(self.request("PATCH", request)?),
            Step::Delete(request) => Out::Http(self.request("DELETE", request)?),
            Step::Head(request) => Out::Http(self.request("HEAD", request)?),
            Step::Call(_) => return None,
            Step::Choose(branches) => Out::Choose(self.choose(branches)?),
            Step::If(step) => {
                let condition = self.templates().condition(&step.when, self.sink);
                let then = self.steps(&step.then);
                let otherwise = self.steps(step.otherwise.as_deref().unwrap_or_default());
                Out::If(plan::If { condition: condition?, then, otherwise })
            }
            Step::Repeat(step) => Out::Repeat(self.repeat(step)?),
            Step::Think(think) => Out::Think(self.think(think)?),
            Step::Headers(headers) => Out::Headers(plan::SetHeaders { headers: self.headers(headers)? }),
            Step::Set(values) => Out::Set(plan::Set { values: self.assignments(values)? }),
            Step::Count(counters) => {
                let templates = self.templates();
                let read: Vec<_> = counters
                    .entries
                    .iter()
                    .map(|(name, amount)| {
                        let amount = templates.text(amount, self.sink)?;
                        Some(plan::CounterStep {
                            counter: intern(&mut self.names.counters, &name.0.value),
                            amount: Some(amount),
                        })
                    })
                    .collect();
                Out::Count(plan::Count { counters: read.into_iter().collect::<Option<_>>()? })
            }
            Step::End(end) => Out::End(match end {
                doc::End::Iteration => plan::End::Iteration.into(),
                doc::End::User => plan::End::User.into(),
                doc::End::Run => plan::End::Run.into(),
            }),
        })
    }

    fn slot(&self, name: &str) -> u32 {
        self.slots
            .iter()
            .position(|slot| slot == name)
            .and_then(|place| u32::try_from(place).ok())
            .unwrap_or(u32::MAX)
    }

    fn assignments(&mut self, values: &Mapped<Any>) -> Option<Vec<plan::Assignment>> {
        let read: Vec<_> = values
            .entries
            .iter()
            .map(|(name, value)| {
                let value = self.templates().json(&value.0, self.sink)?;
                Some(plan::Assignment { slot: self.slot(&name.0.value), value: Some(value) })
            })
            .collect();
        read.into_iter().collect()
    }

    pub(super) fn headers(&mut self, headers: &Mapped<Text>) -> Option<Vec<plan::Header>> {
        let read: Vec<_> = headers
            .entries
            .iter()
            .map(|(name, value)| {
                let value = self.templates().text(value, self.sink);
                let name = &name.0;
                if name.value.is_empty()
                    || !name
                        .value
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
                {
                    self.sink.add(name.span, format!("`{}` is not a header name", name.value));
                    return None;
                }
                Some(plan::Header { name: name.value.to_ascii_lowercase(), value: Some(value?) })
            })
            .collect();
        read.into_iter().collect()
    }

    fn choose(&mut self, branches: &[doc::Branch]) -> Option<plan::Choose> {
        let mut compiled = Vec::new();
        for branch in branches {
            let weight = self.constants.quantity(&branch.weight, self.sink);
            let action =
                branch.name.as_ref().map_or(0, |name| intern(&mut self.names.actions, &name.0.value) + 1);
            let steps = self.steps(&branch.r#do);
            let Some(weight) = weight else { continue };
            if weight > 1_000_000 {
                self.sink.add(branch.weight.text.span, "a weight is at most 1,000,000");
            }
            compiled.push(plan::Branch { weight: u32::try_from(weight).unwrap_or(u32::MAX), action, steps });
        }
        if compiled.len() == branches.len() && compiled.iter().all(|branch| branch.weight == 0) {
            let span = branches.first().map_or_else(Default::default, |branch| branch.span);
            self.sink.add(span, "`choose` needs a branch with a weight above 0");
            return None;
        }
        Some(plan::Choose { branches: compiled })
    }

    fn repeat(&mut self, step: &doc::Repeat) -> Option<plan::Repeat> {
        let until = step.until.as_ref().map(|until| self.templates().condition(until, self.sink));
        let every = step.every.as_ref().map(|every| self.constants.quantity(every, self.sink));
        let steps = self.steps(&step.r#do);
        let max = match (&step.times, &step.max) {
            (Some(count), None) | (None, Some(count)) => self.constants.quantity(count, self.sink)?,
            (None, None) => {
                self.sink.add_with_hint(
                    step.span,
                    "`repeat` has no end",
                    "give `times: N`, or `max: N` with `until`",
                );
                return None;
            }
            (Some(_), Some(max)) => {
                self.sink.add_with_hint(
                    max.text.span,
                    "`repeat` has both `times` and `max`",
                    "`times` repeats always so often; `max` goes with `until`",
                );
                return None;
            }
        };
        let every_ns = every.map_or(Some(0), |every| every.map(loadgrid_common::time::nanos))?;
        let until = until.map_or(Some(String::new()), |until| until)?;
        Some(plan::Repeat { max, every_ns, until, steps })
    }

    fn ns(&mut self, duration: &Quantity<Duration>) -> Option<u64> {
        self.constants.quantity(duration, self.sink).map(loadgrid_common::time::nanos)
    }

    fn think(&mut self, think: &Think) -> Option<plan::Think> {
        use plan::think::Time;
        let time = match think {
            Think::Constant(duration) => Time::ConstantNs(self.ns(duration)?),
            Think::Drawn(doc::Drawn::Between(ends)) => {
                let [min, max] = ends.as_slice() else {
                    let span = ends.first().map_or_else(Default::default, |end| end.text.span);
                    self.sink.add(span, "`between` has two ends: [1s, 3s]");
                    return None;
                };
                let (min_ns, max_ns) = (self.ns(min)?, self.ns(max)?);
                if min_ns > max_ns {
                    self.sink.add_with_hint(
                        max.text.span,
                        "the second end lies before the first",
                        "write the shorter one first",
                    );
                    return None;
                }
                Time::Between(plan::Between { min_ns, max_ns })
            }
            Think::Drawn(doc::Drawn::LogNormal(shape)) => {
                let (median_ns, p95_ns) = (self.ns(&shape.median)?, self.ns(&shape.p95)?);
                let max_ns = match &shape.max {
                    Some(max) => self.ns(max)?,
                    None => u64::MAX,
                };
                if median_ns == 0 || p95_ns < median_ns || max_ns < median_ns {
                    self.sink.add(shape.span, "a log-normal pause has 0 < median ≤ p95 and median ≤ max");
                    return None;
                }
                Time::LogNormal(plan::LogNormal { median_ns, p95_ns, max_ns })
            }
            Think::Drawn(doc::Drawn::Exponential(shape)) => Time::ExponentialMeanNs(self.ns(&shape.mean)?),
        };
        Some(plan::Think { time: Some(time) })
    }

    fn request(&mut self, method: &str, request: &doc::Request) -> Option<plan::HttpStep> {
        let name = request
            .name
            .as_ref()
            .map_or_else(|| format!("{method} {}", request.url.value), |name| name.0.value.clone());
        let url = self.url(&request.url, request.query.as_ref());
        let mut headers = request.headers.as_ref().map_or(Some(Vec::new()), |headers| self.headers(headers));
        if let Some(cookies) = &request.cookies {
            let mut value = Template::default();
            for (place, (name, cookie)) in cookies.entries.iter().enumerate() {
                let begin = format!("{}{}=", if place > 0 { "; " } else { "" }, name.0.value);
                value.parts.extend(fixed(&begin).parts);
                value.parts.extend(self.templates().text(cookie, self.sink)?.parts);
            }
            if let Some(headers) = &mut headers {
                headers.push(plan::Header { name: "cookie".to_owned(), value: Some(value) });
            }
        }
        let body = self.body(request);
        let expect = self.expect(&name, request.expect.as_ref());
        let captures = request.capture.as_ref().map_or(Some(Vec::new()), |captures| self.captures(captures));
        let redirects = request.redirects.as_ref().map(|count| self.constants.quantity(count, self.sink));
        let timeout = request.timeout.as_ref().map(|timeout| self.ns(timeout));
        let step = self.names.step(&name);
        let (body, content_type) = body?;
        Some(plan::HttpStep {
            step,
            method: method.to_owned(),
            url: Some(url?),
            headers: headers?,
            has_body: body.is_some(),
            body,
            content_type,
            expect: Some(expect?),
            captures: captures?,
            required: request.required.unwrap_or(false),
            redirects: match redirects {
                Some(redirects) => Some(u32::try_from(redirects?).unwrap_or(u32::MAX)),
                None => None,
            },
            timeout_ns: match timeout {
                Some(timeout) => Some(timeout?),
                None => None,
            },
        })
    }

    fn url(&mut self, url: &Text, query: Option<&Mapped<Text>>) -> Option<Template> {
        let text = url.value.trim();
        if let Some((scheme, rest)) = text.split_once("://") {
            if !matches!(scheme, "http" | "https") && !scheme.contains("${") {
                self.sink.add_with_hint(
                    url.span,
                    format!("`{scheme}://` is not supported"),
                    "use http:// or https://",
                );
                return None;
            }
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if !host.contains("${") {
                self.names.hosts.insert(super::host_of(host));
            }
        } else if let Some((target, path)) = text
            .split_once(':')
            .filter(|(target, path)| !target.contains(['/', '?', '$']) && path.starts_with('/'))
        {
            self.sink.add_with_hint(
                url.at(0, target.len()),
                format!("named targets (`{target}:`) are not supported yet by this version"),
                format!("write the whole address, or only `{path}`"),
            );
            return None;
        } else if !text.starts_with(['/', '?']) && !text.starts_with("${") {
            self.sink.add_with_hint(
                url.span,
                format!("`{text}` is neither a path nor an address"),
                format!("a path begins with `/`: `/{text}`"),
            );
            return None;
        }
        let mut template = self.templates().text(url, self.sink)?;
        if let Some(query) = query {
            let pairs = self.templates().pairs(query, self.sink)?;
            template.parts.extend(fixed(if text.contains('?') { "&" } else { "?" }).parts);
            template.parts.extend(pairs.parts);
        }
        Some(template)
    }

    fn body(&mut self, request: &doc::Request) -> Option<(Option<Template>, String)> {
        let templates = self.templates();
        let bodies = [request.json.is_some(), request.form.is_some(), request.body.is_some()];
        if bodies.iter().filter(|&&there| there).count() > 1 {
            self.sink.add(request.span, "a request has at most one of `json`, `form` and `body`");
            return None;
        }
        if let Some(json) = &request.json {
            Some((Some(templates.json(&json.0, self.sink)?), "application/json".to_owned()))
        } else if let Some(form) = &request.form {
            Some((Some(templates.pairs(form, self.sink)?), "application/x-www-form-urlencoded".to_owned()))
        } else if let Some(body) = &request.body {
            Some((Some(templates.text(body, self.sink)?), "text/plain; charset=utf-8".to_owned()))
        } else {
            Some((None, String::new()))
        }
    }

    fn expect(&mut self, step: &str, expect: Option<&doc::Expect>) -> Option<plan::Expect> {
        let Some(expect) = expect else { return Some(plan::Expect::default()) };
        let mut out = plan::Expect::default();
        if let Some(statuses) = &expect.status {
            let shown: Vec<String> = statuses
                .0
                .iter()
                .map(
                    |&(first, last)| {
                        if first == last { first.to_string() } else { format!("{}xx", first / 100) }
                    },
                )
                .collect();
            out.status = statuses
                .0
                .iter()
                .map(|&(first, last)| plan::StatusRange { first: first.into(), last: last.into() })
                .collect();
            out.status_check =
                intern(&mut self.names.checks, &format!("{step}: status {}", shown.join(" or ")));
        }
        if let Some(within) = &expect.within {
            let limit = self.constants.quantity(within, self.sink)?;
            let shown = loadgrid_common::units::show_duration(limit);
            out.within_ns = Some(loadgrid_common::time::nanos(limit));
            out.within_check = intern(&mut self.names.checks, &format!("{step}: within {shown}"));
        }
        for (path, condition) in expect.json.iter().flat_map(|json| &json.entries) {
            let path = self.json_path(&path.0)?;
            let (words, condition) = match condition {
                JsonExpect::Equals(value) | JsonExpect::Condition(doc::JsonCondition::Equals(value)) => {
                    let template = self.templates().json(&value.0, self.sink)?;
                    ("is as expected".to_owned(), plan::json_check::Condition::EqualsJson(template))
                }
                JsonExpect::Condition(doc::JsonCondition::Exists(exists)) => {
                    let words = if *exists { "exists" } else { "is absent" };
                    (words.to_owned(), plan::json_check::Condition::Exists(*exists))
                }
                JsonExpect::Condition(doc::JsonCondition::Matches(pattern)) => {
                    if let Err(error) = regex::Regex::new(&pattern.value) {
                        self.sink.add(pattern.span, format!("this is not a regular expression: {error}"));
                        return None;
                    }
                    (
                        format!("matches {}", pattern.value),
                        plan::json_check::Condition::Matches(pattern.value.clone()),
                    )
                }
            };
            let check = intern(&mut self.names.checks, &format!("{step}: {path} {words}"));
            out.json.push(plan::JsonCheck { path, check, condition: Some(condition) });
        }
        Some(out)
    }

    fn json_path(&mut self, path: &Text) -> Option<String> {
        if let Err(error) = serde_json_path::JsonPath::parse(&path.value) {
            let hint = "write for example $.token or $.items[0].id";
            self.sink.add_with_hint(path.span, format!("`{}` is not a JSONPath: {error}", path.value), hint);
            return None;
        }
        Some(path.value.clone())
    }

    fn captures(&mut self, captures: &Mapped<doc::Capture>) -> Option<Vec<plan::Capture>> {
        let mut out = Vec::new();
        let mut good = true;
        for (name, capture) in &captures.entries {
            if plan::slots::FIXED.contains(&name.0.value.as_str())
                || self.sources.iter().any(|source| source.0 == name.0.value)
            {
                self.sink.add(name.0.span, format!("`{}` is taken; choose another name", name.0.value));
                good = false;
                continue;
            }
            let from = match &capture.from {
                CaptureFrom::Json(path) => self.json_path(path).map(plan::capture::From::JsonPath),
                CaptureFrom::Header(header) => {
                    Some(plan::capture::From::Header(header.value.to_ascii_lowercase()))
                }
                CaptureFrom::Cookie(cookie) => Some(plan::capture::From::Cookie(cookie.value.clone())),
            };
            match from {
                Some(from) => out.push(plan::Capture {
                    slot: self.slot(&name.0.value),
                    optional: capture.optional,
                    from: Some(from),
                }),
                None => good = false,
            }
        }
        good.then_some(out)
    }

    /// The settings of `http`.
    pub(super) fn http(&mut self, http: Option<&doc::Http>) -> Option<plan::Http> {
        let mut out = plan::Http {
            connect_timeout_ns: 5_000_000_000,
            response_timeout_ns: 30_000_000_000,
            redirects: 3,
            cookies: true,
            max_body_bytes: 16 << 20,
            headers: Vec::new(),
        };
        let Some(http) = http else { return Some(out) };
        if let Some(timeout) = &http.timeout {
            if let Some(connect) = &timeout.connect {
                out.connect_timeout_ns = self.ns(connect)?;
            }
            if let Some(response) = &timeout.response {
                out.response_timeout_ns = self.ns(response)?;
            }
        }
        if let Some(redirects) = &http.redirects {
            out.redirects = u32::try_from(self.constants.quantity(redirects, self.sink)?).unwrap_or(u32::MAX);
        }
        out.cookies = http.cookies != Some(Cookies::None);
        if let Some(max_body) = &http.max_body {
            out.max_body_bytes = self.constants.quantity(max_body, self.sink)?;
        }
        out.headers = http.headers.as_ref().map_or(Some(Vec::new()), |headers| self.headers(headers))?;
        Some(out)
    }
}

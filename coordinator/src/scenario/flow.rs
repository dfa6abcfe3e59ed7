//! Steps as written to steps of the plan: calls are replaced by what they call, names become indices.

use std::cell::RefCell;
use std::collections::BTreeSet;

use loadgrid_common::expression;
use loadgrid_common::plan::{self as plan};

use super::blobs::Blobs;
use super::constants::Constants;
use super::decode::{Any, Duration, Mapped, Name, Quantity, Text};
use super::document::{self as doc, Step, Think};
use super::problem::{Sink, suggest};
use super::template::{Scope, Templates};

/// Lists of names that the plan refers to by index.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) steps: Vec<String>,
    /// Beside `steps`.
    pub(super) places: Vec<plan::StepPlace>,
    pub(super) groups: Vec<String>,
    pub(super) observed: Vec<String>,
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
/// Words that expressions read as something else than a name.
const RESERVED: &[&str] = &[
    "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if", "else", "loop",
    "self",
];
/// The most steps of a user, calls replaced: a guard against flows that multiply.
const MOST_EXPANDED: usize = 20_000;

pub(super) fn intern(list: &mut Vec<String>, name: &str) -> u32 {
    let place = list.iter().position(|known| known == name).unwrap_or_else(|| {
        list.push(name.to_owned());
        list.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl Names {
    /// The index of a step: a name may stand in several places, each with figures of its own.
    pub(super) fn step(&mut self, name: &str, place: plan::StepPlace) -> u32 {
        let known = self.steps.iter().zip(&self.places);
        let found = known.clone().position(|(known, its)| known == name && *its == place);
        if let Some(found) = found {
            return u32::try_from(found).unwrap_or(u32::MAX);
        }
        if self.steps.len() >= MOST_STEPS {
            let rest = intern(&mut self.steps, OTHER);
            self.places.resize(self.steps.len(), plan::StepPlace::default());
            return rest;
        }
        self.steps.push(name.to_owned());
        self.places.push(place);
        u32::try_from(self.steps.len() - 1).unwrap_or(u32::MAX)
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
            | Step::Head(r)
            | Step::Options(r) => {
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
            Step::Group(step) => variables(&step.r#do, flows, depth + 1, found),
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
    /// What `setup` yields.
    pub(super) setup: &'a [String],
    /// Addresses by name.
    pub(super) targets: &'a [(String, String)],
    pub(super) blobs: &'a RefCell<Blobs>,
    pub(super) resolver: &'a dyn super::Resolver,
    pub(super) used_columns: &'a RefCell<BTreeSet<(String, String)>>,
    pub(super) names: &'a mut Names,
    pub(super) sink: &'a mut Sink,
    /// Names that may be variables of parts that could not be read.
    pub(super) perhaps: &'a BTreeSet<String>,
    /// Flows that are being expanded, to find a flow that calls itself.
    pub(super) calls: Vec<String>,
    pub(super) expanded: usize,
    /// 1 + index of the innermost group that is being compiled.
    pub(super) group: u32,
    /// Whether what is compiled serves several types of user.
    pub(super) by_name: bool,
}

impl<'a> Flows<'a> {
    pub(super) fn templates(&self) -> Templates<'a> {
        let scope =
            Scope { slots: self.slots, sources: self.sources, secrets: self.secrets, setup: self.setup };
        Templates {
            constants: self.constants,
            scope,
            used_columns: self.used_columns,
            by_name: self.by_name,
            perhaps: self.perhaps,
        }
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
            Step::Options(request) => Out::Http(self.request("OPTIONS", request)?),
            Step::Call(_) => return None,
            Step::Group(group) => {
                let index = intern(&mut self.names.groups, &group.name.0.value);
                let outer = std::mem::replace(&mut self.group, index + 1);
                let steps = self.steps(&group.r#do);
                self.group = outer;
                Out::Group(plan::Group { group: index, steps })
            }
            Step::Observe(values) => {
                let templates = self.templates();
                let read = values.entries.iter().map(|(name, value)| {
                    let value = templates.text(value, self.sink)?;
                    self.is_metric_name(name);
                    let observed = intern(&mut self.names.observed, &name.0.value);
                    Some(plan::Observation { observed, value: Some(value) })
                });
                let read: Vec<_> = read.collect();
                Out::Observe(plan::Observe { values: read.into_iter().collect::<Option<_>>()? })
            }
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
                        self.is_metric_name(name);
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

    /// Tells where a counter or an observed value has the name of a metric that every test has.
    fn is_metric_name(&mut self, name: &Name) {
        if crate::judge::is_metric(&name.0.value) {
            let message = format!("`{}` is a metric that every test has", name.0.value);
            self.sink.add_with_hint(name.0.span, message, "choose another name");
        }
    }

    pub(super) fn slot(&self, name: &str) -> u32 {
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
                self.is_variable_name(&name.0)?;
                Some(plan::Assignment { slot: self.slot(&name.0.value), value: Some(value) })
            })
            .collect();
        read.into_iter().collect()
    }

    /// Whether a text can name a variable; tells where not.
    pub(super) fn is_variable_name(&mut self, name: &Text) -> Option<()> {
        let text = name.value.as_str();
        let shape = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let (message, hint) = if !shape {
            let hint = "it stands in expressions, so it begins with a letter and has letters, digits and _";
            (format!("`{text}` cannot name a variable"), hint)
        } else if plan::slots::FIXED.contains(&text) || self.sources.iter().any(|source| source.0 == text) {
            (format!("`{text}` is taken"), "choose another name")
        } else if RESERVED.contains(&text) {
            (format!("`{text}` is a word of expressions"), "choose another name")
        } else if expression::known_functions().any(|function| function == text) {
            (format!("`{text}` is the name of a function"), "choose another name")
        } else {
            return Some(());
        };
        self.sink.add_with_hint(name.span, message, hint);
        None
    }

    pub(super) fn headers(&mut self, headers: &Mapped<Text>) -> Option<Vec<plan::Header>> {
        let read: Vec<_> = headers
            .entries
            .iter()
            .map(|(name, value)| {
                let value = self.templates().text(value, self.sink);
                let name = &name.0;
                if !super::request::is_header_name(&name.value) {
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

    pub(super) fn ns(&mut self, duration: &Quantity<Duration>) -> Option<u64> {
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
}

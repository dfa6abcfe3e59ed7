//! Phases and their loads.

use std::time::Duration;

use loadgrid_common::plan;
use loadgrid_common::time::nanos;
use loadgrid_common::units::Rate;

use super::constants::Constants;
use super::decode::{self, Mapped, Quantity, Text};
use super::document::{self as doc, ArrivalKind, Document, UserType};
use super::problem::{Sink, Span, suggest};

/// `-u`, `-d` and `-r` of the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOverrides {
    /// Virtual users.
    pub vus: Option<u64>,
    /// Duration.
    pub duration: Option<Duration>,
    /// Arrival rate.
    pub rate: Option<Rate>,
}

/// How long a phase waits for iterations under way.
const GRACEFUL_STOP: Duration = Duration::from_secs(30);
/// The most users of a load.
const MOST_USERS: u64 = 10_000_000;
/// The longest run.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);

/// The phases of a scenario: those declared, or the one of the short form.
pub(super) fn phases(
    document: &Document,
    users: &Mapped<UserType>,
    constants: &Constants,
    overrides: &LoadOverrides,
    response_timeout_ns: u64,
    sink: &mut Sink,
) -> Option<Vec<plan::Phase>> {
    let mut reader = Reader { users, constants, overrides: *overrides, response_timeout_ns, sink };
    let phases = match (&document.phases, &document.load) {
        (Some(phases), None) => {
            if phases.is_empty() && reader.sink.is_empty() {
                reader.sink.add(document.span, "`phases` is empty");
            }
            let mut names: Vec<&str> = Vec::new();
            for phase in phases {
                let name = &phase.name.0;
                if names.contains(&name.value.as_str()) {
                    reader.sink.add(name.span, format!("there is a phase `{}` already", name.value));
                }
                names.push(&name.value);
            }
            if phases.iter().map(|phase| phase.load.len()).sum::<usize>() > 1 {
                reader.refuse_overrides();
            }
            let read: Vec<_> = phases.iter().map(|phase| reader.phase(phase)).collect();
            read.into_iter().collect::<Option<Vec<_>>>()?
        }
        (None, Some(load)) => vec![plan_phase("main", vec![reader.short(load)?])],
        (None, None) => {
            let span = Span { start: document.span.start, length: 1 };
            sink.add_with_hint(
                span,
                "the scenario has no load",
                "give `load: { rate: 100/s, for: 30s }` or `phases:`",
            );
            return None;
        }
        (Some(_), Some(load)) => {
            sink.add_with_hint(
                load.span,
                "the scenario has both `load` and `phases`",
                "`load` is the short form for one phase; keep one of them",
            );
            return None;
        }
    };
    let total: Duration = phases.iter().map(plan::Phase::length).sum();
    if total > LONGEST_RUN {
        sink.add(document.span, "the phases take longer than 24 hours in all");
        return None;
    }
    Some(phases)
}

fn plan_phase(name: &str, loads: Vec<plan::Load>) -> plan::Phase {
    plan::Phase { name: name.to_owned(), graceful_stop_ns: nanos(GRACEFUL_STOP), loads }
}

struct Reader<'a> {
    users: &'a Mapped<UserType>,
    constants: &'a Constants,
    overrides: LoadOverrides,
    response_timeout_ns: u64,
    sink: &'a mut Sink,
}

/// An open load before its defaults.
struct OpenShape {
    pieces: Vec<plan::PlanRatePiece>,
    poisson: bool,
    max_vus: Option<u64>,
    executor: &'static str,
}

impl Reader<'_> {
    /// `-u`, `-d` and `-r` say nothing where there are several loads.
    fn refuse_overrides(&mut self) {
        let LoadOverrides { vus, duration, rate } = self.overrides;
        for (given, flag) in [(vus.is_some(), "-u"), (duration.is_some(), "-d"), (rate.is_some(), "-r")] {
            if given {
                let hint = "give the scenario a var and pass `--var NAME=VALUE`";
                self.sink.add_with_hint(
                    Span::default(),
                    format!("{flag} is for a scenario with one load; this one has several"),
                    hint,
                );
            }
        }
        self.overrides = LoadOverrides::default();
    }

    fn phase(&mut self, phase: &doc::Phase) -> Option<plan::Phase> {
        if phase.load.is_empty() && self.sink.is_empty() {
            self.sink.add(phase.span, format!("the phase `{}` has no load", phase.name.0.value));
        }
        let read: Vec<_> = phase.load.iter().map(|load| self.load(load)).collect();
        let phase_plan = plan_phase(&phase.name.0.value, read.into_iter().collect::<Option<_>>()?);
        if phase_plan.length().is_zero() && self.sink.is_empty() {
            self.sink.add(phase.span, format!("the phase `{}` has no length", phase.name.0.value));
        }
        Some(phase_plan)
    }

    fn short(&mut self, load: &doc::ShortLoad) -> Option<plan::Load> {
        match (&load.rate, &load.vus) {
            (Some(rate), None) => self.constant_rate(None, load.span, rate, &load.r#for, None, None),
            (None, Some(vus)) => self.constant_vus(None, load.span, vus, &load.r#for),
            // Whichever it was could not be read.
            (None, None) if !self.sink.is_empty() => None,
            _ => {
                self.sink.add_with_hint(
                    load.span,
                    "a short load has either `rate` or `vus`",
                    "write { rate: 100/s, for: 30s } or { vus: 50, for: 30s }",
                );
                None
            }
        }
    }

    fn load(&mut self, load: &doc::Load) -> Option<plan::Load> {
        match load {
            doc::Load::ConstantVus(l) => self.constant_vus(l.user.as_ref(), l.span, &l.vus, &l.duration),
            doc::Load::RampingVus(l) => self.ramping_vus(l),
            doc::Load::ConstantRate(l) => self.constant_rate(
                l.user.as_ref(),
                l.span,
                &l.rate,
                &l.duration,
                l.arrivals,
                l.max_vus.as_ref(),
            ),
            doc::Load::RampingRate(l) => self.ramping_rate(l),
        }
    }

    fn user(&mut self, user: Option<&Text>, span: Span) -> Option<u32> {
        let place = match user {
            Some(name) => {
                let place = self.users.names().position(|known| known == name.value);
                if place.is_none() && !self.users.is_broken(&name.value) {
                    let hint = suggest(&name.value, self.users.names()).unwrap_or_default();
                    self.sink.add_with_hint(
                        name.span,
                        format!("there is no user type `{}`", name.value),
                        hint,
                    );
                }
                place
            }
            None if self.users.entries.len() == 1 => Some(0),
            None if !self.sink.is_empty() => None,
            None => {
                let known: Vec<&str> = self.users.names().collect();
                let hint = format!("one of: {}", known.join(", "));
                self.sink.add_with_hint(span, "`user` is missing here, and there are several types", hint);
                None
            }
        };
        place.and_then(|place| u32::try_from(place).ok())
    }

    fn count(&mut self, quantity: &Quantity<decode::Count>) -> Option<u64> {
        let count = self.constants.quantity(quantity, self.sink)?;
        if count > MOST_USERS {
            self.sink.add(quantity.text.span, format!("{count} users; a load may have 10,000,000"));
            return None;
        }
        Some(count)
    }

    fn duration(&mut self, quantity: &Quantity<decode::Duration>) -> Option<Duration> {
        match self.overrides.duration {
            Some(duration) => Some(duration),
            None => self.constants.quantity(quantity, self.sink),
        }
    }

    fn wrong_override(&mut self, flag: &str, given: bool, executor: &str) {
        if given {
            self.sink
                .add(Span::default(), format!("{flag} does not fit: the scenario's load is `{executor}`"));
        }
    }

    fn constant_vus(
        &mut self,
        user: Option<&Text>,
        span: Span,
        vus: &Quantity<decode::Count>,
        duration: &Quantity<decode::Duration>,
    ) -> Option<plan::Load> {
        self.wrong_override("-r", self.overrides.rate.is_some(), "constant-vus");
        let user = self.user(user, span);
        let vus = self.overrides.vus.map_or_else(|| self.count(vus), Some);
        let over = self.duration(duration)?;
        let vus = vus?;
        if vus == 0 {
            self.sink.add(span, "there are no virtual users: `vus` is 0");
        }
        let pieces = vec![plan::PlanUserPiece { from: vus, to: vus, over_ns: nanos(over) }];
        Some(closed(user?, pieces, "constant-vus"))
    }

    fn ramping_vus(&mut self, load: &doc::RampingVus) -> Option<plan::Load> {
        self.wrong_override("-u", self.overrides.vus.is_some(), "ramping-vus");
        self.wrong_override("-d", self.overrides.duration.is_some(), "ramping-vus");
        self.wrong_override("-r", self.overrides.rate.is_some(), "ramping-vus");
        let user = self.user(load.user.as_ref(), load.span);
        let mut from = match &load.start {
            Some(start) => self.count(start)?,
            None => 0,
        };
        let mut pieces = Vec::new();
        for stage in &load.stages {
            let (to, over) = (self.count(&stage.to), self.constants.quantity(&stage.over, self.sink));
            let (Some(to), Some(over)) = (to, over) else { continue };
            pieces.push(plan::PlanUserPiece { from, to, over_ns: nanos(over) });
            from = to;
        }
        if pieces.len() < load.stages.len() {
            return None;
        }
        if pieces.is_empty() && self.sink.is_empty() {
            self.sink.add(load.span, "`stages` is empty");
        }
        Some(closed(user?, pieces, "ramping-vus"))
    }

    fn constant_rate(
        &mut self,
        user: Option<&Text>,
        span: Span,
        rate: &Quantity<decode::Rate>,
        duration: &Quantity<decode::Duration>,
        arrivals: Option<ArrivalKind>,
        max_vus: Option<&Quantity<decode::Count>>,
    ) -> Option<plan::Load> {
        let user = self.user(user, span);
        let rate = self.overrides.rate.map_or_else(|| self.constants.quantity(rate, self.sink), Some);
        let over = self.duration(duration);
        let max_vus = self.max_vus(max_vus);
        let (rate, over) = (rate?, over?);
        let milli = rate.milli_per_hour();
        let pieces = vec![plan::PlanRatePiece {
            from_milli_per_hour: milli,
            to_milli_per_hour: milli,
            over_ns: nanos(over),
        }];
        let poisson = arrivals == Some(ArrivalKind::Poisson);
        self.open(
            user?,
            OpenShape { pieces, poisson, max_vus: max_vus?, executor: "constant-arrival-rate" },
            span,
        )
    }

    fn ramping_rate(&mut self, load: &doc::RampingRate) -> Option<plan::Load> {
        self.wrong_override("-d", self.overrides.duration.is_some(), "ramping-arrival-rate");
        self.wrong_override("-r", self.overrides.rate.is_some(), "ramping-arrival-rate");
        let user = self.user(load.user.as_ref(), load.span);
        let max_vus = self.max_vus(load.max_vus.as_ref());
        let mut from = match &load.start {
            Some(start) => self.constants.quantity(start, self.sink)?.milli_per_hour(),
            None => 0,
        };
        let mut pieces = Vec::new();
        for stage in &load.stages {
            let (to, over) = (
                self.constants.quantity(&stage.to, self.sink),
                self.constants.quantity(&stage.over, self.sink),
            );
            let (Some(to), Some(over)) = (to, over) else { continue };
            pieces.push(plan::PlanRatePiece {
                from_milli_per_hour: from,
                to_milli_per_hour: to.milli_per_hour(),
                over_ns: nanos(over),
            });
            from = to.milli_per_hour();
        }
        if pieces.len() < load.stages.len() {
            return None;
        }
        let poisson = load.arrivals == Some(ArrivalKind::Poisson);
        self.open(
            user?,
            OpenShape { pieces, poisson, max_vus: max_vus?, executor: "ramping-arrival-rate" },
            load.span,
        )
    }

    /// `-u`, or `max_vus`, or nothing.
    fn max_vus(&mut self, max_vus: Option<&Quantity<decode::Count>>) -> Option<Option<u64>> {
        match (self.overrides.vus, max_vus) {
            (Some(vus), _) => Some(Some(vus)),
            (None, Some(max_vus)) => match self.count(max_vus)? {
                0 => {
                    self.sink.add(max_vus.text.span, "nobody could serve an arrival: `max_vus` is 0");
                    None
                }
                max_vus => Some(Some(max_vus)),
            },
            (None, None) => Some(None),
        }
    }

    fn open(&mut self, user: u32, shape: OpenShape, span: Span) -> Option<plan::Load> {
        let max_vus_is_default = shape.max_vus.is_none();
        let mut open = plan::Open {
            pieces: shape.pieces,
            poisson: shape.poisson,
            max_vus: shape.max_vus.unwrap_or(1),
            max_vus_is_default,
            executor: shape.executor.to_owned(),
        };
        let peak =
            open.pieces.iter().map(|p| p.from_milli_per_hour.max(p.to_milli_per_hour)).max().unwrap_or(0);
        if max_vus_is_default {
            // As many as arrive within the longest wait for an answer, so that a stall drops nothing.
            let within =
                Rate::from_milli_per_hour(peak).as_per_second() * self.response_timeout_ns as f64 / 1e9;
            open.max_vus = (within.ceil() as u64).clamp(1, 100_000);
        }
        let load = plan::Load { user, identity_base: 0, model: Some(plan::load::Model::Open(open)) };
        match load.view(&plan_phase("", Vec::new())) {
            Ok(view) if view.planned() == Some(0) => {
                self.sink.add_with_hint(span, "this load has no arrivals", "raise the rate or the duration");
                None
            }
            Ok(_) => Some(load),
            Err(error) => {
                self.sink.add(span, format!("this load cannot be scheduled: {error}"));
                None
            }
        }
    }
}

fn closed(user: u32, pieces: Vec<plan::PlanUserPiece>, executor: &str) -> plan::Load {
    let closed = plan::Closed { pieces, executor: executor.to_owned() };
    plan::Load { user, identity_base: 0, model: Some(plan::load::Model::Closed(closed)) }
}

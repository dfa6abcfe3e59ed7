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
/// How long counted iterations may take, where the scenario does not say.
const MAX_DURATION: Duration = Duration::from_secs(600);
/// How long `setup` and `teardown` may take.
const ONCE_LIMIT: Duration = Duration::from_secs(300);
/// The most users of a load.
const MOST_USERS: u64 = 10_000_000;
/// The most iterations of a load that counts them.
const MOST_ITERATIONS: u64 = 1 << 42;
/// The most periods of a `burst`.
const MOST_BURSTS: u64 = 10_000;
/// The longest run.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);

/// Which phases are carried out: what the command line says.
#[derive(Clone, Debug, Default)]
pub struct PhaseChoice {
    /// `--with`: phases that are carried out only when asked for.
    pub with: Vec<String>,
    /// `--only`: these, and nothing else but what they continue.
    pub only: Vec<String>,
}

/// What the phases are read with.
pub(super) struct Loads<'a> {
    pub(super) document: &'a Document,
    pub(super) users: &'a Mapped<UserType>,
    pub(super) constants: &'a Constants,
    pub(super) overrides: LoadOverrides,
    pub(super) choice: &'a PhaseChoice,
    pub(super) response_timeout_ns: u64,
}

/// The phases of a scenario: those declared, or the one of the short form.
pub(super) fn phases(loads: &Loads<'_>, sink: &mut Sink) -> Option<Vec<plan::Phase>> {
    let Loads { document, users, constants, overrides, choice, response_timeout_ns } = *loads;
    let mut reader = Reader { users, constants, overrides, response_timeout_ns, sink };
    let phases = match (&document.phases, &document.load) {
        (Some(phases), None) => {
            if phases.is_empty() && reader.sink.is_empty() {
                reader.sink.add(document.span, "`phases` is empty");
            }
            let mut names: Vec<&str> = Vec::new();
            for phase in phases {
                let name = &phase.name.0;
                if names.contains(&name.value.as_str()) {
                    let message = format!("there is a phase `{}` already", name.value);
                    reader.sink.add_with_hint(name.span, message, "give it another name");
                }
                if matches!(name.value.as_str(), "setup" | "teardown") {
                    let message = format!("`{}` is what the steps of that name are called", name.value);
                    reader.sink.add_with_hint(name.span, message, "give the phase another name");
                }
                names.push(&name.value);
            }
            if phases.iter().map(|phase| phase.load.len()).sum::<usize>() > 1 {
                reader.refuse_overrides();
            }
            reader.phases(phases, choice)?
        }
        (None, Some(load)) => {
            reader.choice_is_known(choice, &["main"]);
            vec![plan_phase("main", vec![reader.short(load)?])]
        }
        (None, None) if !sink.is_empty() => return None,
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
    let settled: Duration = phases.iter().map(|phase| Duration::from_nanos(phase.settle_ns)).sum();
    let total: Duration = phases.iter().map(plan::Phase::length).sum::<Duration>() + settled;
    if total > LONGEST_RUN {
        sink.add(document.span, "the phases take longer than 24 hours in all");
        return None;
    }
    Some(phases)
}

/// The phase in which one worker carries out the steps of user type `user` once.
pub(super) fn once(name: &str, kind: plan::PhaseKind, user: u32) -> plan::Phase {
    let max_duration_ns = nanos(ONCE_LIMIT);
    let counted = plan::Counted { vus: 1, iterations: 1, max_duration_ns, ..plan::Counted::default() };
    let load = plan::Load { user, identity_base: 0, model: Some(plan::load::Model::Counted(counted)) };
    plan::Phase { kind: kind.into(), unrecorded: true, graceful_stop_ns: 0, ..plan_phase(name, vec![load]) }
}

fn plan_phase(name: &str, loads: Vec<plan::Load>) -> plan::Phase {
    plan::Phase {
        name: name.to_owned(),
        graceful_stop_ns: nanos(GRACEFUL_STOP),
        loads,
        ..plan::Phase::default()
    }
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
    prepared: u64,
    queue: bool,
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

    /// Tells of a name on the command line that no phase has.
    fn choice_is_known(&mut self, choice: &PhaseChoice, known: &[&str]) {
        for (flag, names) in [("--with", &choice.with), ("--only", &choice.only)] {
            for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
                let hint = suggest(name, known.iter().copied()).unwrap_or_default();
                let message = format!("{flag} {name}: the scenario has no such phase");
                self.sink.add_with_hint(Span::default(), message, hint);
            }
        }
    }

    /// All phases that are to be carried out.
    fn phases(&mut self, phases: &[doc::Phase], choice: &PhaseChoice) -> Option<Vec<plan::Phase>> {
        let names: Vec<&str> = phases.iter().map(|phase| phase.name.0.value.as_str()).collect();
        self.choice_is_known(choice, &names);
        let chosen = |phase: &doc::Phase| {
            let name = &phase.name.0.value;
            match choice.only.is_empty() {
                true => phase.when != Some(doc::When::Manual) || choice.with.contains(name),
                false => choice.only.contains(name) || choice.with.contains(name),
            }
        };
        let mut wanted: Vec<bool> = phases.iter().map(chosen).collect();
        for place in (1..phases.len()).rev() {
            // A phase that continues another needs it.
            wanted[place - 1] |= wanted[place] && phases[place].continues.is_some();
        }
        // Every phase is read, for its problems; only the chosen ones are kept.
        let mut all: Vec<Option<plan::Phase>> = Vec::new();
        for (place, phase) in phases.iter().enumerate() {
            let before = place.checked_sub(1);
            self.continues_the_one_before(phase, before.and_then(|place| phases.get(place)));
            let continued = before.filter(|_| phase.continues.is_some());
            let continued = continued.and_then(|place| all.get(place)?.clone());
            all.push(self.phase(phase, continued.as_ref()));
        }
        let good = all.iter().all(Option::is_some);
        let kept = all.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        let read: Vec<plan::Phase> = kept.filter_map(|(phase, _)| phase).collect();
        if read.is_empty() && good && self.sink.is_empty() {
            let hint = "all are `when: manual`; name one with --with";
            self.sink.add_with_hint(Span::default(), "no phase is to be carried out", hint);
        }
        good.then_some(read)
    }

    fn continues_the_one_before(&mut self, phase: &doc::Phase, before: Option<&doc::Phase>) {
        let Some(continues) = &phase.continues else { return };
        match before {
            // The one before may be one that could not be read.
            _ if !self.sink.is_empty() => {}
            Some(before) if before.name.0.value == continues.value => {}
            Some(before) => {
                let message = format!("`{}` is not the phase before this one", continues.value);
                let hint = format!("write continues: {}", before.name.0.value);
                self.sink.add_with_hint(continues.span, message, hint);
            }
            None => {
                let hint = "remove `continues`";
                self.sink.add_with_hint(continues.span, "there is no phase before this one", hint);
            }
        }
    }

    fn phase(&mut self, phase: &doc::Phase, before: Option<&plan::Phase>) -> Option<plan::Phase> {
        if phase.load.is_empty() && self.sink.is_empty() {
            self.sink.add(phase.span, format!("the phase `{}` has no load", phase.name.0.value));
        }
        let read: Vec<_> = phase.load.iter().map(|load| self.load(load, before)).collect();
        let settle = phase.settle.as_ref().map_or(Some(Duration::ZERO), |settle| self.time(settle));
        let graceful = phase.graceful_stop.as_ref().map_or(Some(GRACEFUL_STOP), |stop| self.time(stop));
        let mut out = plan_phase(&phase.name.0.value, read.into_iter().collect::<Option<_>>()?);
        out.settle_ns = nanos(settle?);
        out.graceful_stop_ns = nanos(graceful?);
        out.unrecorded = phase.record == Some(false);
        out.continues = phase.continues.is_some();
        if let (true, Some(continues)) = (out.continues, &phase.continues) {
            for phases in [Some(&out), before].into_iter().flatten() {
                let mut types: Vec<u32> = phases.loads.iter().map(|load| load.user).collect();
                types.sort_unstable();
                if types.windows(2).any(|pair| pair[0] == pair[1]) {
                    let message = format!("the phase `{}` has two loads of one type of user", phases.name);
                    let hint = "where users live on, each type has one load: it says how many there are";
                    self.sink.add_with_hint(continues.span, message, hint);
                    return None;
                }
            }
        }
        if out.limit().is_zero() && self.sink.is_empty() {
            let hint = "give its load a duration";
            let message = format!("the phase `{}` has no length", phase.name.0.value);
            self.sink.add_with_hint(phase.span, message, hint);
        }
        Some(out)
    }

    fn time(&mut self, quantity: &Quantity<decode::Duration>) -> Option<Duration> {
        self.constants.quantity(quantity, self.sink)
    }

    fn short(&mut self, load: &doc::ShortLoad) -> Option<plan::Load> {
        match (&load.rate, &load.vus) {
            (Some(rate), None) => {
                let rate = doc::ConstantRate {
                    span: load.span,
                    user: None,
                    rate: rate.clone(),
                    duration: load.r#for.clone(),
                    arrivals: None,
                    max_vus: None,
                    prepared: None,
                    when_full: None,
                };
                self.constant_rate(&rate)
            }
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

    fn load(&mut self, load: &doc::Load, before: Option<&plan::Phase>) -> Option<plan::Load> {
        match load {
            doc::Load::ConstantVus(l) => self.constant_vus(l.user.as_ref(), l.span, &l.vus, &l.duration),
            doc::Load::RampingVus(l) => self.ramping_vus(l),
            doc::Load::ConstantRate(l) => self.constant_rate(l),
            doc::Load::RampingRate(l) => self.ramping_rate(l),
            doc::Load::PerVu(l) => self.per_vu(l),
            doc::Load::SharedIterations(l) => self.shared(l),
            doc::Load::Burst(l) => self.burst(l),
            doc::Load::AtOnce(l) => self.at_once(l),
            doc::Load::Paced(l) => self.paced(l, before),
        }
    }

    fn user(&mut self, user: Option<&Text>, span: Span) -> Option<u32> {
        let place = match user {
            Some(name) => {
                let place = self.users.names().position(|known| known == name.value);
                let nobody = self.users.entries.is_empty() && !self.sink.is_empty();
                if place.is_none() && !self.users.is_broken(&name.value) && !nobody {
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
        let pieces = vec![plan::PlanUserPiece { from: vus, to: vus, over_ns: nanos(over), batch: 0 }];
        Some(closed(user?, pieces, "constant-vus"))
    }

    fn ramping_vus(&mut self, load: &doc::RampingVus) -> Option<plan::Load> {
        self.no_overrides("ramping-vus", false);
        let user = self.user(load.user.as_ref(), load.span);
        let mut from = match &load.start {
            Some(start) => self.count(start)?,
            None => 0,
        };
        let mut pieces = Vec::new();
        for stage in &load.stages {
            let (to, over) = (self.count(&stage.to), self.constants.quantity(&stage.over, self.sink));
            let (Some(to), Some(over)) = (to, over) else { continue };
            let batch = match &stage.batch {
                Some(batch) => match self.count(batch)? {
                    0 => {
                        self.sink.add(batch.text.span, "a batch has at least one user");
                        return None;
                    }
                    batch => batch,
                },
                None => 0,
            };
            pieces.push(plan::PlanUserPiece { from, to, over_ns: nanos(over), batch });
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

    fn constant_rate(&mut self, load: &doc::ConstantRate) -> Option<plan::Load> {
        let user = self.user(load.user.as_ref(), load.span);
        let rate = match self.overrides.rate {
            Some(rate) => Some(rate),
            None => self.constants.quantity(&load.rate, self.sink),
        };
        let over = self.duration(&load.duration);
        let max_vus = self.max_vus(load.max_vus.as_ref());
        let prepared = load.prepared.as_ref().map_or(Some(0), |prepared| self.count(prepared));
        let (rate, over) = (rate?, over?);
        let shape = OpenShape {
            pieces: vec![piece(rate, rate, over)],
            poisson: load.arrivals == Some(ArrivalKind::Poisson),
            max_vus: max_vus?,
            prepared: prepared?,
            queue: load.when_full == Some(doc::WhenFull::Queue),
            executor: "constant-arrival-rate",
        };
        self.open(user?, shape, load.span)
    }

    fn ramping_rate(&mut self, load: &doc::RampingRate) -> Option<plan::Load> {
        self.no_overrides("ramping-arrival-rate", false);
        let user = self.user(load.user.as_ref(), load.span);
        let max_vus = self.max_vus(load.max_vus.as_ref());
        let prepared = load.prepared.as_ref().map_or(Some(0), |prepared| self.count(prepared));
        let mut from = match &load.start {
            Some(start) => self.constants.quantity(start, self.sink)?,
            None => Rate::from_milli_per_hour(0),
        };
        let mut pieces = Vec::new();
        for stage in &load.stages {
            let (to, over) = (self.constants.quantity(&stage.to, self.sink), self.time(&stage.over));
            let (Some(to), Some(over)) = (to, over) else { continue };
            pieces.push(piece(from, to, over));
            from = to;
        }
        if pieces.len() < load.stages.len() {
            return None;
        }
        let shape = OpenShape {
            pieces,
            poisson: load.arrivals == Some(ArrivalKind::Poisson),
            max_vus: max_vus?,
            prepared: prepared?,
            queue: load.when_full == Some(doc::WhenFull::Queue),
            executor: "ramping-arrival-rate",
        };
        self.open(user?, shape, load.span)
    }

    /// Each period: base, burst, base, so that what was before and what comes after is seen.
    fn burst(&mut self, load: &doc::Burst) -> Option<plan::Load> {
        self.no_overrides("burst", false);
        let user = self.user(load.user.as_ref(), load.span);
        let max_vus = self.max_vus(load.max_vus.as_ref());
        let prepared = load.prepared.as_ref().map_or(Some(0), |prepared| self.count(prepared));
        let base = self.constants.quantity(&load.base, self.sink);
        let factor = self.constants.quantity(&load.factor, self.sink);
        let (burst, every) = (self.time(&load.burst), self.time(&load.every));
        let times = load.times.as_ref().map_or(Some(1), |times| self.constants.quantity(times, self.sink))?;
        let (base, factor, burst, every) = (base?, factor?, burst?, every?);
        if burst > every || every.is_zero() {
            let hint = "a period holds its burst and the base load around it: raise `every`";
            self.sink.add_with_hint(load.burst.text.span, "the burst is longer than its period", hint);
            return None;
        }
        if !(1..=MOST_BURSTS).contains(&times) {
            let span = load.times.as_ref().map_or(load.span, |times| times.text.span);
            self.sink.add(span, format!("{times} bursts; there may be 1 to 10,000"));
            return None;
        }
        let high = base.milli_per_hour() as f64 * factor;
        let highest = loadgrid_common::units::HIGHEST_RATE;
        if high > highest.milli_per_hour() as f64 {
            let message = format!("with this factor a burst is above the highest rate, {highest}");
            self.sink.add(load.factor.text.span, message);
            return None;
        }
        let high = Rate::from_milli_per_hour(high.round() as u64);
        let before = (every - burst) / 2;
        let after = every - burst - before;
        let period = [piece(base, base, before), piece(high, high, burst), piece(base, base, after)];
        let pieces = (0..times).flat_map(|_| period).filter(|piece| piece.over_ns > 0).collect();
        let shape = OpenShape {
            pieces,
            poisson: load.arrivals == Some(ArrivalKind::Poisson),
            max_vus: max_vus?,
            prepared: prepared?,
            queue: load.when_full == Some(doc::WhenFull::Queue),
            executor: "burst",
        };
        self.open(user?, shape, load.span)
    }

    /// `-u` where it fits (as `vus`), and refusals of what does not.
    fn no_overrides(&mut self, executor: &str, users_fit: bool) {
        self.wrong_override("-u", !users_fit && self.overrides.vus.is_some(), executor);
        self.wrong_override("-d", self.overrides.duration.is_some(), executor);
        self.wrong_override("-r", self.overrides.rate.is_some(), executor);
    }

    /// Users of a load that has some: `-u`, or what stands there.
    fn some_users(&mut self, vus: &Quantity<decode::Count>) -> Option<u64> {
        let users = match self.overrides.vus {
            Some(vus) => vus,
            None => self.count(vus)?,
        };
        if users == 0 {
            let hint = "write at least 1";
            self.sink.add_with_hint(vus.text.span, "there are no virtual users: `vus` is 0", hint);
            return None;
        }
        Some(users)
    }

    fn iterations(&mut self, quantity: &Quantity<decode::Count>) -> Option<u64> {
        let iterations = self.constants.quantity(quantity, self.sink)?;
        if !(1..=MOST_ITERATIONS).contains(&iterations) {
            self.sink.add(quantity.text.span, format!("{iterations} iterations; a load has at least 1"));
            return None;
        }
        Some(iterations)
    }

    fn max_duration(&mut self, quantity: Option<&Quantity<decode::Duration>>) -> Option<u64> {
        let Some(quantity) = quantity else { return Some(nanos(MAX_DURATION)) };
        let limit = self.time(quantity)?;
        if limit.is_zero() {
            self.sink.add(quantity.text.span, "nothing is done in no time at all; write for example 10m");
            return None;
        }
        Some(nanos(limit))
    }

    fn per_vu(&mut self, load: &doc::PerVu) -> Option<plan::Load> {
        self.no_overrides("per-vu-iterations", true);
        let user = self.user(load.user.as_ref(), load.span);
        let vus = self.some_users(&load.vus);
        let iterations = self.iterations(&load.iterations);
        let max_duration_ns = self.max_duration(load.max_duration.as_ref());
        let counted = plan::Counted {
            vus: vus?,
            iterations: iterations?,
            max_duration_ns: max_duration_ns?,
            sequential: load.order == Some(doc::Order::Sequential),
            at_once: false,
        };
        Some(plan_load(user?, plan::load::Model::Counted(counted)))
    }

    fn at_once(&mut self, load: &doc::AtOnce) -> Option<plan::Load> {
        self.no_overrides("at-once", true);
        let user = self.user(load.user.as_ref(), load.span);
        let vus = self.some_users(&load.vus);
        let max_duration_ns = self.max_duration(load.max_duration.as_ref());
        let counted = plan::Counted {
            vus: vus?,
            iterations: 1,
            max_duration_ns: max_duration_ns?,
            sequential: false,
            at_once: true,
        };
        Some(plan_load(user?, plan::load::Model::Counted(counted)))
    }

    fn shared(&mut self, load: &doc::SharedIterations) -> Option<plan::Load> {
        self.no_overrides("shared-iterations", true);
        let user = self.user(load.user.as_ref(), load.span);
        let vus = self.some_users(&load.vus);
        let iterations = self.iterations(&load.iterations);
        let max_duration_ns = self.max_duration(load.max_duration.as_ref());
        let (vus, iterations, max_duration_ns) = (vus?, iterations?, max_duration_ns?);
        Some(plan_load(user?, plan::load::Model::Shared(plan::Shared { vus, iterations, max_duration_ns })))
    }

    fn paced(&mut self, load: &doc::Paced, before: Option<&plan::Phase>) -> Option<plan::Load> {
        let user = self.user(load.user.as_ref(), load.span);
        let duration = self.duration(&load.duration);
        let user = user?;
        let vus = match (self.overrides.vus, &load.vus) {
            (Some(vus), _) => Some(vus),
            (None, Some(vus)) => self.some_users(vus),
            (None, None) => match before.and_then(|before| living(before, user)) {
                Some(vus) => Some(vus),
                None => {
                    let hint = "give `vus`, or let the phase continue one with a known number of users";
                    self.sink.add_with_hint(load.span, "how many users take turns?", hint);
                    None
                }
            },
        };
        let (vus, duration) = (vus?, duration?);
        let rate = match (&load.rate, self.overrides.rate) {
            (_, Some(rate)) => Some(rate),
            (Some(rate), None) => Some(self.constants.quantity(rate, self.sink)?),
            (None, None) => None,
        };
        let cycle_ns = match (rate, &load.pace) {
            (Some(rate), None) if rate.milli_per_hour() > 0 => {
                // Every user has a turn in the time in which the grid has as many turns as users.
                let hour = u128::from(vus) * 1_000 * 3_600_000_000_000;
                u64::try_from(hour / u128::from(rate.milli_per_hour())).unwrap_or(u64::MAX)
            }
            (Some(_), None) => {
                self.sink.add_with_hint(load.span, "this load has no turns", "raise the rate");
                return None;
            }
            (None, Some(pace)) => nanos(self.time(pace)?),
            _ => {
                let hint = "`pace: 10s` for each user, or `rate: 50/s` for all of them";
                self.sink.add_with_hint(load.span, "`paced` has either `pace` or `rate`", hint);
                return None;
            }
        };
        let paced = plan::Paced { vus, cycle_ns, duration_ns: nanos(duration) };
        self.schedulable(plan_load(user, plan::load::Model::Paced(paced)), load.span)
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
            prepared: shape.prepared,
            queue: shape.queue,
        };
        let peak =
            open.pieces.iter().map(|p| p.from_milli_per_hour.max(p.to_milli_per_hour)).max().unwrap_or(0);
        if max_vus_is_default {
            // As many as arrive within the longest wait for an answer, so that a stall drops nothing.
            let within =
                Rate::from_milli_per_hour(peak).as_per_second() * self.response_timeout_ns as f64 / 1e9;
            open.max_vus = (within.ceil() as u64).clamp(1, 100_000).max(open.prepared);
        }
        if open.prepared > open.max_vus {
            let message =
                format!("{} users cannot be prepared: `max_vus` is {}", open.prepared, open.max_vus);
            self.sink.add_with_hint(span, message, "raise `max_vus`");
            return None;
        }
        self.schedulable(plan_load(user, plan::load::Model::Open(open)), span)
    }

    /// The load, where it can be scheduled and has something to do.
    fn schedulable(&mut self, load: plan::Load, span: Span) -> Option<plan::Load> {
        match load.view(&plan_phase("", Vec::new())) {
            // A part that could not be read was told already.
            Ok(view) if view.planned() == Some(0) && !self.sink.is_empty() => None,
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

const fn plan_load(user: u32, model: plan::load::Model) -> plan::Load {
    plan::Load { user, identity_base: 0, model: Some(model) }
}

fn piece(from: Rate, to: Rate, over: Duration) -> plan::PlanRatePiece {
    plan::PlanRatePiece {
        from_milli_per_hour: from.milli_per_hour(),
        to_milli_per_hour: to.milli_per_hour(),
        over_ns: nanos(over),
    }
}

/// How many users of a type live at the end of a phase, where that is known.
fn living(phase: &plan::Phase, user: u32) -> Option<u64> {
    use plan::load::Model;
    match phase.loads.iter().find(|load| load.user == user)?.model.as_ref()? {
        Model::Closed(closed) => closed.pieces.last().map(|piece| piece.to),
        Model::Counted(counted) => Some(counted.vus),
        Model::Shared(shared) => Some(shared.vus),
        Model::Paced(paced) => Some(paced.vus),
        // As many as were needed, which nobody knows before.
        Model::Open(_) => None,
    }
}

fn closed(user: u32, pieces: Vec<plan::PlanUserPiece>, executor: &str) -> plan::Load {
    plan_load(user, plan::load::Model::Closed(plan::Closed { pieces, executor: executor.to_owned() }))
}

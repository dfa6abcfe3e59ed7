//! Thresholds against figures.

use std::time::Duration;

use loadgrid_common::plan::Plan;
use loadgrid_common::stats::{Distribution, Measures, StepStats};

use super::threshold::Dimension;
use super::{Known, Metric, Stat, Threshold};
use crate::report::{Facts, Iterations, Threshold as Judged};

/// What thresholds are held against.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    /// The run.
    pub facts: &'a Facts<'a>,
    /// Iterations by phase.
    pub phase_iterations: &'a [Iterations],
}

/// Judges all thresholds of the plan. One without data fails.
#[must_use]
pub fn thresholds(figures: &Figures<'_>) -> Vec<Judged> {
    let plan = figures.facts.plan;
    let phases: Vec<String> = plan.phases.iter().map(|phase| phase.name.clone()).collect();
    let watched = figures.facts.watch;
    let judge = |(number, threshold): (usize, &loadgrid_common::plan::Threshold)| {
        let text = &threshold.text;
        match Threshold::parse(text, &Known::of(plan, &phases)) {
            Ok(parsed) => match watched.judged(number, &parsed) {
                Some((observed, passed)) => Judged { threshold: text.clone(), observed, passed },
                None => figures.judge(&parsed),
            },
            // It was validated where the plan was made; a coordinator that cannot read it must not pass it.
            Err(error) => Judged { threshold: text.clone(), observed: error.to_string(), passed: false },
        }
    };
    plan.thresholds.iter().enumerate().map(judge).collect()
}

/// Judges all thresholds on what is counted so far, for those who watch.
#[must_use]
pub fn thresholds_so_far(facts: &Facts<'_>) -> Vec<Judged> {
    let iterations =
        (0_u32..).zip(&facts.plan.phases).map(|(phase, _)| match facts.ingest.totals().get(&phase) {
            Some(measures) => iterations_of(measures),
            None => Iterations::default(),
        });
    let iterations: Vec<Iterations> = iterations.collect();
    let figures = Figures { facts, phase_iterations: &iterations };
    let phases: Vec<String> = facts.plan.phases.iter().map(|phase| phase.name.clone()).collect();
    let known = Known::of(facts.plan, &phases);
    let mut judged = Vec::new();
    for (number, threshold) in facts.plan.thresholds.iter().enumerate() {
        let Ok(parsed) = Threshold::parse(&threshold.text, &known) else { continue };
        if let Some((observed, passed)) = facts.watch.so_far(number, &parsed) {
            judged.push(Judged { threshold: parsed.text, observed, passed });
        } else if !facts.watch.has(number) && !matches!(figures.observe(&parsed), Observed::Nothing) {
            // What nobody has measured yet is no news while the run goes on.
            judged.push(figures.judge(&parsed));
        }
    }
    judged
}

/// The iterations that were measured.
pub(super) fn iterations_of(measures: &Measures) -> Iterations {
    measures.loads.values().fold(Iterations::default(), |sum, load| Iterations {
        started: sum.started + load.started,
        dropped: sum.dropped + load.dropped,
        ok: sum.ok + load.ok,
        failed: sum.failed + load.failed,
        unknown: sum.unknown + load.unknown,
        ..sum
    })
}

/// What a threshold sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observed {
    /// A value.
    Value(f64),
    /// At least this: so many arrivals were dropped that the quantile lies among them.
    AtLeast(f64),
    /// Nothing was measured.
    Nothing,
}

impl Observed {
    /// How it stands against a threshold, for people, and whether that holds.
    #[must_use]
    pub fn judge(self, threshold: &Threshold) -> (String, bool) {
        match self {
            Self::Value(value) => (threshold.show(value), threshold.op.holds(value, threshold.limit)),
            Self::AtLeast(value) => (format!("≥ {} (dropped arrivals)", threshold.show(value)), false),
            Self::Nothing => ("no data".to_owned(), false),
        }
    }
}

/// What was measured in one phase, in a stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// Index of the phase.
    pub phase: u32,
    /// The measures.
    pub measures: &'a Measures,
    /// Its iterations, what is unknown of lost workers included.
    pub iterations: Iterations,
    /// How long load was offered.
    pub length: Duration,
}

impl Figures<'_> {
    fn judge(&self, threshold: &Threshold) -> Judged {
        let (observed, passed) = self.observe(threshold).judge(threshold);
        Judged { threshold: threshold.text.clone(), observed, passed }
    }

    fn observe(&self, threshold: &Threshold) -> Observed {
        let slices = self.facts.ingest.totals().iter().map(|(&phase, measures)| Slice {
            phase,
            measures,
            iterations: self.phase_iterations.get(phase as usize).copied().unwrap_or_default(),
            length: self.facts.length_of(phase),
        });
        observe(threshold, self.facts.plan, slices)
    }
}

/// What a threshold sees in these stretches.
pub fn observe<'a>(threshold: &Threshold, plan: &Plan, slices: impl Iterator<Item = Slice<'a>>) -> Observed {
    let mut gathered = Gathered::default();
    for slice in slices {
        let Some(phase) = plan.phases.get(slice.phase as usize) else { continue };
        let wanted = match &threshold.phase {
            Some(wanted) => *wanted == phase.name,
            None => !phase.unrecorded,
        };
        if wanted {
            gathered.add(threshold, plan, &slice);
        }
    }
    gathered.statistic(threshold)
}

/// What a threshold is about, from all its phases.
#[derive(Default)]
struct Gathered {
    values: Option<Distribution>,
    count: u64,
    of: u64,
    sum: f64,
    offered: u64,
    dropped: u64,
    length: Duration,
    /// Whether any of its phases was there.
    any: bool,
}

impl Gathered {
    fn add(&mut self, threshold: &Threshold, plan: &Plan, slice: &Slice<'_>) {
        let (measures, iterations) = (slice.measures, slice.iterations);
        self.any = true;
        self.length += slice.length;
        self.offered += iterations.started + iterations.dropped;
        self.dropped += iterations.dropped;
        for (&id, step) in &measures.steps {
            if selects(threshold, plan, id) {
                self.add_step(&threshold.metric, step);
            }
        }
        match &threshold.metric {
            Metric::Lateness => measures.loads.values().for_each(|load| self.spread(&load.lateness)),
            Metric::IterationTime => measures.loads.values().for_each(|load| self.spread(&load.iteration)),
            Metric::Dropped => {
                self.count += iterations.dropped;
                self.of += iterations.started + iterations.dropped;
            }
            Metric::Iterations => self.count += iterations.started,
            Metric::IterationsFailed => {
                self.count += iterations.failed;
                self.of += iterations.ok + iterations.failed + iterations.unknown;
            }
            Metric::Checks => {
                self.count += measures.checks.values().map(|check| check.passed).sum::<u64>();
                self.of += measures.checks.values().map(|check| check.passed + check.failed).sum::<u64>();
            }
            Metric::GroupTime => {
                for (&id, group) in &measures.groups {
                    let name = plan.groups.get(id as usize);
                    if threshold.group.as_ref().is_none_or(|wanted| Some(wanted) == name) {
                        self.spread(&group.duration);
                    }
                }
            }
            Metric::SessionOk => {
                for lives in measures.lives.values() {
                    self.count += lives.ok;
                    self.of += lives.ok + lives.failed;
                }
            }
            Metric::SessionTime => measures.lives.values().for_each(|lives| self.spread(&lives.duration)),
            Metric::SessionActions => measures.lives.values().for_each(|lives| self.spread(&lives.actions)),
            Metric::Counter(name) => {
                for (&id, counter) in &measures.counters {
                    if plan.counters.get(id as usize) == Some(name) {
                        self.count += counter.count;
                        self.sum += counter.sum_millionths as f64 / 1e6;
                    }
                }
            }
            Metric::Observed(name) => {
                for (&id, values) in &measures.observed {
                    if plan.observed.get(id as usize) == Some(name) {
                        self.spread(values);
                    }
                }
            }
            _ => {}
        }
    }

    fn add_step(&mut self, metric: &Metric, step: &StepStats) {
        match metric {
            Metric::ResponseTime => self.spread(&step.response),
            Metric::ServiceTime => self.spread(&step.service),
            Metric::ConnectTime => self.spread(&step.connect),
            Metric::TlsTime => self.spread(&step.tls),
            Metric::FirstByteTime => self.spread(&step.first_byte),
            Metric::CapWait => self.spread(&step.cap_wait),
            Metric::Failed => {
                self.count += step.failed;
                self.of += step.ended();
            }
            Metric::Exchanges => self.count += step.ended(),
            Metric::Retries => self.count += step.retries,
            _ => {}
        }
    }

    fn spread(&mut self, values: &Distribution) {
        match &mut self.values {
            Some(own) => own.merge(values),
            None => self.values = Some(values.clone()),
        }
    }

    fn statistic(&self, threshold: &Threshold) -> Observed {
        if let Some(values) = &self.values {
            return self.of_values(threshold, values);
        }
        match (threshold.stat, threshold.dimension()) {
            // Nothing counted is 0 only where something could have been: where the phase was there at all.
            (Stat::Count, _) if self.any => Observed::Value(self.count as f64),
            (Stat::Sum, _) if self.count > 0 => Observed::Value(self.sum),
            (Stat::Rate, Dimension::Share) if self.of > 0 => {
                Observed::Value(self.count as f64 / self.of as f64)
            }
            (Stat::Rate, Dimension::PerSecond) if self.count > 0 && !self.length.is_zero() => {
                Observed::Value(self.count as f64 / self.length.as_secs_f64())
            }
            _ => Observed::Nothing,
        }
    }

    fn of_values(&self, threshold: &Threshold, values: &Distribution) -> Observed {
        // Values are kept in the unit of their layout; thresholds speak of microseconds and of plain numbers.
        let scale = match threshold.metric {
            Metric::IterationTime | Metric::SessionTime => 1_000.0,
            Metric::Observed(_) | Metric::SessionActions => 0.001,
            _ => 1.0,
        };
        let is_response = threshold.metric == Metric::ResponseTime;
        let dropped_share =
            if is_response && self.offered > 0 { self.dropped as f64 / self.offered as f64 } else { 0.0 };
        let Some(summary) = values.summary() else {
            let is_count = threshold.stat == Stat::Count;
            return if is_count { Observed::Value(0.0) } else { Observed::Nothing };
        };
        let value = |value: f64| Observed::Value(value * scale);
        match threshold.stat {
            Stat::Count => Observed::Value(values.count as f64),
            Stat::Min => value(summary.min as f64),
            Stat::Mean => value(values.sum as f64 / values.count.max(1) as f64),
            Stat::Max if dropped_share > 0.0 => Observed::AtLeast(summary.max as f64 * scale),
            Stat::Max => value(summary.max as f64),
            Stat::Percentile(p) if dropped_share > 1.0 - p / 100.0 => {
                Observed::AtLeast(summary.max as f64 * scale)
            }
            Stat::Percentile(p) => match value(values.quantile(p / 100.0).unwrap_or_default() as f64) {
                Observed::Value(value) if threshold.metric.is_value() => Observed::Value(three_digits(value)),
                observed => observed,
            },
            Stat::Rate | Stat::Sum => Observed::Nothing,
        }
    }
}

/// A value to three significant digits: no histogram knows more of a quantile, and 3 should not read 3.001.
#[must_use]
pub fn three_digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powi(2 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Whether a step is one that the threshold is about.
fn selects(threshold: &Threshold, plan: &Plan, step: u32) -> bool {
    let place = plan.step_places.get(step as usize);
    let name = plan.steps.get(step as usize);
    let group =
        place.and_then(|place| place.group.checked_sub(1)).and_then(|group| plan.groups.get(group as usize));
    let has_label = |wanted: &(String, String)| {
        let mut labels = place.iter().flat_map(|place| &place.labels);
        labels.any(|label| label.name == wanted.0 && label.value == wanted.1)
    };
    threshold.step.as_ref().is_none_or(|wanted| Some(wanted) == name)
        && threshold.group.as_ref().is_none_or(|wanted| Some(wanted) == group)
        && threshold.label.as_ref().is_none_or(has_label)
}

//! Thresholds against figures.

use std::time::Duration;

use loadgrid_common::stats::{Distribution, Measures};

use super::{Metric, Stat, Threshold};
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
    let judge = |text: &String| match Threshold::parse(text, &plan.counters, &phases, &plan.steps) {
        Ok(threshold) => figures.judge(&threshold),
        // It was validated where the plan was made; a coordinator that cannot read it must not pass it.
        Err(error) => Judged { threshold: text.clone(), observed: error.to_string(), passed: false },
    };
    plan.thresholds.iter().map(judge).collect()
}

/// Judges all thresholds on what is counted so far, for those who watch.
#[must_use]
pub fn thresholds_so_far(facts: &Facts<'_>) -> Vec<Judged> {
    let iterations = (0_u32..).zip(&facts.plan.phases).map(|(phase, _)| {
        let loads =
            facts.ingest.totals().get(&phase).into_iter().flat_map(|measures| measures.loads.values());
        loads.fold(Iterations::default(), |sum, load| Iterations {
            started: sum.started + load.started,
            dropped: sum.dropped + load.dropped,
            ok: sum.ok + load.ok,
            failed: sum.failed + load.failed,
            ..sum
        })
    });
    let iterations: Vec<Iterations> = iterations.collect();
    let figures = Figures { facts, phase_iterations: &iterations };
    let phases: Vec<String> = facts.plan.phases.iter().map(|phase| phase.name.clone()).collect();
    let parse = |text: &String| Threshold::parse(text, &facts.plan.counters, &phases, &facts.plan.steps).ok();
    // What nobody has measured yet is no news while the run goes on.
    let measured = |threshold: &Threshold| !matches!(figures.observe(threshold), Observed::Nothing);
    let parsed = facts.plan.thresholds.iter().filter_map(parse).filter(measured);
    parsed.map(|threshold| figures.judge(&threshold)).collect()
}

/// What a threshold sees.
enum Observed {
    /// A value.
    Value(f64),
    /// At least this: so many arrivals were dropped that the quantile lies among them.
    AtLeast(f64),
    /// Nothing was measured.
    Nothing,
}

impl Figures<'_> {
    fn judge(&self, threshold: &Threshold) -> Judged {
        let (observed, passed) = match self.observe(threshold) {
            Observed::Value(value) => (threshold.show(value), threshold.op.holds(value, threshold.limit)),
            Observed::AtLeast(value) => (format!("≥ {} (dropped arrivals)", threshold.show(value)), false),
            Observed::Nothing => ("no data".to_owned(), false),
        };
        Judged { threshold: threshold.text.clone(), observed, passed }
    }

    fn phases(&self, threshold: &Threshold) -> impl Iterator<Item = (usize, &Measures)> {
        let wanted = threshold.phase.clone();
        let plan = &self.facts.plan.phases;
        self.facts.ingest.totals().iter().filter_map(move |(&phase, measures)| {
            let number = phase as usize;
            let name = &plan.get(number)?.name;
            wanted.as_ref().is_none_or(|wanted| wanted == name).then_some((number, measures))
        })
    }

    fn observe(&self, threshold: &Threshold) -> Observed {
        let mut distribution = Distribution::default();
        let (mut count, mut of) = (0_u64, 0_u64);
        let mut sum = 0.0;
        let (mut offered, mut dropped) = (0, 0);
        for (phase, measures) in self.phases(threshold) {
            let iterations = self.phase_iterations.get(phase).copied().unwrap_or_default();
            offered += iterations.started + iterations.dropped;
            dropped += iterations.dropped;
            for (&id, step) in &measures.steps {
                let name = self.facts.plan.steps.get(id as usize);
                if threshold.step.as_ref().is_some_and(|wanted| Some(wanted) != name) {
                    continue;
                }
                match threshold.metric {
                    Metric::ResponseTime => distribution.merge(&step.response),
                    Metric::ServiceTime => distribution.merge(&step.service),
                    Metric::ConnectTime => distribution.merge(&step.connect),
                    Metric::TlsTime => distribution.merge(&step.tls),
                    Metric::FirstByteTime => distribution.merge(&step.first_byte),
                    Metric::Failed => {
                        count += step.failed;
                        of += step.ended();
                    }
                    Metric::Exchanges => count += step.ended(),
                    _ => {}
                }
            }
            for load in measures.loads.values() {
                match threshold.metric {
                    Metric::Lateness => distribution.merge(&load.lateness),
                    Metric::IterationTime => {
                        // Kept in milliseconds; thresholds speak microseconds.
                        load.iteration.histogram.buckets().for_each(|(bucket, n)| {
                            let ms =
                                load.iteration.histogram.layout().range_of(bucket).1.min(load.iteration.max);
                            (0..n.min(1)).for_each(|_| distribution.record(ms * 1_000));
                            distribution.count += n.saturating_sub(1);
                            distribution.histogram.add_at(
                                distribution.histogram.layout().index_of(ms * 1_000),
                                n.saturating_sub(1),
                            );
                            distribution.sum += ms * 1_000 * n.saturating_sub(1);
                        });
                    }
                    _ => {}
                }
            }
            match &threshold.metric {
                Metric::Dropped => {
                    count += iterations.dropped;
                    of += iterations.started + iterations.dropped;
                }
                Metric::Iterations => count += iterations.started,
                Metric::IterationsFailed => {
                    count += iterations.failed;
                    of += iterations.ok + iterations.failed + iterations.unknown;
                }
                Metric::Checks => {
                    count += measures.checks.values().map(|check| check.passed).sum::<u64>();
                    of += measures.checks.values().map(|check| check.passed + check.failed).sum::<u64>();
                }
                Metric::Counter(name) => {
                    for (&id, counter) in &measures.counters {
                        if self.facts.plan.counters.get(id as usize) == Some(name) {
                            count += counter.count;
                            sum += counter.sum_millionths as f64 / 1e6;
                        }
                    }
                }
                _ => {}
            }
        }
        let is_response = threshold.metric == Metric::ResponseTime;
        let dropped_share = if offered > 0 && is_response { dropped as f64 / offered as f64 } else { 0.0 };
        self.statistic(threshold, &distribution, dropped_share, &Counts { count, of, sum })
    }

    fn statistic(
        &self,
        threshold: &Threshold,
        distribution: &Distribution,
        dropped_share: f64,
        counts: &Counts,
    ) -> Observed {
        let is_time = threshold.dimension() == super::threshold::Dimension::Time;
        if is_time {
            let Some(summary) = distribution.summary() else { return Observed::Nothing };
            return match threshold.stat {
                Stat::Min => Observed::Value(summary.min as f64),
                Stat::Mean => Observed::Value(summary.mean as f64),
                Stat::Max if dropped_share > 0.0 => Observed::AtLeast(summary.max as f64),
                Stat::Max => Observed::Value(summary.max as f64),
                Stat::Percentile(p) if dropped_share > 1.0 - p / 100.0 => {
                    Observed::AtLeast(summary.max as f64)
                }
                Stat::Percentile(p) => {
                    Observed::Value(distribution.quantile(p / 100.0).unwrap_or_default() as f64)
                }
                Stat::Rate | Stat::Count | Stat::Sum => Observed::Nothing,
            };
        }
        let timed = !distribution.is_empty();
        match threshold.stat {
            Stat::Count if timed => Observed::Value(distribution.count as f64),
            // Nothing counted is 0 only where something could have been: where the phase was there at all.
            Stat::Count if self.phases(threshold).next().is_some() => Observed::Value(counts.count as f64),
            Stat::Sum if counts.count > 0 => Observed::Value(counts.sum),
            Stat::Rate => match threshold.dimension() {
                super::threshold::Dimension::Share if counts.of > 0 => {
                    Observed::Value(counts.count as f64 / counts.of as f64)
                }
                super::threshold::Dimension::PerSecond => match self.seconds(threshold) {
                    seconds if seconds > 0.0 && counts.count > 0 => {
                        Observed::Value(counts.count as f64 / seconds)
                    }
                    _ => Observed::Nothing,
                },
                _ => Observed::Nothing,
            },
            _ => Observed::Nothing,
        }
    }

    fn seconds(&self, threshold: &Threshold) -> f64 {
        let length = |phase: usize| {
            let planned = self
                .facts
                .plan
                .phases
                .get(phase)
                .map(loadgrid_common::plan::Phase::length)
                .unwrap_or_default();
            let span = self.facts.phases.get(phase).copied().unwrap_or_default();
            span.zero.map_or(Duration::ZERO, |zero| {
                planned.min(span.end.unwrap_or(self.facts.ended_at).saturating_sub(zero))
            })
        };
        self.phases(threshold).map(|(phase, _)| length(phase)).sum::<Duration>().as_secs_f64()
    }
}

struct Counts {
    count: u64,
    of: u64,
    sum: f64,
}

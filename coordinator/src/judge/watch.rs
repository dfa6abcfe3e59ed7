//! Thresholds that are looked at while the run goes on: over the last window, or because they may end it. Pure.
//!
//! An interval is looked at once every worker has reported it. A threshold is broken in an interval in which it
//! does not hold; it fails when it was broken for as long as its `for` says, without a break.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use loadgrid_common::plan::{self, Plan};
use loadgrid_common::stats::Measures;

use super::evaluate::iterations_of;
use super::{Known, Observed, Slice, Threshold, observe};

/// Measures of one interval, by phase.
type ByPhase = BTreeMap<u32, Measures>;

/// See the module.
#[derive(Debug, Default)]
pub struct Watch {
    rules: Vec<Rule>,
    /// Intervals that the longest window still reaches.
    recent: VecDeque<Interval>,
    longest: Duration,
}

#[derive(Debug)]
struct Interval {
    from: Duration,
    to: Duration,
    measures: ByPhase,
}

#[derive(Debug)]
struct Rule {
    /// Its place in the plan.
    number: usize,
    threshold: Threshold,
    /// Zero: over everything so far.
    window: Duration,
    hold: Duration,
    grace: Duration,
    abort: bool,
    /// When there was something to look at for the first time.
    began: Option<Duration>,
    /// Since when it is broken.
    broken: Option<Duration>,
    /// The worst that was seen, and when.
    worst: Option<(Observed, Duration)>,
    failed: Option<(Observed, Duration)>,
}

impl Watch {
    /// For the thresholds of a plan that say more than a condition.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let phases: Vec<String> = plan.phases.iter().map(|phase| phase.name.clone()).collect();
        let known = Known::of(plan, &phases);
        let rule = |(number, threshold): (usize, &plan::Threshold)| {
            let is_watched = threshold.window_ns > 0 || threshold.for_ns > 0 || threshold.abort;
            let parsed = Threshold::parse(&threshold.text, &known).ok().filter(|_| is_watched)?;
            Some(Rule {
                number,
                threshold: parsed,
                window: Duration::from_nanos(threshold.window_ns),
                hold: Duration::from_nanos(threshold.for_ns),
                grace: Duration::from_nanos(threshold.grace_ns),
                abort: threshold.abort,
                began: None,
                broken: None,
                worst: None,
                failed: None,
            })
        };
        let rules: Vec<Rule> = plan.thresholds.iter().enumerate().filter_map(rule).collect();
        let longest = rules.iter().map(|rule| rule.window).max().unwrap_or_default();
        Self { rules, recent: VecDeque::new(), longest }
    }

    /// Whether there is anything to watch.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the threshold with this number is watched.
    #[must_use]
    pub fn has(&self, number: usize) -> bool {
        self.rules.iter().any(|rule| rule.number == number)
    }

    /// An interval is complete; `totals` is everything so far. Returns the threshold that ends the run, if one does.
    pub fn interval(
        &mut self,
        plan: &Plan,
        (from, to): (Duration, Duration),
        measures: ByPhase,
        totals: &ByPhase,
    ) -> Option<String> {
        self.recent.push_back(Interval { from, to, measures });
        while self.recent.front().is_some_and(|first| first.to + self.longest <= to) {
            self.recent.pop_front();
        }
        let recent = &self.recent;
        let mut ends = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.failed.is_none()) {
            let observed = if rule.window.is_zero() {
                let slices = totals.iter().map(|(&phase, measures)| slice(phase, measures, to));
                observe(&rule.threshold, plan, slices)
            } else {
                let window = recent.iter().filter(|interval| interval.to + rule.window > to);
                let slices = window.flat_map(|interval| {
                    let length = interval.to.saturating_sub(interval.from);
                    interval.measures.iter().map(move |(&phase, measures)| slice(phase, measures, length))
                });
                observe(&rule.threshold, plan, slices)
            };
            if rule.look(observed, from, to) && rule.abort {
                ends = ends.or_else(|| Some(rule.threshold.text.clone()));
            }
        }
        ends
    }

    /// How a watched threshold came out; `None` for one that is judged over the whole run alone.
    #[must_use]
    pub fn judged(&self, number: usize, threshold: &Threshold) -> Option<(String, bool)> {
        let rule = self.rules.iter().find(|rule| rule.number == number)?;
        match (rule.failed, rule.worst) {
            (Some((observed, at)), _) => Some((rule.words(observed, at, threshold), false)),
            (None, _) if rule.window.is_zero() && rule.hold.is_zero() => None,
            (None, Some((observed, at))) => Some((rule.words(observed, at, threshold), true)),
            (None, None) => Some(("no data".to_owned(), false)),
        }
    }

    /// How a watched threshold stands; `None` before there was anything to look at.
    #[must_use]
    pub fn so_far(&self, number: usize, threshold: &Threshold) -> Option<(String, bool)> {
        let rule = self.rules.iter().find(|rule| rule.number == number)?;
        let (observed, at) = rule.failed.or(rule.worst)?;
        Some((rule.words(observed, at, threshold), rule.failed.is_none()))
    }
}

impl Rule {
    /// Takes note of what was seen in an interval; returns whether the threshold fails with it.
    fn look(&mut self, observed: Observed, from: Duration, to: Duration) -> bool {
        if observed == Observed::Nothing {
            // Without data there is nothing to break: whether there ever was any is judged at the end.
            return false;
        }
        let began = *self.began.get_or_insert(from);
        if to < began + self.grace {
            return false;
        }
        let holds = observed.judge(&self.threshold).1;
        if self.is_worse(observed) {
            self.worst = Some((observed, to));
        }
        if holds {
            self.broken = None;
            return false;
        }
        let since = *self.broken.get_or_insert(from);
        if to.saturating_sub(since) < self.hold {
            return false;
        }
        self.failed = Some((observed, to));
        true
    }

    fn is_worse(&self, observed: Observed) -> bool {
        use super::Op;
        let value = |observed| match observed {
            Observed::Value(value) | Observed::AtLeast(value) => value,
            Observed::Nothing => 0.0,
        };
        let Some((worst, _)) = self.worst else { return true };
        match self.threshold.op {
            Op::Less | Op::LessOrEqual => value(observed) > value(worst),
            Op::Greater | Op::GreaterOrEqual => value(observed) < value(worst),
            Op::Equal | Op::NotEqual => !observed.judge(&self.threshold).1,
        }
    }

    fn words(&self, observed: Observed, at: Duration, threshold: &Threshold) -> String {
        let shown = observed.judge(threshold).0;
        let at = loadgrid_common::units::show_duration(Duration::from_millis(at.as_millis() as u64));
        let for_long = match self.hold.is_zero() || self.failed.is_none() {
            true => String::new(),
            false => format!(" for {}", loadgrid_common::units::show_duration(self.hold)),
        };
        let ended = if self.failed.is_some() && self.abort { "; it ended the run" } else { "" };
        let worst = if self.failed.is_none() && !self.window.is_zero() { "worst " } else { "" };
        format!("{worst}{shown}{for_long}, at {at}{ended}")
    }
}

fn slice(phase: u32, measures: &Measures, length: Duration) -> Slice<'_> {
    Slice { phase, measures, iterations: iterations_of(measures), length }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(threshold: plan::Threshold) -> Plan {
        Plan {
            steps: vec!["s".to_owned()],
            phases: vec![plan::Phase { name: "p".to_owned(), ..plan::Phase::default() }],
            thresholds: vec![threshold],
            ..Plan::default()
        }
    }

    fn second(failed: u64) -> ByPhase {
        let mut measures = Measures::default();
        let step = measures.steps.entry(0).or_default();
        (step.sent, step.ok, step.failed) = (100, 100 - failed, failed);
        [(0, measures)].into()
    }

    /// Feeds one interval per second; says at which second the run was ended.
    fn ended_at(threshold: plan::Threshold, failures: &[u64]) -> (Option<usize>, Option<(String, bool)>) {
        let plan = plan(threshold);
        let mut watch = Watch::new(&plan);
        let mut totals = ByPhase::new();
        let mut ended = None;
        for (number, &failed) in failures.iter().enumerate() {
            totals.entry(0).or_default().merge(&second(failed)[&0]);
            let span = (Duration::from_secs(number as u64), Duration::from_secs(number as u64 + 1));
            if watch.interval(&plan, span, second(failed), &totals).is_some() {
                ended = ended.or(Some(number));
            }
        }
        let phases = ["p".to_owned()];
        let parsed = Threshold::parse(&plan.thresholds[0].text, &Known::of(&plan, &phases)).unwrap();
        (ended, watch.judged(0, &parsed))
    }

    fn rule(window: u64, hold: u64, grace: u64, abort: bool) -> plan::Threshold {
        let s = 1_000_000_000;
        plan::Threshold {
            text: "rate(failed) < 10%".to_owned(),
            window_ns: window * s,
            for_ns: hold * s,
            abort,
            grace_ns: grace * s,
        }
    }

    #[test]
    fn a_window_sees_what_the_whole_run_hides() {
        let spike = [0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (ended, judged) = ended_at(rule(2, 0, 0, true), &spike);
        assert_eq!(ended, Some(9));
        let (words, passed) = judged.unwrap();
        assert!(!passed && words.contains("25%") && words.contains("ended the run"), "{words}");
        // Over the whole run it holds: 5 %.
        assert_eq!(ended_at(rule(0, 0, 0, true), &spike), (None, None));
    }

    #[test]
    fn it_must_be_broken_for_long_enough_and_after_the_grace() {
        let spikes = [50, 0, 50, 50, 0, 50, 50, 50, 50];
        assert_eq!(ended_at(rule(1, 3, 0, true), &spikes).0, Some(7));
        assert_eq!(ended_at(rule(1, 0, 2, true), &spikes).0, Some(2), "the first two seconds are grace");
        assert_eq!(ended_at(rule(1, 0, 0, false), &spikes).0, None, "only `abort` ends a run");
        let (_, judged) = ended_at(rule(1, 5, 0, false), &spikes);
        assert!(
            judged.as_ref().is_some_and(|(words, passed)| *passed && words.contains("worst 50%")),
            "{judged:?}"
        );
        assert_eq!(ended_at(rule(1, 0, 0, true), &[]).1, Some(("no data".to_owned(), false)));
    }
}

//! Thresholds that are looked at while the run goes on: over the last window, or because they may end it. Pure.
//!
//! An interval is looked at once every worker has reported it; what was measured is over the time in which its phase
//! offered load. A threshold is broken in an interval in which it
//! does not hold; it fails when it was broken for as long as its `for` says, without a break.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use loadgrid_common::plan::{self, Plan};
use loadgrid_common::stats::Measures;

use super::evaluate::iterations_of;
use super::{Known, Observed, Slice, Threshold, observe};
use crate::report::PhaseFacts;

/// Measures of one interval, by phase.
type ByPhase = BTreeMap<u32, Measures>;

/// See the module.
#[derive(Debug, Default)]
pub struct Watch {
    rules: Vec<Rule>,
    /// Intervals that the longest window still reaches.
    recent: VecDeque<Interval>,
    longest: Duration,
    /// All intervals so far, where a threshold looks at all of them.
    so_far: Option<ByPhase>,
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
    /// Whether the run was ended for it.
    ended_run: bool,
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
                ended_run: false,
            })
        };
        let rules: Vec<Rule> = plan.thresholds.iter().enumerate().filter_map(rule).collect();
        let longest = rules.iter().map(|rule| rule.window).max().unwrap_or_default();
        let so_far = rules.iter().any(|rule| rule.window.is_zero()).then(ByPhase::new);
        Self { rules, recent: VecDeque::new(), longest, so_far }
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

    /// Measures of intervals that were looked at without them: they count where everything so far does, and in no window.
    pub fn late(&mut self, measures: &ByPhase) {
        if let Some(so_far) = &mut self.so_far {
            merge(so_far, measures);
        }
    }

    /// An interval is complete; `spans` says when the phases were carried out, in run time. Returns the threshold that
    /// ends the run, if one does; none does where the run is not `live` any more.
    pub fn interval(
        &mut self,
        plan: &Plan,
        spans: &[PhaseFacts],
        (from, to): (Duration, Duration),
        measures: ByPhase,
        is_live: bool,
    ) -> Option<String> {
        if let Some(so_far) = &mut self.so_far {
            merge(so_far, &measures);
        }
        self.recent.push_back(Interval { from, to, measures });
        while self.recent.front().is_some_and(|first| first.to + self.longest <= to) {
            self.recent.pop_front();
        }
        let recent = &self.recent;
        let slice = |phase, measures, from: Duration, to: Duration| {
            let length = offered(plan, spans, phase, from, to);
            Slice { phase, measures, iterations: iterations_of(measures), length }
        };
        let mut ends = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.failed.is_none()) {
            let observed = match (&self.so_far, rule.window.is_zero()) {
                (Some(so_far), true) => {
                    let slices =
                        so_far.iter().map(|(&phase, measures)| slice(phase, measures, Duration::ZERO, to));
                    observe(&rule.threshold, plan, slices)
                }
                _ => {
                    let window = recent.iter().filter(|interval| interval.to + rule.window > to);
                    let slices = window.flat_map(|interval| {
                        let (from, to) = (interval.from, interval.to);
                        interval
                            .measures
                            .iter()
                            .map(move |(&phase, measures)| slice(phase, measures, from, to))
                    });
                    observe(&rule.threshold, plan, slices)
                }
            };
            if rule.look(observed, from, to) && rule.abort && is_live && ends.is_none() {
                rule.ended_run = true;
                ends = Some(rule.threshold.text.clone());
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
            // Over before its grace was: what there is is judged like any other threshold.
            (None, None) => None,
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
            self.broken = None;
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
        let ended = if self.ended_run { "; it ended the run" } else { "" };
        let worst = if self.failed.is_none() && !self.window.is_zero() { "worst " } else { "" };
        format!("{worst}{shown}{for_long}, at {at}{ended}")
    }
}

fn merge(all: &mut ByPhase, more: &ByPhase) {
    for (&phase, measures) in more {
        all.entry(phase).or_default().merge(measures);
    }
}

/// For how long a phase offered load between two moments of run time.
fn offered(plan: &Plan, spans: &[PhaseFacts], phase: u32, from: Duration, to: Duration) -> Duration {
    let planned = plan.phases.get(phase as usize).map(plan::Phase::limit).unwrap_or_default();
    let Some(PhaseFacts { zero: Some(zero), end }) = spans.get(phase as usize).copied() else {
        return Duration::ZERO;
    };
    let end = end.unwrap_or(to).min(zero.saturating_add(planned)).min(to);
    end.saturating_sub(zero.max(from))
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
        let spans = [PhaseFacts { zero: Some(Duration::ZERO), end: None }];
        let mut watch = Watch::new(&plan);
        let mut ended = None;
        for (number, &failed) in failures.iter().enumerate() {
            let span = (Duration::from_secs(number as u64), Duration::from_secs(number as u64 + 1));
            if watch.interval(&plan, &spans, span, second(failed), ended.is_none()).is_some() {
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
        assert_eq!(ended_at(rule(1, 0, 0, true), &[]).1, None, "judged like any other: there is no data");
        assert_eq!(ended_at(rule(1, 0, 20, true), &[50, 50]).1, None, "over before its grace was");
    }

    fn exchanges(count: u64) -> Measures {
        let mut measures = Measures::default();
        let step = measures.steps.entry(0).or_default();
        (step.sent, step.ok) = (count, count);
        measures
    }

    #[test]
    fn a_rate_is_over_the_time_in_which_its_phase_offered_load() {
        let second = Duration::from_secs;
        let phase = |name: &str, length: u64| plan::Phase {
            name: name.to_owned(),
            loads: vec![plan::Load {
                model: Some(plan::load::Model::Counted(plan::Counted {
                    vus: 1,
                    max_duration_ns: length * 1_000_000_000,
                    ..plan::Counted::default()
                })),
                ..plan::Load::default()
            }],
            ..plan::Phase::default()
        };
        let threshold = |text: &str, window_ns| plan::Threshold {
            text: text.to_owned(),
            abort: true,
            window_ns,
            ..plan::Threshold::default()
        };
        let plan = Plan {
            steps: vec!["s".to_owned()],
            phases: vec![phase("warm", 60), phase("steady", 100)],
            thresholds: vec![
                threshold("rate(exchanges, phase=steady) > 90/s", 0),
                threshold("rate(exchanges) > 90/s", 1_000_000_000),
            ],
            ..Plan::default()
        };
        let mut watch = Watch::new(&plan);
        let mut spans =
            [PhaseFacts { zero: Some(second(0)), end: None }, PhaseFacts { zero: None, end: None }];
        for n in 0..60 {
            let ends =
                watch.interval(&plan, &spans, (second(n), second(n + 1)), [(0, exchanges(100))].into(), true);
            assert_eq!(ends, None, "second {n}");
        }
        // The phases meet in the middle of an interval.
        let half = Duration::from_millis(500);
        spans[0].end = Some(second(60) + half);
        spans[1].zero = Some(second(60) + half);
        let both = [(0, exchanges(0)), (1, exchanges(50))].into();
        assert_eq!(watch.interval(&plan, &spans, (second(60), second(61)), both, true), None);
        let slow = [(1, exchanges(20))].into();
        let ends = watch.interval(&plan, &spans, (second(61), second(62)), slow, true);
        assert_eq!(ends.as_deref(), Some("rate(exchanges, phase=steady) > 90/s"));
    }

    #[test]
    fn a_stretch_without_data_breaks_what_is_broken() {
        let plan = plan(rule(1, 3, 0, true));
        let spans = [PhaseFacts { zero: Some(Duration::ZERO), end: None }];
        let mut watch = Watch::new(&plan);
        let mut look = |at: u64, measures: ByPhase| {
            let span = (Duration::from_secs(at), Duration::from_secs(at + 1));
            watch.interval(&plan, &spans, span, measures, true)
        };
        assert_eq!(look(0, second(50)), None);
        assert_eq!(look(1, [(0, Measures::default())].into()), None);
        assert_eq!(look(9, second(50)), None, "not broken for ten seconds");
        assert_eq!(look(10, second(50)), None);
        assert!(look(11, second(50)).is_some());
    }
}

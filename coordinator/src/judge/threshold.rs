//! Conditions on figures: `STAT(METRIC, selector=…) OP VALUE`.

use std::fmt;

use loadgrid_common::plan::{Plan, StepPlace};
use loadgrid_common::units::{parse_duration, parse_percent, parse_rate, show_duration};

/// A parsed threshold; the text is kept beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// As written.
    pub text: String,
    /// Which statistic.
    pub stat: Stat,
    /// Of what.
    pub metric: Metric,
    /// Only this phase; all recorded ones where absent.
    pub phase: Option<String>,
    /// Only this step.
    pub step: Option<String>,
    /// Only steps in this group, or the group itself.
    pub group: Option<String>,
    /// Only steps with this label: name and value.
    pub label: Option<(String, String)>,
    /// How it is compared.
    pub op: Op,
    /// With what: µs for times, a fraction for shares, otherwise the number.
    pub limit: f64,
}

/// A statistic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stat {
    /// Smallest value.
    Min,
    /// Arithmetic mean.
    Mean,
    /// Largest value.
    Max,
    /// A percentile, in `[0, 100]`.
    Percentile(f64),
    /// A share of all, or a number per second.
    Rate,
    /// How many.
    Count,
    /// Their sum.
    Sum,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// From the intended start.
    ResponseTime,
    /// From the send.
    ServiceTime,
    /// Name look-up and TCP.
    ConnectTime,
    /// TLS handshake.
    TlsTime,
    /// To the first byte.
    FirstByteTime,
    /// Whole iterations.
    IterationTime,
    /// The generator's own delay.
    Lateness,
    /// Exchanges that failed.
    Failed,
    /// Arrivals that were dropped.
    Dropped,
    /// Exchanges.
    Exchanges,
    /// Iterations begun.
    Iterations,
    /// Iterations in which something failed.
    IterationsFailed,
    /// Checks that passed.
    Checks,
    /// Waiting under a cap.
    CapWait,
    /// Attempts that repeated a failed one.
    Retries,
    /// A group of steps.
    GroupTime,
    /// Lives in which nothing failed.
    SessionOk,
    /// How long a life took.
    SessionTime,
    /// Named actions of a life.
    SessionActions,
    /// A counter of the scenario.
    Counter(String),
    /// Values of `observe`.
    Observed(String),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Op {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Op {
    /// Whether `observed OP limit` holds.
    #[must_use]
    pub fn holds(self, observed: f64, limit: f64) -> bool {
        match self {
            Self::Less => observed < limit,
            Self::LessOrEqual => observed <= limit,
            Self::Greater => observed > limit,
            Self::GreaterOrEqual => observed >= limit,
            Self::Equal => (observed - limit).abs() < f64::EPSILON * limit.abs().max(1.0),
            Self::NotEqual => (observed - limit).abs() >= f64::EPSILON * limit.abs().max(1.0),
        }
    }
}

/// Why a text is no threshold, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ThresholdError {
    /// Byte offset in the text.
    pub offset: usize,
    /// Length of what is wrong.
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Whether it names a step, a phase or a counter that is not there.
    pub is_unknown_name: bool,
}

const METRICS: &[(&str, Metric)] = &[
    ("response_time", Metric::ResponseTime),
    ("service_time", Metric::ServiceTime),
    ("connect_time", Metric::ConnectTime),
    ("tls_time", Metric::TlsTime),
    ("first_byte_time", Metric::FirstByteTime),
    ("iteration_time", Metric::IterationTime),
    ("lateness", Metric::Lateness),
    ("failed", Metric::Failed),
    ("dropped", Metric::Dropped),
    ("exchanges", Metric::Exchanges),
    ("iterations", Metric::Iterations),
    ("iterations_failed", Metric::IterationsFailed),
    ("checks", Metric::Checks),
    ("cap_wait", Metric::CapWait),
    ("retries", Metric::Retries),
    ("group_time", Metric::GroupTime),
    ("session_ok", Metric::SessionOk),
    ("session_time", Metric::SessionTime),
    ("session_actions", Metric::SessionActions),
];

/// Whether a name is that of a metric of every test.
#[must_use]
pub fn is_metric(name: &str) -> bool {
    METRICS.iter().any(|(known, _)| *known == name) || LATER.contains(&name)
}

/// The names that thresholds may use.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Counters.
    pub counters: &'a [String],
    /// Distributions of `observe`.
    pub observed: &'a [String],
    /// Phases.
    pub phases: &'a [String],
    /// Steps.
    pub steps: &'a [String],
    /// Groups.
    pub groups: &'a [String],
    /// Where each step stands, with its labels.
    pub places: &'a [StepPlace],
}

impl<'a> Known<'a> {
    /// The names of a plan; `phases` are the names of its phases.
    #[must_use]
    pub fn of(plan: &'a Plan, phases: &'a [String]) -> Self {
        Self {
            counters: &plan.counters,
            observed: &plan.observed,
            phases,
            steps: &plan.steps,
            groups: &plan.groups,
            places: &plan.step_places,
        }
    }
}

const LATER: &[&str] = &[
    "ws_delivery",
    "ws_round_trip",
    "ws_reach",
    "ws_uptime",
    "ws_recovery",
    "ws_connect",
    "ws_messages",
    "worker_cpu",
    "worker_memory",
    "host_cpu",
    "host_memory",
];

/// What a metric is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    Time,
    Share,
    PerSecond,
    Number,
}

impl Metric {
    const fn is_time(&self) -> bool {
        matches!(
            self,
            Self::ResponseTime
                | Self::ServiceTime
                | Self::ConnectTime
                | Self::TlsTime
                | Self::FirstByteTime
                | Self::IterationTime
                | Self::Lateness
                | Self::CapWait
                | Self::GroupTime
                | Self::SessionTime
        )
    }

    /// Whether it has a distribution of plain numbers.
    pub(super) const fn is_value(&self) -> bool {
        matches!(self, Self::Observed(_) | Self::SessionActions)
    }

    const fn of_steps(&self) -> bool {
        matches!(
            self,
            Self::ResponseTime
                | Self::ServiceTime
                | Self::ConnectTime
                | Self::TlsTime
                | Self::FirstByteTime
                | Self::Failed
                | Self::Exchanges
                | Self::CapWait
                | Self::Retries
        )
    }
}

const SHAPE: &str = "write STAT(METRIC) OP VALUE, for example p99(response_time, step=login) < 300ms";

const OPS: [(&str, Op); 6] = [
    ("<=", Op::LessOrEqual),
    (">=", Op::GreaterOrEqual),
    ("==", Op::Equal),
    ("!=", Op::NotEqual),
    ("<", Op::Less),
    (">", Op::Greater),
];

/// An error at a part of the text; `part` is a slice of it.
fn error_at(text: &str, part: &str, message: String, hint: &str) -> ThresholdError {
    let part = part.trim_start();
    let offset =
        if part.is_empty() { 0 } else { (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize) };
    ThresholdError {
        offset,
        length: part.trim().len().max(1),
        message,
        hint: hint.to_owned(),
        is_unknown_name: false,
    }
}

fn parse_metric(text: &str, part: &str, known: &Known<'_>) -> Result<Metric, ThresholdError> {
    let name = part.trim();
    if let Some((_, metric)) = METRICS.iter().find(|(known, _)| *known == name) {
        return Ok(metric.clone());
    }
    if known.counters.iter().any(|counter| counter == name) {
        return Ok(Metric::Counter(name.to_owned()));
    }
    if known.observed.iter().any(|observed| observed == name) {
        return Ok(Metric::Observed(name.to_owned()));
    }
    if LATER.contains(&name) {
        let message = format!("the metric `{name}` is not supported yet by this version");
        return Err(error_at(text, part, message, "remove it; the changelog tells when it comes"));
    }
    let own = known.counters.iter().chain(known.observed).map(String::as_str);
    let all = METRICS.iter().map(|(known, _)| *known).chain(own);
    let hint = crate::scenario::suggest(name, all).unwrap_or_default();
    let error = error_at(text, part, format!("there is no metric `{name}`"), &hint);
    // Unlike any metric, it may be a counter that could not be read.
    Err(ThresholdError { is_unknown_name: !hint.starts_with("did you mean"), ..error })
}

const SELECTORS: &str = "write phase=NAME, step=NAME, group=NAME or label=NAME:VALUE";

/// Reads a selector into the threshold.
fn select(
    threshold: &mut Threshold,
    text: &str,
    part: &str,
    known: &Known<'_>,
) -> Result<(), ThresholdError> {
    let fail = |message: String, hint: &str| Err(error_at(text, part, message, hint));
    let unknown = |what: &str, value: &str, names: &[String]| {
        let hint = crate::scenario::suggest(value, names.iter().map(String::as_str)).unwrap_or_default();
        let error = error_at(text, part, format!("there is no {what} `{value}`"), &hint);
        Err(ThresholdError { is_unknown_name: true, ..error })
    };
    let Some((key, value)) = part.split_once('=') else {
        return fail(format!("`{}` is not a selector", part.trim()), SELECTORS);
    };
    let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
    let of_steps = threshold.metric.of_steps();
    match key {
        "phase" if !known.phases.iter().any(|phase| phase == value) => {
            return unknown("phase", value, known.phases);
        }
        "phase" => threshold.phase = Some(value.to_owned()),
        "step" if !of_steps => {
            return fail("this metric is not measured by step".to_owned(), "remove the selector");
        }
        "step" if !known.steps.iter().any(|step| step == value) => {
            return unknown("step", value, known.steps);
        }
        "step" => threshold.step = Some(value.to_owned()),
        "group" if !of_steps && threshold.metric != Metric::GroupTime => {
            return fail("this metric is not measured by group".to_owned(), "remove the selector");
        }
        "group" if !known.groups.iter().any(|group| group == value) => {
            return unknown("group", value, known.groups);
        }
        "group" => threshold.group = Some(value.to_owned()),
        "label" if !of_steps => {
            return fail("this metric is not measured by label".to_owned(), "remove the selector");
        }
        "label" => {
            let labels = known.places.iter().flat_map(|place| &place.labels);
            let labels: Vec<String> = labels.map(|label| format!("{}:{}", label.name, label.value)).collect();
            let Some((name, wanted)) = value.split_once(':').filter(|_| labels.iter().any(|l| l == value))
            else {
                return unknown("label", value, &labels);
            };
            threshold.label = Some((name.to_owned(), wanted.to_owned()));
        }
        "host" => {
            let message = format!("the selector `{key}` is not supported yet by this version");
            return fail(message, SELECTORS);
        }
        other => return fail(format!("`{other}` is not a selector"), SELECTORS),
    }
    Ok(())
}

impl Threshold {
    /// The dimension of its value.
    pub(crate) fn dimension(&self) -> Dimension {
        match (self.stat, &self.metric) {
            (Stat::Count, _) => Dimension::Number,
            (_, metric) if metric.is_time() => Dimension::Time,
            (
                Stat::Rate,
                Metric::Failed
                | Metric::Dropped
                | Metric::Checks
                | Metric::IterationsFailed
                | Metric::SessionOk,
            ) => Dimension::Share,
            (Stat::Rate, _) => Dimension::PerSecond,
            _ => Dimension::Number,
        }
    }

    /// Reads a threshold.
    ///
    /// # Errors
    /// Where it is none, with the place.
    pub fn parse(text: &str, known: &Known<'_>) -> Result<Self, ThresholdError> {
        let fail = |part: &str, message: String, hint: &str| Err(error_at(text, part, message, hint));
        let Some((stat_text, rest)) = text.split_once('(') else {
            return fail(text, format!("`{text}` is not a threshold"), SHAPE);
        };
        let Some((inner, rest)) = split_at_closing(rest) else {
            return fail(text, "a `)` is missing".to_owned(), SHAPE);
        };
        let Some(stat) = parse_stat(stat_text.trim()) else {
            let hint = "one of min, mean, max, p50, p95, p99, p99.9, rate, count, sum";
            return fail(stat_text, format!("`{}` is not a statistic", stat_text.trim()), hint);
        };
        let mut parts = split_selectors(inner).into_iter();
        let metric = parse_metric(text, parts.next().unwrap_or_default(), known)?;
        let after = rest.trim_start();
        let Some((op, value)) = OPS.iter().find_map(|(word, op)| Some((*op, after.strip_prefix(word)?)))
        else {
            let word = after.split(' ').next().unwrap_or_default();
            return fail(after, format!("`{word}` is not a comparison"), "one of <, <=, >, >=, ==, !=");
        };
        let mut threshold = Self {
            text: text.trim().to_owned(),
            stat,
            metric,
            phase: None,
            step: None,
            group: None,
            label: None,
            op,
            limit: 0.0,
        };
        parts.try_for_each(|part| select(&mut threshold, text, part, known))?;
        if let Some(reason) = threshold.impossible() {
            return fail(stat_text, reason, SHAPE);
        }
        match threshold.parse_limit(value.trim()) {
            Ok(limit) => threshold.limit = limit,
            Err(message) => return fail(value, message, "times take ms or s, shares take %, rates take /s"),
        }
        Ok(threshold)
    }

    fn impossible(&self) -> Option<String> {
        let spread = self.metric.is_time() || self.metric.is_value();
        let fits = match self.stat {
            Stat::Count => true,
            Stat::Min | Stat::Mean | Stat::Max | Stat::Percentile(_) => spread,
            Stat::Rate => !spread,
            Stat::Sum => matches!(self.metric, Metric::Counter(_)),
        };
        (!fits).then(|| {
            if self.metric.is_time() {
                "a time has min, mean, max, percentiles and count".to_owned()
            } else if spread {
                "observed values have min, mean, max, percentiles and count".to_owned()
            } else {
                "a count has rate, count and (for counters) sum".to_owned()
            }
        })
    }

    fn parse_limit(&self, text: &str) -> Result<f64, String> {
        match self.dimension() {
            Dimension::Time => {
                parse_duration(text).map(|limit| limit.as_secs_f64() * 1e6).map_err(|e| e.to_string())
            }
            Dimension::Share => parse_percent(text).map_err(|e| e.to_string()),
            Dimension::PerSecond => {
                parse_rate(text).map(loadgrid_common::units::Rate::as_per_second).map_err(|e| e.to_string())
            }
            Dimension::Number => text
                .replace('_', "")
                .parse::<f64>()
                .ok()
                .filter(|n| n.is_finite())
                .ok_or_else(|| format!("`{text}` is not a number")),
        }
    }

    /// A value in the threshold's dimension, for people.
    #[must_use]
    pub fn show(&self, value: f64) -> String {
        match self.dimension() {
            Dimension::Time => show_micros(value),
            Dimension::Share => format!("{}%", trim_number(value * 100.0)),
            Dimension::PerSecond => format!("{}/s", trim_number(value)),
            Dimension::Number => trim_number(value),
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn show_micros(value: f64) -> String {
    show_duration(std::time::Duration::from_nanos((value.max(0.0) * 1e3) as u64))
}

fn trim_number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn parse_stat(text: &str) -> Option<Stat> {
    Some(match text {
        "min" => Stat::Min,
        "mean" | "avg" => Stat::Mean,
        "max" => Stat::Max,
        "rate" => Stat::Rate,
        "count" => Stat::Count,
        "sum" => Stat::Sum,
        "med" | "median" => Stat::Percentile(50.0),
        text => Stat::Percentile(text.strip_prefix('p')?.parse().ok().filter(|p| (0.0..=100.0).contains(p))?),
    })
}

/// Splits at the commas before a selector: a name may hold commas, too.
fn split_selectors(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(',') {
        let next = text[at + 1..].trim_start();
        let word = next.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(next.len());
        let is_selector = next[word..].trim_start().starts_with('=') && word > 0;
        if is_selector || parts.is_empty() {
            parts.push(&text[from..at]);
            from = at + 1;
        }
    }
    parts.push(&text[from..]);
    parts
}

/// Splits behind the `)` that closes, counting those inside (names may hold parentheses).
fn split_at_closing(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use loadgrid_common::plan::Pair;

    use super::*;

    fn parse(text: &str) -> Result<Threshold, ThresholdError> {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let (counters, observed) = (names(&["orders"]), names(&["basket"]));
        let (phases, groups) = (names(&["light"]), names(&["checkout"]));
        let steps = names(&["login", "GET /x(1)", "GET /y?ids=1,2"]);
        let label = Pair { name: "area".to_owned(), value: "auth".to_owned() };
        let places = [StepPlace { group: 1, labels: vec![label] }];
        Threshold::parse(
            text,
            &Known {
                counters: &counters,
                observed: &observed,
                phases: &phases,
                steps: &steps,
                groups: &groups,
                places: &places,
            },
        )
    }

    #[test]
    fn thresholds_are_read() {
        let threshold = parse("p99.9(response_time, phase=light, step=login) <= 300ms").unwrap();
        assert_eq!(
            (threshold.stat, threshold.op, threshold.limit),
            (Stat::Percentile(99.9), Op::LessOrEqual, 300_000.0)
        );
        assert_eq!((threshold.phase.as_deref(), threshold.step.as_deref()), (Some("light"), Some("login")));
        assert_eq!(parse("rate(failed) < 1%").unwrap().limit, 0.01);
        assert_eq!(parse("count(dropped) == 0").unwrap().limit, 0.0);
        assert_eq!(parse("sum(orders) > 1_000").unwrap().metric, Metric::Counter("orders".to_owned()));
        assert_eq!(parse("rate(exchanges) >= 600/m").unwrap().limit, 10.0);
        assert_eq!(
            parse("max(service_time, step=GET /x(1)) < 1s").unwrap().step.as_deref(),
            Some("GET /x(1)")
        );
        let comma = parse("max(service_time, step=GET /y?ids=1,2, phase=light) < 1s").unwrap();
        assert_eq!((comma.step.as_deref(), comma.phase.as_deref()), (Some("GET /y?ids=1,2"), Some("light")));
        assert_eq!(parse("p95(basket) < 20").unwrap().limit, 20.0);
        assert_eq!(parse("p95(group_time, group=checkout) < 2s").unwrap().group.as_deref(), Some("checkout"));
        let label = parse("rate(failed, label=area:auth) < 1%").unwrap().label;
        assert_eq!(label, Some(("area".to_owned(), "auth".to_owned())));
        assert_eq!(parse("rate(session_ok) >= 95%").unwrap().limit, 0.95);
    }

    #[test]
    fn mistakes_have_a_place_and_a_cure() {
        for (text, offset, word) in [
            ("p99 response_time < 1s", 0, "not a threshold"),
            ("p999(response_time) < 1s", 0, "not a statistic"),
            ("p99(respons_time) < 1s", 4, "no metric"),
            ("p99(ws_delivery) < 1s", 4, "not supported yet"),
            ("p99(response_time, step=logn) < 1s", 19, "no step"),
            ("p99(response_time, x) < 1s", 19, "not a selector"),
            ("p99(response_time) ~ 1s", 19, "not a comparison"),
            ("p99(response_time) < 1", 21, "no unit"),
            ("p99(failed) < 1%", 0, "a count has"),
            ("rate(response_time) < 1%", 0, "a time has"),
            ("rate(failed) < 1", 15, "per cent"),
            ("p99(response_time < 1s", 0, "`)` is missing"),
            ("count(dropped, step=login) == 0", 15, "not measured by step"),
            ("rate(failed, label=area:shop) < 1%", 13, "no label"),
            ("rate(failed, group=chekout) < 1%", 13, "no group"),
            ("sum(basket) < 1", 0, "observed values have"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(word) && error.offset == offset, "{text}: {error:?}");
        }
        assert!(parse("p99(respons_time) < 1s").unwrap_err().hint.contains("response_time"));
    }
}

//! Conditions on figures: `STAT(METRIC, selector=…) OP VALUE`.

use std::fmt;

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
    /// A counter of the scenario.
    Counter(String),
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
];

const LATER: &[&str] = &[
    "session_ok",
    "session_actions",
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
        )
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

fn parse_metric(text: &str, part: &str, counters: &[String]) -> Result<Metric, ThresholdError> {
    let name = part.trim();
    if let Some((_, metric)) = METRICS.iter().find(|(known, _)| *known == name) {
        return Ok(metric.clone());
    }
    if counters.iter().any(|counter| counter == name) {
        return Ok(Metric::Counter(name.to_owned()));
    }
    if LATER.contains(&name) {
        let message = format!("the metric `{name}` is not supported yet by this version");
        return Err(error_at(text, part, message, "remove it; the changelog tells when it comes"));
    }
    let known = METRICS.iter().map(|(known, _)| *known).chain(counters.iter().map(String::as_str));
    let hint = crate::scenario::suggest(name, known).unwrap_or_default();
    Err(error_at(text, part, format!("there is no metric `{name}`"), &hint))
}

enum Selector {
    Phase(String),
    Step(String),
}

fn parse_selector(
    text: &str,
    part: &str,
    metric: &Metric,
    phases: &[String],
    steps: &[String],
) -> Result<Selector, ThresholdError> {
    let fail = |message: String, hint: &str| Err(error_at(text, part, message, hint));
    let Some((key, value)) = part.split_once('=') else {
        return fail(format!("`{}` is not a selector", part.trim()), "write phase=NAME or step=NAME");
    };
    let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
    let known = match key {
        "phase" => phases,
        "step" if metric.of_steps() => steps,
        "step" => return fail("this metric is not measured by step".to_owned(), "remove the selector"),
        "group" | "label" | "host" => {
            let message = format!("the selector `{key}` is not supported yet by this version");
            return fail(message, "use phase= or step=");
        }
        other => return fail(format!("`{other}` is not a selector"), "write phase=NAME or step=NAME"),
    };
    if !known.iter().any(|known| known == value) {
        let hint = crate::scenario::suggest(value, known.iter().map(String::as_str)).unwrap_or_default();
        let error = error_at(text, part, format!("there is no {key} `{value}`"), &hint);
        return Err(ThresholdError { is_unknown_name: true, ..error });
    }
    Ok(if key == "phase" { Selector::Phase(value.to_owned()) } else { Selector::Step(value.to_owned()) })
}

impl Threshold {
    /// The dimension of its value.
    pub(crate) fn dimension(&self) -> Dimension {
        match (self.stat, &self.metric) {
            (Stat::Count, _) => Dimension::Number,
            (_, metric) if metric.is_time() => Dimension::Time,
            (Stat::Rate, Metric::Failed | Metric::Dropped | Metric::Checks | Metric::IterationsFailed) => {
                Dimension::Share
            }
            (Stat::Rate, _) => Dimension::PerSecond,
            _ => Dimension::Number,
        }
    }

    /// Reads a threshold. `counters` are the scenario's counters, `phases` and `steps` its names.
    ///
    /// # Errors
    /// Where it is none, with the place.
    pub fn parse(
        text: &str,
        counters: &[String],
        phases: &[String],
        steps: &[String],
    ) -> Result<Self, ThresholdError> {
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
        let mut parts = inner.split(',');
        let metric = parse_metric(text, parts.next().unwrap_or_default(), counters)?;
        let (mut phase, mut step) = (None, None);
        for selector in parts {
            let (place, name) = match parse_selector(text, selector, &metric, phases, steps)? {
                Selector::Phase(name) => (&mut phase, name),
                Selector::Step(name) => (&mut step, name),
            };
            *place = Some(name);
        }
        let rest = rest.trim_start();
        let Some((op, value)) = OPS.iter().find_map(|(word, op)| Some((*op, rest.strip_prefix(word)?)))
        else {
            let word = rest.split(' ').next().unwrap_or_default();
            return fail(rest, format!("`{word}` is not a comparison"), "one of <, <=, >, >=, ==, !=");
        };
        let mut threshold = Self { text: text.trim().to_owned(), stat, metric, phase, step, op, limit: 0.0 };
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
        let fits = match self.stat {
            Stat::Count => true,
            Stat::Min | Stat::Mean | Stat::Max | Stat::Percentile(_) => self.metric.is_time(),
            Stat::Rate => !self.metric.is_time(),
            Stat::Sum => matches!(self.metric, Metric::Counter(_)),
        };
        (!fits).then(|| {
            if self.metric.is_time() {
                "a time has min, mean, max, percentiles and count".to_owned()
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
    use super::*;

    fn parse(text: &str) -> Result<Threshold, ThresholdError> {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Threshold::parse(text, &names(&["orders"]), &names(&["light"]), &names(&["login", "GET /x(1)"]))
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
    }

    #[test]
    fn mistakes_have_a_place_and_a_cure() {
        for (text, offset, word) in [
            ("p99 response_time < 1s", 0, "not a threshold"),
            ("p999(response_time) < 1s", 0, "not a statistic"),
            ("p99(respons_time) < 1s", 4, "no metric"),
            ("p99(ws_delivery) < 1s", 4, "not supported yet"),
            ("p99(response_time, step=logn) < 1s", 18, "no step"),
            ("p99(response_time, x) < 1s", 18, "not a selector"),
            ("p99(response_time) ~ 1s", 19, "not a comparison"),
            ("p99(response_time) < 1", 20, "no unit"),
            ("p99(failed) < 1%", 0, "a count has"),
            ("rate(response_time) < 1%", 0, "a time has"),
            ("rate(failed) < 1", 14, "per cent"),
            ("p99(response_time < 1s", 0, "`)` is missing"),
            ("count(dropped, step=login) == 0", 14, "not measured by step"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(word) && error.offset == offset, "{text}: {error:?}");
        }
        assert!(parse("p99(respons_time) < 1s").unwrap_err().hint.contains("response_time"));
    }
}

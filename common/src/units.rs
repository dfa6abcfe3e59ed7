//! Quantities with units, as people write them: `200/s`, `1m30s`, `256KiB`, `5%`.

use std::fmt;
use std::time::Duration;

/// Why a quantity cannot be read. Reads after "…: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

fn error<T>(text: impl Into<String>) -> Result<T, UnitError> {
    Err(UnitError(text.into()))
}

/// The longest duration a scenario may name: it keeps every sum of nanoseconds far from overflow.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a duration such as `250ms`, `30s` or `1h30m`.
///
/// # Errors
/// Where there is no number, no unit, an unknown unit, or more than [`LONGEST`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let text = text.trim();
    if text.is_empty() {
        return error("a duration is missing; write for example 30s, 250ms or 1m30s");
    }
    let mut rest = text;
    let mut total_ns = 0_u128;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        if number.is_empty() {
            return error(format!("`{text}` is not a duration; write for example 30s, 250ms or 1m30s"));
        }
        let after = after.trim_start();
        let unit_end = after.find(|c: char| !c.is_alphabetic() && c != 'µ').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale_ns: u64 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "" => return error(format!("`{text}` has no unit; did you mean {text}s or {text}ms?")),
            other => {
                return error(format!("unknown unit `{other}` in `{text}`; use ns, us, ms, s, m, h or d"));
            }
        };
        let Some(ns) = decimal(number, scale_ns) else {
            return error(format!("`{number}` in `{text}` is not a number"));
        };
        total_ns = total_ns.saturating_add(ns);
        rest = after.trim_start();
    }
    match u64::try_from(total_ns).map(Duration::from_nanos) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => error(format!("`{text}` is longer than 366 days")),
    }
}

/// Writes a duration the way [`parse_duration`] reads it, at most three significant units.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ns = duration.as_nanos();
    match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => trimmed(ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => trimmed(ns as f64 / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => trimmed(ns as f64 / 1e9, "s"),
        _ => {
            let s = duration.as_secs();
            let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
            let mut text = String::new();
            for (n, unit) in [(h, 'h'), (m, 'm'), (s, 's')] {
                if n > 0 {
                    text.push_str(&format!("{n}{unit}"));
                }
            }
            text
        }
    }
}

fn trimmed(value: f64, unit: &str) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Arrivals per time, exact for every rate with up to three decimals per second, minute or hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    milli_per_hour: u64,
}

impl Rate {
    /// From thousandths of an arrival per hour.
    #[must_use]
    pub const fn from_milli_per_hour(milli_per_hour: u64) -> Self {
        Self { milli_per_hour }
    }

    /// Whole arrivals per second.
    #[must_use]
    pub const fn per_second(count: u64) -> Self {
        Self { milli_per_hour: count * 3_600_000 }
    }

    /// Thousandths of an arrival per hour.
    #[must_use]
    pub const fn milli_per_hour(self) -> u64 {
        self.milli_per_hour
    }

    /// Arrivals per second, for display and estimates.
    #[must_use]
    pub fn as_per_second(self) -> f64 {
        self.milli_per_hour as f64 / 3_600_000.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli_per_hour.is_multiple_of(3_600_000) {
            write!(f, "{}/s", self.milli_per_hour / 3_600_000)
        } else if self.milli_per_hour.is_multiple_of(60_000) {
            write!(f, "{}/m", self.milli_per_hour / 60_000)
        } else {
            write!(f, "{:.3}/s", self.as_per_second())
        }
    }
}

/// The highest rate a scenario may name.
pub const HIGHEST_RATE: Rate = Rate::per_second(10_000_000);

/// Reads a rate such as `200/s`, `1000/m` or `0.5/s`.
///
/// # Errors
/// Where the number or the unit is missing or unknown, or the rate is above [`HIGHEST_RATE`].
pub fn parse_rate(text: &str) -> Result<Rate, UnitError> {
    let text = text.trim();
    let Some((number, unit)) = text.split_once('/') else {
        let number = split_number(text).0;
        if !number.is_empty() && number == text {
            return error(format!("`{text}` has no unit; did you mean {text}/s or {text}/m?"));
        }
        return error(format!("`{text}` is not a rate; write for example 200/s or 1000/m"));
    };
    let per_hour_milli: u64 = match unit.trim() {
        "s" | "sec" | "second" => 3_600_000,
        "m" | "min" | "minute" => 60_000,
        "h" | "hour" => 1_000,
        other => return error(format!("unknown unit `/{other}` in `{text}`; use /s, /m or /h")),
    };
    let Some(milli) = decimal(number.trim(), per_hour_milli) else {
        return error(format!("`{}` in `{text}` is not a number", number.trim()));
    };
    match u64::try_from(milli) {
        Ok(milli) if milli <= HIGHEST_RATE.milli_per_hour => Ok(Rate { milli_per_hour: milli }),
        _ => error(format!("`{text}` is above the highest rate, {HIGHEST_RATE}")),
    }
}

/// Reads a cap such as `600/m`: a whole number above 0, and the stretch of time in which there are at most so many.
///
/// # Errors
/// Where the number is not whole, is 0, or the unit is missing or unknown.
pub fn parse_cap(text: &str) -> Result<(u64, Duration), UnitError> {
    parse_rate(text)?;
    let (number, unit) = text.trim().split_once('/').unwrap_or_default();
    let seconds = match unit.trim() {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        _ => 3_600,
    };
    match number.trim().replace('_', "").parse::<u64>() {
        Ok(count) if count > 0 => Ok((count, Duration::from_secs(seconds))),
        _ => {
            error(format!("a cap is a whole number above 0 in a time, such as 600/m, not `{}`", text.trim()))
        }
    }
}

/// Reads a number of bytes such as `512`, `64KiB`, `10MB`.
///
/// # Errors
/// Where the number or unit cannot be read.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let (number, unit) = split_number(text);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => {
            return error(format!("unknown unit `{other}` in `{text}`; use B, KiB, MiB, GiB, kB, MB or GB"));
        }
    };
    decimal(number, scale)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .map_or_else(|| error(format!("`{text}` is not a number of bytes; write for example 256KiB")), Ok)
}

/// Reads a share such as `5%` as a fraction (0.05).
///
/// # Errors
/// Where there is no number or no per cent sign.
pub fn parse_percent(text: &str) -> Result<f64, UnitError> {
    let text = text.trim();
    let Some(number) = text.strip_suffix('%') else {
        return error(format!("`{text}` has no per cent sign; did you mean {text}%?"));
    };
    match number.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value / 100.0),
        _ => error(format!("`{text}` is not a share; write for example 5%")),
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// `number` (digits with an optional fraction) times `scale`, exact, rounded down.
fn decimal(number: &str, scale: u64) -> Option<u128> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let fraction_scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole = digits(whole)?.checked_mul(u128::from(scale))?;
    whole.checked_add(digits(fraction)? * u128::from(scale) / fraction_scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ok = |text, ns| assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        ok("30s", 30_000_000_000);
        ok("1m30s", 90_000_000_000);
        ok("1h 5m", 3_900_000_000_000);
        ok("1.5s", 1_500_000_000);
        ok("250ms", 250_000_000);
        ok("0s", 0);
        for (bad, word) in [
            ("", "missing"),
            ("30", "30s"),
            ("abc", "not a duration"),
            ("3 parsecs", "parsecs"),
            ("9999999d", "366"),
            ("-1s", "not a duration"),
        ] {
            assert!(parse_duration(bad).unwrap_err().to_string().contains(word), "{bad}");
        }
        for text in ["30s", "1m30s", "250ms", "1h", "1.5s"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn rates_are_exact() {
        assert_eq!(parse_rate("200/s"), Ok(Rate::per_second(200)));
        assert_eq!(parse_rate("1000/m").unwrap().milli_per_hour(), 60_000_000);
        assert_eq!(parse_rate("0.5/s").unwrap().milli_per_hour(), 1_800_000);
        assert_eq!(parse_rate("1000/m").unwrap().to_string(), "1000/m");
        for (bad, word) in [
            ("200", "200/s"),
            ("200/x", "/x"),
            ("x/s", "`x`"),
            ("99999999999/s", "highest"),
            ("", "not a rate"),
        ] {
            assert!(parse_rate(bad).unwrap_err().to_string().contains(word), "{bad}");
        }
    }

    #[test]
    fn bytes_and_shares() {
        assert_eq!(parse_bytes("256KiB"), Ok(262_144));
        assert_eq!(parse_bytes("512"), Ok(512));
        assert!(parse_bytes("1 potato").is_err());
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert!(parse_percent("5").unwrap_err().to_string().contains("5%"));
    }
}

//! How the demo behaves.

use std::net::SocketAddr;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct DemoConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Freezes it whole, again and again.
    pub stall: Option<Stall>,
    /// How long answers take beyond their work.
    pub latency: Option<Latency>,
    /// Share of card payments that are declined (402), in `[0, 1]`.
    pub decline: f64,
    /// How long a token is valid.
    pub token_ttl: Duration,
    /// Seed of its random faults.
    pub seed: u64,
}

impl Default for DemoConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7800)),
            stall: None,
            latency: None,
            decline: 0.0,
            token_ttl: Duration::from_secs(900),
            seed: 1,
        }
    }
}

/// A freeze of the whole process: in every `every`, the last `length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The period.
    pub every: Duration,
    /// How long it freezes in it.
    pub length: Duration,
}

/// A log-normal delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half of the delays are shorter.
    pub median: Duration,
    /// One in a hundred is longer.
    pub p99: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| c.is_alphabetic())
        .ok_or_else(|| format!("`{text}` has no unit; write 5s or 40ms"))?;
    let number: f64 = text[..split].parse().map_err(|_| format!("`{text}` is not a duration"))?;
    let seconds = match &text[split..] {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        unit => return Err(format!("unknown unit `{unit}`; use ms, s or m")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is not a duration"))
}

/// Reads `every=5s,for=1s`.
///
/// # Errors
/// Where it is not of that form, or the freeze is longer than its period.
pub fn parse_stall(text: &str) -> Result<Stall, String> {
    let (mut every, mut length) = (None, None);
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("every", value)) => every = Some(duration(value)?),
            Some(("for", value)) => length = Some(duration(value)?),
            _ => return Err(format!("`{part}` is not known; write every=5s,for=1s")),
        }
    }
    match (every, length) {
        (Some(every), Some(length)) if length < every => Ok(Stall { every, length }),
        (Some(_), Some(_)) => {
            Err("the stall is as long as its period; the demo would never answer".to_owned())
        }
        _ => Err("write every=5s,for=1s".to_owned()),
    }
}

/// Reads `lognormal(5ms,p99=40ms)`.
///
/// # Errors
/// Where it is not of that form.
pub fn parse_latency(text: &str) -> Result<Latency, String> {
    let shape = "write lognormal(5ms,p99=40ms)";
    let inner =
        text.trim().strip_prefix("lognormal(").and_then(|rest| rest.strip_suffix(')')).ok_or(shape)?;
    let (median, p99) = inner.split_once(',').ok_or(shape)?;
    let p99 = p99.trim().strip_prefix("p99=").ok_or(shape)?;
    let latency = Latency { median: duration(median)?, p99: duration(p99)? };
    if latency.median.is_zero() || latency.p99 < latency.median {
        return Err("the median is above zero and the p99 not below it".to_owned());
    }
    Ok(latency)
}

/// Reads `5%` as 0.05.
///
/// # Errors
/// Where it is not a share from 0% to 100%.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    number
        .filter(|n| (0.0..=100.0).contains(n))
        .map(|n| n / 100.0)
        .ok_or_else(|| format!("`{text}` is not a share; write 5%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read() {
        let stall = parse_stall("every=5s,for=1s").unwrap();
        assert_eq!((stall.every, stall.length), (Duration::from_secs(5), Duration::from_secs(1)));
        assert!(
            parse_stall("every=1s,for=1s").is_err()
                && parse_stall("every=1s").is_err()
                && parse_stall("x").is_err()
        );
        assert_eq!(parse_latency("lognormal(5ms,p99=40ms)").unwrap().p99, Duration::from_millis(40));
        assert!(parse_latency("lognormal(5ms)").is_err() && parse_latency("normal(1,2)").is_err());
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert!(parse_percent("5").is_err() && parse_percent("101%").is_err());
    }
}

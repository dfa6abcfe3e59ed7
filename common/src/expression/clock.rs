//! The functions of expressions that look at the clock: the only ones whose value no seed repeats.

use minijinja::Error;

use super::functions::wrong;

/// Milliseconds since 1970, UTC.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The time now in UTC, written by a pattern of `strftime`; moved by an offset such as `7d` or `-90m`.
pub(super) fn date(pattern: Option<&str>, offset: Option<&str>) -> Result<String, Error> {
    let mut at = jiff::Timestamp::now();
    if let Some(offset) = offset {
        let (back, length) = offset.strip_prefix('-').map_or((false, offset), |rest| (true, rest));
        let length = crate::units::parse_duration(length)
            .map_err(|error| wrong(format!("date(pattern, offset): {error}")))?;
        let moved = if back { at.checked_sub(length) } else { at.checked_add(length) };
        at = moved.map_err(|_| wrong("date(pattern, offset): the offset is too large"))?;
    }
    let pattern = pattern.unwrap_or("%Y-%m-%dT%H:%M:%SZ");
    let zoned = at.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(pattern, &zoned)
        .map_err(|_| wrong(format!("date: `{pattern}` is not a pattern such as %Y-%m-%d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_their_pattern_and_offset() {
        let year: i32 = date(Some("%Y"), None).unwrap().parse().unwrap();
        assert!((2_024..3_000).contains(&year));
        assert!(date(None, None).unwrap().ends_with('Z'));
        let next: i32 = date(Some("%Y"), Some("366d")).unwrap().parse().unwrap();
        assert!((1..=2).contains(&(next - year)));
        assert!(date(Some("%Y"), Some("-366d")).unwrap().parse::<i32>().unwrap() < year);
        assert!(date(Some("%Y"), Some("soon")).is_err());
        assert!(now_ms() > 1_700_000_000_000);
    }
}

//! Delays and declined cards, drawn from a seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Latency;

/// Random numbers, one after the other. Which request gets which depends on their order of arrival.
#[derive(Debug)]
pub(crate) struct Dice {
    state: AtomicU64,
}

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// A number in `[0, 1)` (xorshift-multiply over a Weyl sequence).
    pub(crate) fn unit(&self) -> f64 {
        let mut x = self.state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((x ^ (x >> 32)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A log-normal delay. 2.326348 is the 99th percentile of a standard normal distribution.
    pub(crate) fn delay(&self, latency: Latency) -> Duration {
        let median = latency.median.as_secs_f64();
        let sigma = (latency.p99.as_secs_f64() / median).ln() / 2.326_348;
        let (u, v) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        Duration::from_secs_f64((median * (sigma * normal).exp()).min(60.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_the_asked_median_and_tail() {
        let dice = Dice::new(7);
        let latency = Latency { median: Duration::from_millis(5), p99: Duration::from_millis(40) };
        let mut delays: Vec<f64> = (0..20_000).map(|_| dice.delay(latency).as_secs_f64() * 1e3).collect();
        delays.sort_by(f64::total_cmp);
        assert!((4.7..5.3).contains(&delays[10_000]), "{}", delays[10_000]);
        assert!((34.0..46.0).contains(&delays[19_800]), "{}", delays[19_800]);
    }
}

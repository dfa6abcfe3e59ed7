//! How long to wait before the next attempt.

use std::time::Duration;

use loadgrid_common::random::Draws;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after `attempt` failures (from 0): doubling from 100 ms to 5 s, less up to a quarter by `seed`,
/// so that a thousand workers do not come back at one instant.
#[must_use]
pub fn backoff(attempt: u32, seed: u64) -> Duration {
    let full = FIRST.saturating_mul(1_u32 << attempt.min(10)).min(LONGEST);
    full.mul_f64(1.0 - 0.25 * Draws::keyed(&[seed, u64::from(attempt)]).unit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_are_bounded_and_grow_at_first(attempt: u32, seed: u64) {
            let pause = backoff(attempt, seed);
            prop_assert!(pause >= FIRST * 3 / 4 && pause <= LONGEST);
            prop_assert!(backoff(2, seed) > backoff(0, seed));
        }
    }
}

//! How far the coordinator's clock is from this machine's.

use std::collections::VecDeque;
use std::time::Duration;

use loadgrid_common::time::{Moment, nanos};

/// How far two machines' boot-time clocks may drift apart: 100 ppm is beyond any that is not broken.
const DRIFT_PPM: u64 = 100;
/// Probes older than this are forgotten.
const MEMORY: Duration = Duration::from_secs(30);

/// The four instants of a probe: sent and answered, each on its own clock.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Worker's clock.
    pub sent: Moment,
    /// Coordinator's clock.
    pub received: Moment,
    /// Coordinator's clock.
    pub echoed: Moment,
    /// Worker's clock.
    pub returned: Moment,
}

/// Coordinator's clock minus the worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// In nanoseconds.
    pub nanos: i64,
    /// The true offset is at most so far from it.
    pub uncertainty: Duration,
}

/// The probes of the last half minute.
///
/// A probe bounds the offset to half of its round trip (Cristian, 1989); with age, drift widens the bound.
/// The tightest bound wins.
#[derive(Debug, Default)]
pub struct ClockEstimate {
    probes: VecDeque<(Moment, i64, Duration)>,
}

impl ClockEstimate {
    /// Takes a probe. One whose instants contradict each other is ignored.
    pub fn add(&mut self, probe: Probe) {
        if probe.returned < probe.sent || probe.echoed < probe.received {
            return;
        }
        let there = probe.received.minus(probe.sent);
        let back = probe.echoed.minus(probe.returned);
        let round_trip = probe.returned.since(probe.sent).saturating_sub(probe.echoed.since(probe.received));
        let middle = (i128::from(there) + i128::from(back)) / 2;
        self.probes.push_back((probe.returned, i64::try_from(middle).unwrap_or(i64::MAX), round_trip));
        while self.probes.front().is_some_and(|(at, _, _)| probe.returned.since(*at) > MEMORY) {
            self.probes.pop_front();
        }
    }

    /// The best estimate at `now`; `None` before the first probe.
    #[must_use]
    pub fn offset(&self, now: Moment) -> Option<Offset> {
        let bounds = self.probes.iter().map(|&(at, offset, round_trip)| {
            let drift = Duration::from_nanos(nanos(now.since(at)) / 1_000_000 * DRIFT_PPM);
            (round_trip / 2 + drift, offset)
        });
        bounds.min().map(|(uncertainty, nanos)| Offset { nanos, uncertainty })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_uncertainty(
            offset in -1_000_000_000_i64..1_000_000_000,
            trips in prop::collection::vec((1_u64..50_000_000, 1_u64..50_000_000, 0_u64..1_000_000), 1..20)
        ) {
            let mut estimate = ClockEstimate::default();
            let mut now = Moment::from_nanos(10_000_000_000);
            for (there, back, held) in trips {
                let received = (now + Duration::from_nanos(there)).shifted(offset);
                let echoed = received + Duration::from_nanos(held);
                let returned = now + Duration::from_nanos(there + held + back);
                estimate.add(Probe { sent: now, received, echoed, returned });
                now = returned + Duration::from_millis(500);
            }
            let best = estimate.offset(now).unwrap();
            prop_assert!(best.nanos.abs_diff(offset) <= nanos(best.uncertainty) + 1);
        }
    }
}

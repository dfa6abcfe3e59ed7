//! Arrivals under a piecewise straight rate.
//!
//! Arrival `i` (from 0) is due when the area under the rate reaches `i`; one due exactly at the end does
//! not happen. Areas are whole numbers (thousandths of an arrival per hour, times nanoseconds, doubled so
//! that the area of a triangle is whole too), so how many arrivals a plan holds is exact and the same on
//! every machine. Only the instant inside a sloped piece is computed in floating point.

use std::time::Duration;

use crate::random::Draws;
use crate::time::nanos;
use crate::units::Rate;

/// One arrival, in doubled area units: 2 × 1,000 × 3,600 s × 10⁹ ns.
const ARRIVAL: u128 = 2 * 1_000 * 3_600 * 1_000_000_000;

/// Arrivals drawn together when arrivals are random; see [`Arrivals`].
const BLOCK: u64 = 1_024;

/// A stretch of time over which the rate goes straight from one value to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatePiece {
    /// Rate at the beginning.
    pub from: Rate,
    /// Rate at the end.
    pub to: Rate,
    /// Length.
    pub over: Duration,
}

/// Why a curve cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// More arrivals than one load may hold.
    #[error("more than {limit} arrivals")]
    TooMany {
        /// The limit.
        limit: u64,
    },
}

/// The most arrivals of one load: a year at 100,000 a second is near it, and `i × ARRIVAL` stays far from overflow.
const MOST_ARRIVALS: u64 = 1 << 42;

/// How the intended rate of a load moves over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateCurve {
    pieces: Vec<Placed>,
    area: u128,
    length: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    piece: RatePiece,
    begins: Duration,
    area_before: u128,
}

impl RateCurve {
    /// A curve of pieces, one after the other.
    ///
    /// # Errors
    /// Where it would hold more arrivals than a load may have.
    pub fn try_new(pieces: &[RatePiece]) -> Result<Self, ScheduleError> {
        let mut curve = Self { pieces: Vec::with_capacity(pieces.len()), area: 0, length: Duration::ZERO };
        for &piece in pieces {
            curve.pieces.push(Placed { piece, begins: curve.length, area_before: curve.area });
            let rates = u128::from(piece.from.milli_per_hour()) + u128::from(piece.to.milli_per_hour());
            curve.area += rates * u128::from(nanos(piece.over));
            curve.length += piece.over;
        }
        if curve.area.div_ceil(ARRIVAL) > u128::from(MOST_ARRIVALS) {
            return Err(ScheduleError::TooMany { limit: MOST_ARRIVALS });
        }
        Ok(curve)
    }

    /// How many arrivals there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::try_from(self.area.div_ceil(ARRIVAL)).unwrap_or(u64::MAX)
    }

    /// Length of the curve.
    #[must_use]
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// The highest rate on the curve.
    #[must_use]
    pub fn peak(&self) -> Rate {
        self.pieces.iter().map(|placed| placed.piece.from.max(placed.piece.to)).max().unwrap_or_default()
    }

    /// When evenly spaced arrival `index` is due; `None` past the last one.
    #[must_use]
    pub fn intended(&self, index: u64) -> Option<Duration> {
        (index < self.total()).then(|| self.instant_of(u128::from(index) * ARRIVAL))
    }

    /// How many evenly spaced arrivals are due at or before `at`.
    #[must_use]
    pub fn due_by(&self, at: Duration) -> u64 {
        let (mut low, mut high) = (0, self.total());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.intended(middle).is_some_and(|due| due <= at) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The instant at which the (doubled) area under the curve reaches `area`, rounded up to a nanosecond.
    fn instant_of(&self, area: u128) -> Duration {
        let next = self.pieces.partition_point(|placed| placed.area_before <= area);
        let Some(placed) = next.checked_sub(1).and_then(|i| self.pieces.get(i)) else { return self.length };
        let rest = area - placed.area_before;
        let (from, to) = (placed.piece.from.milli_per_hour(), placed.piece.to.milli_per_hour());
        let over = nanos(placed.piece.over);
        let within = if from == to {
            if from == 0 { over } else { u64::try_from(rest.div_ceil(2 * u128::from(from))).unwrap_or(over) }
        } else {
            // from·t + slope/2·t² = area/2, solved without subtracting nearly equal numbers.
            let (from, area) = (from as f64, rest as f64);
            let slope = (to as f64 - from) / over as f64;
            let root = (from * from + slope * area).max(0.0).sqrt();
            (area / (from + root)).ceil() as u64
        };
        placed.begins + Duration::from_nanos(within.min(over))
    }
}

/// The instants of a curve's arrivals, evenly spaced or random.
///
/// Random arrivals are a Poisson process whose count is fixed for each block of 1,024 arrivals of area:
/// inside a block the instants are independent and uniform over the area, drawn from (seed, load, block).
/// So gaps are exponential, the total is exact, and any worker can compute any block alone.
#[derive(Clone, Debug)]
pub struct Arrivals {
    curve: RateCurve,
    random: Option<Block>,
}

#[derive(Clone, Debug)]
struct Block {
    keys: [u64; 2],
    number: Option<u64>,
    /// Positions in the block, in arrivals, ascending.
    positions: Vec<f64>,
}

impl Arrivals {
    /// Evenly spaced arrivals.
    #[must_use]
    pub const fn uniform(curve: RateCurve) -> Self {
        Self { curve, random: None }
    }

    /// Random arrivals, the same for the same seed and load.
    #[must_use]
    pub const fn poisson(curve: RateCurve, seed: u64, load: u64) -> Self {
        Self { curve, random: Some(Block { keys: [seed, load], number: None, positions: Vec::new() }) }
    }

    /// The curve below.
    #[must_use]
    pub const fn curve(&self) -> &RateCurve {
        &self.curve
    }

    /// When arrival `index` is due. Ascending in `index`; `None` past the last one.
    pub fn intended(&mut self, index: u64) -> Option<Duration> {
        let total = self.curve.total();
        let Some(block) = &mut self.random else { return self.curve.intended(index) };
        if index >= total {
            return None;
        }
        let (number, place) = (index / BLOCK, usize::try_from(index % BLOCK).ok()?);
        if block.number != Some(number) {
            block.draw(number, (total - number * BLOCK).min(BLOCK));
        }
        let position = block.positions.get(place)?;
        let area = u128::from(number * BLOCK) * ARRIVAL + (position * ARRIVAL as f64) as u128;
        Some(self.curve.instant_of(area.min(self.curve.area.saturating_sub(1))))
    }
}

impl Block {
    fn draw(&mut self, number: u64, size: u64) {
        let mut draws = Draws::keyed(&[self.keys[0], self.keys[1], 0x41_52_52, number]);
        self.positions.clear();
        self.positions.extend((0..size).map(|_| draws.unit() * size as f64));
        self.positions.sort_by(f64::total_cmp);
        self.number = Some(number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn curve(pieces: &[(u64, u64, u64)]) -> RateCurve {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|&(from, to, s)| RatePiece {
                from: Rate::per_second(from),
                to: Rate::per_second(to),
                over: seconds(s),
            })
            .collect();
        RateCurve::try_new(&pieces).unwrap()
    }

    #[test]
    fn constant_rates_are_exact() {
        let constant = curve(&[(1_000, 1_000, 20)]);
        assert_eq!(constant.total(), 20_000);
        assert_eq!(constant.intended(0), Some(Duration::ZERO));
        assert_eq!(constant.intended(19_999), Some(Duration::from_millis(19_999)));
        assert_eq!(constant.intended(20_000), None);
        let thousand_a_minute = RatePiece {
            from: Rate::from_milli_per_hour(60_000_000),
            to: Rate::from_milli_per_hour(60_000_000),
            over: seconds(300),
        };
        assert_eq!(RateCurve::try_new(&[thousand_a_minute]).unwrap().total(), 5_000);
    }

    #[test]
    fn a_ramp_holds_the_area_under_it() {
        let ramp = curve(&[(0, 100, 10)]);
        assert_eq!(ramp.total(), 500);
        // The area of half of the time is a quarter.
        assert_eq!(ramp.due_by(seconds(5)), 126);
        assert_eq!(ramp.intended(125), Some(seconds(5)));
        assert_eq!(curve(&[(0, 0, 5), (10, 10, 1)]).intended(0), Some(seconds(5)));
        assert_eq!(curve(&[(10, 10, 1), (0, 0, 5), (10, 10, 1)]).intended(10), Some(seconds(6)));
    }

    #[test]
    fn random_arrivals_have_exponential_gaps_and_an_exact_count() {
        let mut arrivals = Arrivals::poisson(curve(&[(1_000, 1_000, 10)]), 7, 0);
        let due: Vec<f64> = (0..10_000).map(|i| arrivals.intended(i).unwrap().as_secs_f64()).collect();
        assert!(due.is_sorted() && arrivals.intended(10_000).is_none());
        // Kolmogorov–Smirnov against 1 − e^(−1000 t); 1.63 / √n is the 1 % bound.
        let mut gaps: Vec<f64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let distance = gaps
            .iter()
            .enumerate()
            .fold(0.0_f64, |d, (i, gap)| d.max((1.0 - (-1_000.0 * gap).exp() - i as f64 / n).abs()));
        assert!(distance < 1.63 / n.sqrt(), "{distance}");
        let again: Vec<f64> = (0..10_000)
            .map(|i| Arrivals::poisson(curve(&[(1_000, 1_000, 10)]), 7, 0).intended(i).unwrap().as_secs_f64())
            .take(3)
            .collect();
        assert_eq!(again, due[..3]);
    }

    proptest! {
        #[test]
        fn instants_ascend_and_agree_with_counts(
            pieces in prop::collection::vec((0_u64..500, 0_u64..500, 0_u64..20), 1..5), seed: u64
        ) {
            let curve = curve(&pieces);
            let area2: u64 = pieces.iter().map(|&(from, to, s)| (from + to) * s).sum();
            prop_assert_eq!(curve.total(), area2.div_ceil(2));
            let mut random = Arrivals::poisson(curve.clone(), seed, 1);
            let mut last = [Duration::ZERO; 2];
            for i in 0..curve.total() {
                for (last, due) in last.iter_mut().zip([curve.intended(i), random.intended(i)]) {
                    let due = due.unwrap();
                    prop_assert!(due >= *last && due <= curve.length());
                    *last = due;
                }
                prop_assert!(curve.due_by(last[0]) > i);
            }
        }
    }
}

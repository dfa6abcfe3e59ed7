//! How many virtual users live, over time.
//!
//! Users join and leave in the order of their index: user `k` lives while the curve is at `k + ½` or
//! above, so the number alive is the curve's value, rounded. The whole grid follows one curve; a worker
//! looks up the lives of the users it owns.

use std::time::Duration;

use crate::time::nanos;

/// A stretch of time over which the number of users goes straight from one value to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserPiece {
    /// Users at the beginning.
    pub from: u64,
    /// Users at the end.
    pub to: u64,
    /// Length.
    pub over: Duration,
    /// Users come and go in batches of so many: a batch comes when the curve has room for the last of it, and
    /// goes with the first of it that has to go, so there are never more users than the curve says.
    pub batch: u64,
}

/// When one user lives; offsets from phase zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Begins its first iteration.
    pub from: Duration,
    /// Begins no further iteration.
    pub until: Duration,
}

/// How the number of users moves over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserCurve {
    pieces: Vec<UserPiece>,
}

impl UserCurve {
    /// A curve of pieces, one after the other.
    #[must_use]
    pub const fn new(pieces: Vec<UserPiece>) -> Self {
        Self { pieces }
    }

    /// Length of the curve.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.pieces.iter().map(|piece| piece.over).sum()
    }

    /// The most users that ever live at once.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.pieces
            .iter()
            .filter(|piece| !piece.over.is_zero())
            .map(|piece| piece.from.max(piece.to))
            .max()
            .unwrap_or(0)
    }

    /// The lives of user `index`, in order.
    #[must_use]
    pub fn lives(&self, index: u64) -> Vec<Life> {
        let mut lives: Vec<Life> = Vec::new();
        let mut begins = Duration::ZERO;
        for piece in &self.pieces {
            let ends = begins + piece.over;
            if let Some((from, until)) = piece.span(index) {
                let (from, until) = (begins + from, begins + until);
                match lives.last_mut() {
                    Some(last) if last.until == from => last.until = until,
                    _ => lives.push(Life { from, until }),
                }
            }
            begins = ends;
        }
        lives
    }
}

impl UserPiece {
    /// The index with which a user comes and goes: its own, or the last of its batch.
    fn place_of(&self, index: u64) -> u64 {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        if self.batch <= 1 || index < low || index >= high {
            return index;
        }
        ((index / self.batch + 1) * self.batch).min(high) - 1
    }

    /// When in this piece twice the curve is at 2·index + 1 or above.
    fn span(&self, index: u64) -> Option<(Duration, Duration)> {
        if self.over.is_zero() {
            return None;
        }
        let level = 2 * u128::from(self.place_of(index)) + 1;
        let (from, to) = (2 * u128::from(self.from), 2 * u128::from(self.to));
        let over = u128::from(nanos(self.over));
        // The crossing lies at over · |level − from| / |to − from|, rounded up.
        let crossing = || {
            let ns = (over * level.abs_diff(from)).div_ceil(to.abs_diff(from));
            Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)).min(self.over)
        };
        match (from >= level, to >= level) {
            (true, true) => Some((Duration::ZERO, self.over)),
            (false, false) => None,
            (false, true) => Some((crossing(), self.over)),
            (true, false) => Some((Duration::ZERO, crossing())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn curve(pieces: &[(u64, u64, u64)]) -> UserCurve {
        UserCurve::new(
            pieces.iter().map(|&(from, to, s)| UserPiece { from, to, over: seconds(s), batch: 1 }).collect(),
        )
    }

    #[test]
    fn a_user_that_leaves_and_comes_back_has_two_lives() {
        let curve = curve(&[(0, 10, 10), (10, 10, 5), (10, 0, 10), (0, 10, 10)]);
        assert_eq!(curve.peak(), 10);
        assert_eq!(
            curve.lives(5),
            [
                Life { from: Duration::from_millis(5_500), until: Duration::from_millis(19_500) },
                Life { from: Duration::from_millis(30_500), until: seconds(35) }
            ]
        );
        assert_eq!(curve.lives(10), []);
    }

    #[test]
    fn batches_come_and_go_together_and_never_early() {
        let piece = |from, to| UserPiece { from, to, over: seconds(10), batch: 4 };
        let curve = UserCurve::new(vec![piece(0, 10), piece(10, 2)]);
        let from = |k| curve.lives(k)[0].from;
        assert_eq!([from(0), from(3)], [Duration::from_millis(3_500); 2]);
        assert_eq!([from(4), from(7)], [Duration::from_millis(7_500); 2]);
        assert_eq!([from(8), from(9)], [Duration::from_millis(9_500); 2]);
        let until = |k| curve.lives(k)[0].until;
        assert_eq!([until(0), until(1)], [seconds(20); 2]);
        assert_eq!(until(8), until(9));
        assert!(until(2) == until(3) && until(3) > until(4));
        for ms in (0..20_000).step_by(50) {
            let at = Duration::from_millis(ms);
            let alive =
                (0..10).filter(|&k| curve.lives(k).iter().any(|life| life.from <= at && at < life.until));
            let value = if ms < 10_000 { ms as f64 / 1e3 } else { 10.0 - (ms as f64 - 1e4) / 1e3 * 0.8 };
            assert!(alive.count() as f64 <= value + 0.51, "at {ms} ms");
        }
    }

    proptest! {
        #[test]
        fn the_number_alive_is_the_curve_rounded(
            pieces in prop::collection::vec((0_u64..60, 0_u64..60, 1_u64..20), 1..5), permille in 0_u64..1_000
        ) {
            let curve = curve(&pieces);
            let at = curve.length() * u32::try_from(permille).unwrap() / 1_000;
            let alive = (0..curve.peak()).filter(|&k| curve.lives(k).iter().any(|life| life.from <= at && at < life.until)).count();
            let mut begins = 0;
            let mut value = 0.0;
            for &(from, to, s) in &pieces {
                let offset = at.as_secs_f64() - begins as f64;
                if (0.0..s as f64).contains(&offset) {
                    value = (to as f64 - from as f64).mul_add(offset / s as f64, from as f64);
                }
                begins += s;
            }
            prop_assert!((alive as f64 - value).abs() <= 0.5001, "{alive} of {value}");
        }
    }
}

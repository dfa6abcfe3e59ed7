//! A histogram with what buckets would round: exact sum, minimum and maximum.

use super::{Histogram, Layout};

/// The values of one measured quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Counts by bucket.
    pub histogram: Histogram,
    /// Number of values.
    pub count: u64,
    /// Exact sum, in the layout's unit.
    pub sum: u64,
    /// Smallest value; `u64::MAX` while empty.
    pub min: u64,
    /// Largest value, also where it lies above the layout.
    pub max: u64,
    /// Values above the layout's highest; they stand in its last bucket.
    pub clamped: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new(Layout::Times)
    }
}

/// The figures of a distribution that reports show. Times in the layout's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub count: u64,
    /// Smallest value.
    pub min: u64,
    /// Arithmetic mean, rounded to a unit.
    pub mean: u64,
    /// Largest value.
    pub max: u64,
}

impl Distribution {
    /// An empty distribution.
    #[must_use]
    pub const fn new(layout: Layout) -> Self {
        Self { histogram: Histogram::new(layout), count: 0, sum: 0, min: u64::MAX, max: 0, clamped: 0 }
    }

    /// Takes note of one value. Never fails: what does not fit is clamped and counted.
    pub fn record(&mut self, value: u64) {
        self.histogram.record(value);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.clamped += u64::from(value > self.histogram.layout().highest());
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.histogram.merge(&other.histogram);
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.clamped = self.clamped.saturating_add(other.clamped);
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value at a quantile in `[0, 1]`: the highest value of the bucket in which the ⌈q·n⌉-th
    /// smallest lies, but never above the true maximum. `None` while empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count);
        if rank == self.count {
            return Some(self.max);
        }
        let bucket = self.histogram.bucket_of_rank(rank)?;
        Some(self.histogram.layout().range_of(bucket).1.clamp(self.min, self.max))
    }

    /// Count, minimum, mean and maximum; `None` while empty.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        (self.count > 0).then(|| Summary {
            count: self.count,
            min: self.min,
            mean: self.sum / self.count,
            max: self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Distribution {
        let mut distribution = Distribution::default();
        values.iter().for_each(|&value| distribution.record(value));
        distribution
    }

    fn merged(parts: &[&Distribution]) -> Distribution {
        let mut whole = Distribution::default();
        parts.iter().for_each(|part| whole.merge(part));
        whole
    }

    proptest! {
        /// Invariant 7.
        #[test]
        fn merging_is_a_commutative_monoid(
            a in prop::collection::vec(0_u64..700_000_000, 0..60),
            b in prop::collection::vec(0_u64..700_000_000, 0..60),
            c in prop::collection::vec(0_u64..700_000_000, 0..60)
        ) {
            let (x, y, z) = (of(&a), of(&b), of(&c));
            prop_assert_eq!(merged(&[&x, &y]), merged(&[&y, &x]));
            prop_assert_eq!(merged(&[&merged(&[&x, &y]), &z]), merged(&[&x, &merged(&[&y, &z])]));
            prop_assert_eq!(merged(&[&x, &Distribution::default()]), x.clone());
            let all: Vec<u64> = a.iter().chain(&b).chain(&c).copied().collect();
            prop_assert_eq!(merged(&[&x, &y, &z]), of(&all));
        }

        #[test]
        fn quantiles_are_within_a_thousandth_of_the_exact_ones(mut values in prop::collection::vec(1_u64..500_000_000, 1..300), q in 0.0_f64..=1.0) {
            let distribution = of(&values);
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let (exact, got) = (values[rank - 1], distribution.quantile(q).unwrap());
            prop_assert!(got >= exact && got - exact <= exact / 1_000, "{got} for {exact}");
        }
    }
}

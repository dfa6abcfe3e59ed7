//! Counts over logarithmic buckets, in pages that exist only where something was counted.
//!
//! The buckets are those of HdrHistogram with three significant digits, so its file formats and its
//! other implementations can be used; the pages are ours, because a thousand dense series would take
//! 172 MB a copy.

/// Which values a histogram can tell apart. A fixed set, so that merging is addition of equal shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Microseconds from 1 µs to 10 min.
    #[default]
    Times,
    /// Milliseconds from 1 ms to 24 h.
    LongTimes,
    /// Thousandths of a number, from 0 to a thousand million.
    Values,
}

/// Sub-buckets per power of two at three significant digits: the next power of two above 2 × 10³.
const SUB_BUCKETS: u64 = 2_048;
const HALF_BITS: u32 = 10;
const PAGE: usize = 256;

impl Layout {
    /// Significant decimal digits of every layout.
    pub const DIGITS: u32 = 3;

    /// The lowest value told apart from the next.
    #[must_use]
    pub const fn lowest(self) -> u64 {
        1
    }

    /// The highest value; above it, values are clamped.
    #[must_use]
    pub const fn highest(self) -> u64 {
        match self {
            Self::Times => 600_000_000,
            Self::LongTimes => 86_400_000,
            Self::Values => 1_000_000_000_000,
        }
    }

    /// The bucket of a value (clamped to the highest).
    #[must_use]
    pub const fn index_of(self, value: u64) -> usize {
        let value = if value > self.highest() { self.highest() } else { value };
        let exponent = (64 - HALF_BITS - 1) - (value | (SUB_BUCKETS - 1)).leading_zeros();
        let sub = value >> exponent;
        // exponent ≤ 30 and sub < 2,048 for every layout, so the index fits any usize.
        ((((exponent as u64) + 1) << HALF_BITS) + sub - (SUB_BUCKETS / 2)) as usize
    }

    /// The lowest and the highest value of a bucket.
    #[must_use]
    pub const fn range_of(self, index: usize) -> (u64, u64) {
        let index = index as u64;
        let (mut exponent, mut sub) = (index >> HALF_BITS, (index & (SUB_BUCKETS / 2 - 1)) + SUB_BUCKETS / 2);
        if exponent == 0 {
            sub -= SUB_BUCKETS / 2;
        } else {
            exponent -= 1;
        }
        (sub << exponent, ((sub + 1) << exponent) - 1)
    }

    /// How many buckets there are.
    #[must_use]
    pub const fn buckets(self) -> usize {
        self.index_of(self.highest()) + 1
    }
}

/// Counts by bucket.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    layout: Layout,
    pages: Vec<Option<Box<[u64; PAGE]>>>,
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    pub const fn new(layout: Layout) -> Self {
        Self { layout, pages: Vec::new() }
    }

    /// Its layout.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Counts one value; one above the layout goes into the last bucket.
    pub fn record(&mut self, value: u64) {
        self.add_at(self.layout.index_of(value), 1);
    }

    /// Adds to a bucket. A bucket beyond the layout is taken as the last one.
    pub fn add_at(&mut self, index: usize, count: u64) {
        let index = index.min(self.layout.buckets() - 1);
        let page = index / PAGE;
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        let slot = &mut self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]))[index % PAGE];
        *slot = slot.saturating_add(count);
    }

    /// Adds all counts of `other`, which must have the same layout.
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(self.layout, other.layout);
        if self.pages.len() < other.pages.len() {
            self.pages.resize(other.pages.len(), None);
        }
        for (own, theirs) in self.pages.iter_mut().zip(&other.pages) {
            match (own, theirs) {
                (Some(own), Some(theirs)) => {
                    for (own, theirs) in own.iter_mut().zip(theirs.iter()) {
                        *own = own.saturating_add(*theirs);
                    }
                }
                (own @ None, Some(theirs)) => *own = Some(theirs.clone()),
                (_, None) => {}
            }
        }
    }

    /// The buckets that hold something, ascending, with their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.pages.iter().enumerate().filter_map(|(page, counts)| Some((page, counts.as_deref()?))).flat_map(
            |(page, counts)| {
                counts
                    .iter()
                    .enumerate()
                    .filter(|(_, count)| **count > 0)
                    .map(move |(i, &count)| (page * PAGE + i, count))
            },
        )
    }

    /// The bucket in which the `rank`-th smallest value lies (from 1).
    #[must_use]
    pub fn bucket_of_rank(&self, rank: u64) -> Option<usize> {
        let mut seen = 0_u64;
        self.buckets().find_map(|(index, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then_some(index)
        })
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        self.layout == other.layout && self.buckets().eq(other.buckets())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn buckets_are_those_of_the_reference_crate(value in 0_u64..600_000_000) {
            for layout in [Layout::Times, Layout::LongTimes, Layout::Values] {
                let value = value.min(layout.highest());
                let reference = hdrhistogram::Histogram::<u64>::new_with_bounds(1, layout.highest(), 3).unwrap();
                let (low, high) = layout.range_of(layout.index_of(value));
                prop_assert_eq!(low, reference.lowest_equivalent(value));
                prop_assert_eq!(high, reference.highest_equivalent(value));
                prop_assert!(layout.buckets() <= reference.distinct_values());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_clamped() {
        let mut histogram = Histogram::new(Layout::Times);
        histogram.record(u64::MAX);
        histogram.add_at(usize::MAX, 1);
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(Layout::Times.buckets() - 1, 2)]);
    }
}

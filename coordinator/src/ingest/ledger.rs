//! Which snapshots of a worker have been counted.

use std::collections::BTreeSet;

/// The sequence numbers of one worker's incarnation that were counted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Everything up to here.
    contiguous: u64,
    /// Beyond it, where snapshots have overtaken each other.
    beyond: BTreeSet<u64>,
}

impl Sequence {
    /// Takes note of a number. Returns whether it is new.
    pub fn insert(&mut self, seq: u64) -> bool {
        if seq <= self.contiguous || !self.beyond.insert(seq) {
            return false;
        }
        while self.beyond.remove(&(self.contiguous + 1)) {
            self.contiguous += 1;
        }
        true
    }

    /// Everything up to this number was counted.
    #[must_use]
    pub const fn contiguous(&self) -> u64 {
        self.contiguous
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Invariant 6: whatever the network does, each number counts once.
        #[test]
        fn each_number_counts_once(order in prop::collection::vec(1_u64..40, 0..200)) {
            let mut sequence = Sequence::default();
            let mut seen = BTreeSet::new();
            for seq in order {
                prop_assert_eq!(sequence.insert(seq), seen.insert(seq));
                let expected = (1..).take_while(|n| seen.contains(n)).last().unwrap_or(0);
                prop_assert_eq!(sequence.contiguous(), expected);
            }
        }
    }
}

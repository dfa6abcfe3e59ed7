//! Which snapshots of a worker have been counted.

/// Where a snapshot stands in its worker's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was counted before.
    Counted,
    /// It is the next one.
    Next,
    /// Others come before it.
    Ahead,
}

/// The sequence numbers of one worker's incarnation. Snapshots are counted in their order, so that what is
/// counted is always a beginning of what the worker did: never more ends than begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    counted: u64,
}

impl Sequence {
    /// Where a number stands. Numbers begin with 1.
    #[must_use]
    pub const fn place(&self, seq: u64) -> Place {
        if seq <= self.counted {
            Place::Counted
        } else if seq == self.counted + 1 {
            Place::Next
        } else {
            Place::Ahead
        }
    }

    /// The next number was counted.
    pub const fn advance(&mut self) {
        self.counted += 1;
    }

    /// Everything up to this number was counted.
    #[must_use]
    pub const fn counted(&self) -> u64 {
        self.counted
    }
}

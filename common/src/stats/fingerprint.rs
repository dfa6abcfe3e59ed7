//! An additive fingerprint of every count that was measured.
//!
//! Σ count(b) · mix(series, b) mod 2¹²⁸ over all buckets of all series. A worker adds up what it sent, the
//! coordinator what it counted; equal sums mean that, but for one chance in 2⁶⁴, no count was lost,
//! doubled or moved to another bucket. Sums of parts are the sum of the whole, in any order.

use crate::random::mix;

/// What a series measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SeriesKind {
    /// From the intended start to the last byte.
    Response = 1,
    /// From the first byte sent to the last byte received.
    Service = 2,
    /// Name look-up and TCP.
    Connect = 3,
    /// TLS handshake.
    Tls = 4,
    /// From the first byte sent to the first byte received.
    FirstByte = 5,
    /// The generator's own delay.
    Lateness = 6,
    /// A whole iteration.
    Iteration = 7,
    /// Waiting under a cap.
    CapWait = 8,
    /// A group of steps.
    Group = 9,
    /// Values of `observe`.
    Observed = 10,
    /// A life.
    Life = 11,
    /// Actions of a life.
    LifeActions = 12,
    /// Counters of a life; the subject is 65,536 × user type + counter.
    LifeCounter = 13,
}

/// The identity of a series within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesKey {
    /// Phase.
    pub phase: u32,
    /// Step or load, by kind.
    pub subject: u32,
    /// What it measures.
    pub kind: SeriesKind,
}

/// The sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// Adds a count of a bucket of a series.
    pub const fn add(&mut self, series: SeriesKey, bucket: usize, count: u64) {
        let series = mix(((series.phase as u64) << 32) | series.subject as u64, series.kind as u64);
        let low = mix(series, bucket as u64);
        let high = mix(low, series);
        let weight = ((high as u128) << 64) | low as u128;
        self.0 = self.0.wrapping_add(weight.wrapping_mul(count as u128));
    }

    /// Adds another sum.
    pub const fn merge(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// Sixteen bytes, little endian.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From sixteen bytes, little endian.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_le_bytes(bytes.try_into().ok()?)))
    }
}

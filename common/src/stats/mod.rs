//! What is measured, in a form that adds up: distributions over fixed layouts and counters by name.
//!
//! Everything here merges by addition: associative, commutative, with an empty identity. So totals do
//! not depend on who measured what, nor on the order in which it arrives.

mod distribution;
mod error_kind;
mod fingerprint;
mod histogram;
mod measures;
mod v2;

pub use distribution::{Distribution, Summary};
pub use error_kind::{Blame, ErrorCounts, ErrorKind};
pub use fingerprint::{Fingerprint, SeriesKey, SeriesKind};
pub use histogram::{Histogram, Layout};
pub use measures::{
    ActionStats, CheckStats, CounterStats, GroupStats, LifeStats, LoadStats, Measures, StatusCounts,
    StepStats,
};
pub use v2::{DecodeError, decode_into, encode};

//! The words that coordinator and worker share: identifiers and units, the plan, the arithmetic of
//! schedules and histograms, the expression language, the wire, and what the operating system offers.
//!
//! A type lives here only when both sides need it. `schedule`, `stats`, `units`, `id` and `random` are
//! pure: they read no clock and do no I/O (`e2e/tests/tidy.rs` keeps it so).

pub mod causes;
pub mod expression;
pub mod id;
pub mod lease;
pub mod plan;
pub mod process;
pub mod random;
pub mod schedule;
pub mod stats;
pub mod targets;
pub mod time;
pub mod units;
pub mod wire;

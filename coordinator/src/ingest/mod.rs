//! Snapshots to one truth: ledger, windows, totals.

pub mod core;
mod ledger;
mod windows;

pub use self::core::{Accepted, Fold, Ingest, WorkerTotals};
pub use self::ledger::{Place, Sequence};
pub use self::windows::{Window, Windows};

//! Judgements: thresholds, the validity of a result, the verdict. Pure.

mod evaluate;
mod threshold;
mod verdict;

pub use self::evaluate::{Figures, thresholds, thresholds_so_far};
pub use self::threshold::{Metric, Op, Stat, Threshold, ThresholdError};
pub use self::verdict::{ExitCode, validity, verdict};

//! Judgements: thresholds, the validity of a result, the verdict. Pure.

mod evaluate;
mod threshold;
mod verdict;

pub use self::evaluate::{Figures, thresholds};
pub use self::threshold::{Metric, Op, Stat, Threshold, ThresholdError};
pub use self::verdict::{ExitCode, validity, verdict};

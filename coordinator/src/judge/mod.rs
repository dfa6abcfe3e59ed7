//! Judgements: thresholds, the validity of a result, the verdict. Pure.

mod evaluate;
mod threshold;
mod verdict;
mod watch;

pub use self::evaluate::{Figures, Observed, Slice, observe, three_digits, thresholds, thresholds_so_far};
pub use self::threshold::{Known, Metric, Op, Stat, Threshold, ThresholdError, is_metric};
pub use self::verdict::{ExitCode, validity, verdict};
pub use self::watch::Watch;

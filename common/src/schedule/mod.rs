//! When arrivals are due, how many users live, and who owns which of them: pure arithmetic of indices.
//!
//! Arrival `i` is due at a time computed from `i` alone, so nothing drifts; a worker's share is a set of
//! indices, so splitting can neither lose, nor double, nor bunch anything. Offsets count from phase zero.

mod paced;
mod rate;
mod stripe;
mod users;

pub use paced::PacedCurve;
pub use rate::{Arrivals, RateCurve, RatePiece, ScheduleError};
pub use stripe::{Cycle, HIGHEST_WEIGHT_SUM, Stripe, StripeError, weights_for};
pub use users::{Life, UserCurve, UserPiece};

//! The side that does as told, measures and tells.

pub mod client;
pub mod engine;
pub mod record;
pub mod session;

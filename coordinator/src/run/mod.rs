//! One test, from submission to verdict.

pub mod core;
mod grants;
mod orders;

pub use self::core::{EndReason, LostWorker, PhaseSpan, RunConfig, RunCore, RunEffect, RunEvent, Stage};

//! One test, from submission to verdict.

pub mod core;

pub use self::core::{EndReason, LostWorker, PhaseSpan, RunConfig, RunCore, RunEffect, RunEvent, Stage};

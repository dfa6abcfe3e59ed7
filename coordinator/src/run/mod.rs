//! One test, from submission to verdict.

pub mod core;
mod grants;
mod orders;
mod settle;

pub use self::core::{EndReason, LostWorker, PhaseSpan, RunConfig, RunCore, RunEffect, RunEvent, Stage};

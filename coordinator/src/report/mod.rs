//! The report: one model, many forms.

mod accounts;
pub mod build;
mod model;
mod text;

pub use self::build::{Facts, PhaseFacts, WorkerFacts, build};
pub use self::model::*;
pub use self::text::{Style, render as text};

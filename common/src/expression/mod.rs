//! `${…}`: the only expression syntax of a scenario.
//!
//! [`split`] finds the holes in a text; [`Expression`] is what stands in one, in minijinja's expression
//! language (never its template language: that would eat `{#` and `{%` in bodies). Both sides compile the
//! same way: the coordinator to check names at load, the worker to evaluate.

mod clock;
mod engine;
mod functions;
mod split;

pub use engine::{
    DrawsObject, EvalError, Expression, ExpressionError, LATER_FUNCTIONS, Simple, from_json, json_of,
    known_functions, text_of,
};
pub use minijinja::Value;
pub use split::{Piece, SplitError, split};

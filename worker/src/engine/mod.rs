//! The engine: load threads that carry out a plan's share.
//!
//! One OS thread per core, each a current-thread runtime with its own virtual users, recorder, timer and
//! sockets. Nothing on the way pacer → virtual user → client → recorder takes a lock or leaves its thread.
//!
//! - `program`: what a plan's steps are compiled to; `template`: texts with holes.
//! - `user`: a virtual user, carrying out a program.
//! - `open`, `closed`: the two load models. `phase`: one phase on one thread, from its zero to its end.
//! - `thread`: a load thread and its orders.

mod closed;
mod open;
mod phase;
mod program;
mod table;
mod template;
mod thread;
mod user;

pub use program::{CompileError, Program};
pub use table::{Table, TableError};
pub use thread::{Engine, EngineError, EngineEvent, Order, PhaseOrder, RunSetup, Secrets};

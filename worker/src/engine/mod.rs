//! The engine: load threads that carry out a plan's share.
//!
//! One OS thread per core, each a current-thread runtime with its own virtual users, recorder, timer and
//! sockets. Nothing on the way pacer → virtual user → client → recorder takes a lock or leaves its thread.
//!
//! - `program`: what a plan's steps are compiled to; `step`: a request in it; `template`: texts with holes.
//! - `user`: a virtual user, carrying out a program; `exchange`: its requests; `judge`: what it makes of answers; `cap`:
//!   how often it may send.
//! - `open`, `closed`, `counted`: the load models; `seat`: a user's place in them. `grants`: what the coordinator hands
//!   out while a phase goes on. `phase`: one phase on one thread, from its zero to its end.
//! - `thread`: a load thread and its orders.

mod cap;
mod closed;
mod counted;
mod exchange;
mod grants;
mod judge;
mod open;
mod phase;
mod program;
mod seat;
mod step;
mod table;
mod template;
mod thread;
mod user;

pub use program::{Blobs, CompileError, Program};
pub use table::{Table, TableError};
pub use thread::{BlockOrder, Engine, EngineError, EngineEvent, Order, PhaseOrder, RunSetup, Secrets};

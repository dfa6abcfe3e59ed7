//! The grid for real: processes of the real binary, real servers, outside witnesses.
//!
//! A test reads as a story; this harness is the only thing that knows how processes are started. It ends
//! only what it started, by its number, and prints the tail of every process's log when a test fails.

mod binary;
pub mod faulty;
mod grid;
mod nginx;
mod process;
mod witness;

pub use binary::loadgrid;
pub use grid::{Demo, Finished, Grid, run_local, run_with_files, truth};
pub use nginx::Nginx;
pub use process::{Child, free_port, wait_for};
pub use witness::{Answer, Seen, Witness};

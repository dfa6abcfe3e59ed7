//! gRPC: sessions of workers, requests of clients.

mod grid;
mod runs;
mod serve;

pub use self::serve::{InProcess, ServeError, in_process, serve_in_process, serve_tcp};

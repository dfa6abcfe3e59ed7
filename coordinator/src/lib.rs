//! The side that decides, merges, judges and shows.
//!
//! `rpc` → `hub` (the actor) → cores: `run::core`, `fleet::core`, `ingest`, `judge`, `report::build`.
//! A core is pure: it imports no tokio, tonic or axum, reads no clock and spawns nothing.

pub mod fleet;
pub mod hub;
pub mod ingest;
pub mod judge;
pub mod report;
pub mod rpc;
pub mod run;
pub mod scenario;
pub mod store;

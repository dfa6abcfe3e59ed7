//! A point-of-sale backend with known behaviour and switchable faults, to try loadgrid on.
//!
//! It shares no code with the rest, so that it can bear witness: `/truth` is its own exact count of
//! requests by route and status. Everything that could hinder an ordinary load is off by default.

mod auth;
mod config;
mod database;
mod faults;
mod routes;
mod server;
mod truth;

pub use config::{DemoConfig, Latency, Stall, parse_latency, parse_percent, parse_stall};
pub use server::{Demo, DemoError};

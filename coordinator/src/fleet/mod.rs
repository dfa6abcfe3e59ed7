//! Who is there.

pub mod core;

pub use self::core::{FleetCore, Member, Refusal};

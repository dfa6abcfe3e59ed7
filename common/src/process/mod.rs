//! What the operating system offers: clocks, precise timers, limits and the process's own cost.
//!
//! All that is Linux's alone stands here, with a plain fallback elsewhere.

mod clock;
mod limits;
mod timer;

pub use clock::{boot_now, monotonic_of, now};
pub use limits::{HeadRoom, ProcessUse, head_room, process_use};
pub use timer::{Timer, TimerError};

//! The two clocks.

use std::time::Duration;

use crate::time::Moment;

/// The monotonic clock: every latency is a difference of two of its readings.
#[must_use]
pub fn now() -> Moment {
    read(rustix::time::ClockId::Monotonic)
}

/// The boot-time clock: leases, epochs and the times that machines tell each other. It goes on while
/// a machine sleeps, so that a lease ends for a laptop that was closed, too.
#[must_use]
pub fn boot_now() -> Moment {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    read(clock)
}

fn read(clock: rustix::time::ClockId) -> Moment {
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Moment::from_nanos(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The monotonic instant of a boot-time instant, by reading both clocks now.
#[must_use]
pub fn monotonic_of(boot: Moment) -> Moment {
    // The monotonic clock is read between two readings of the other one, so the error is half of a
    // system call, whatever the scheduler does; the shortest of a few attempts is taken.
    let (mut best, mut difference) = (Duration::MAX, 0);
    for _ in 0..5 {
        let (before, monotonic, after) = (boot_now(), now(), boot_now());
        let width = after.since(before);
        if width < best {
            (best, difference) = (width, monotonic.minus(before + width / 2));
        }
    }
    boot.shifted(difference)
}

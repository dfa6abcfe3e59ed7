//! A timer that wakes within tens of microseconds.
//!
//! tokio's timer wheel has ticks of a millisecond and is 0.9 ms late at the median; that delay would be
//! measured as the target's. On Linux a `timerfd` polled by the runtime is late by some 30 µs. One timer
//! serves one thread: many waits share its descriptor through a heap of deadlines.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::time::Moment;

/// Why a timer cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a timer")]
pub struct TimerError(#[from] io::Error);

/// A handle to a thread's timer. Clones share it.
#[derive(Clone, Debug)]
pub struct Timer {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: RefCell<Queue>,
    alarm: alarm::Alarm,
}

#[derive(Debug, Default)]
struct Queue {
    deadlines: BinaryHeap<Reverse<(Moment, u64)>>,
    /// Waiters by ticket; a waiter that was dropped is no longer here.
    waiters: std::collections::HashMap<u64, Waker>,
    next_ticket: u64,
    armed: Option<Moment>,
}

impl Timer {
    /// A timer for the current thread's runtime. [`Self::drive`] must run for it to ring.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn new() -> Result<Self, TimerError> {
        Ok(Self { shared: Rc::new(Shared { queue: RefCell::default(), alarm: alarm::Alarm::new()? }) })
    }

    /// Waits until the monotonic clock shows `deadline`; returns at once where it already does.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn sleep_until(&self, deadline: Moment) {
        if super::now() >= deadline {
            return;
        }
        let mut ticket = Ticket { timer: self, number: None };
        poll_fn(|cx| {
            if super::now() >= deadline {
                return Poll::Ready(());
            }
            let mut queue = self.shared.queue.borrow_mut();
            let number = *ticket.number.get_or_insert_with(|| {
                queue.next_ticket += 1;
                let number = queue.next_ticket;
                queue.deadlines.push(Reverse((deadline, number)));
                number
            });
            queue.waiters.insert(number, cx.waker().clone());
            if queue.armed.is_none_or(|armed| deadline < armed) {
                queue.armed = Some(deadline);
                self.shared.alarm.set(deadline);
            }
            Poll::Pending
        })
        .await;
    }

    /// Rings for ever; to be run as a task of the thread and dropped with it.
    pub async fn drive(&self) {
        loop {
            self.shared.alarm.rang().await;
            self.ring();
        }
    }

    fn ring(&self) {
        let now = super::now();
        let mut queue = self.shared.queue.borrow_mut();
        queue.armed = None;
        while let Some(&Reverse((deadline, number))) = queue.deadlines.peek() {
            let waiting = queue.waiters.contains_key(&number);
            if deadline > now && waiting {
                queue.armed = Some(deadline);
                self.shared.alarm.set(deadline);
                break;
            }
            queue.deadlines.pop();
            if let Some(waker) = queue.waiters.remove(&number) {
                waker.wake();
            }
        }
    }
}

/// A wait's place in the queue; given back when the wait ends or is dropped.
struct Ticket<'a> {
    timer: &'a Timer,
    number: Option<u64>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.timer.shared.queue.borrow_mut().waiters.remove(&number);
        }
    }
}

#[cfg(target_os = "linux")]
mod alarm {
    use std::io;

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use tokio::net::unix::pipe;

    use crate::time::Moment;

    /// A `timerfd`. It is read like a pipe, which needs no unsafe code.
    #[derive(Debug)]
    pub(super) struct Alarm {
        descriptor: std::os::fd::OwnedFd,
        reader: pipe::Receiver,
    }

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let descriptor = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            let reader = pipe::Receiver::from_owned_fd_unchecked(descriptor.try_clone()?)?;
            Ok(Self { descriptor, reader })
        }

        pub(super) fn set(&self, deadline: Moment) {
            let ns = deadline.as_nanos().max(1);
            let value = Timespec {
                tv_sec: (ns / 1_000_000_000).cast_signed(),
                tv_nsec: (ns % 1_000_000_000).cast_signed(),
            };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            let set = rustix::time::timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &once);
            debug_assert!(set.is_ok(), "a valid time on a descriptor of ours");
        }

        pub(super) async fn rang(&self) {
            let mut expirations = [0_u8; 8];
            loop {
                if self.reader.readable().await.is_err() {
                    // The runtime is going away, and this task with it.
                    std::future::pending::<()>().await;
                }
                if self.reader.try_read(&mut expirations).is_ok() {
                    return;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod alarm {
    use std::cell::Cell;
    use std::io;

    use crate::time::Moment;

    /// tokio's own timer: late by up to two milliseconds.
    #[derive(Debug)]
    pub(super) struct Alarm {
        deadline: Cell<Option<Moment>>,
        changed: tokio::sync::Notify,
    }

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self { deadline: Cell::new(None), changed: tokio::sync::Notify::new() })
        }

        pub(super) fn set(&self, deadline: Moment) {
            self.deadline.set(Some(deadline));
            self.changed.notify_one();
        }

        pub(super) async fn rang(&self) {
            loop {
                let Some(deadline) = self.deadline.get() else {
                    self.changed.notified().await;
                    continue;
                };
                let wait = deadline.since(crate::process::now());
                tokio::select! {
                    () = tokio::time::sleep(wait) => {
                        self.deadline.set(None);
                        return;
                    }
                    () = self.changed.notified() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::now;

    #[test]
    fn waits_ring_in_order_and_dropped_ones_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let order = local.block_on(&runtime, async {
            let timer = Timer::new().unwrap();
            let driver = tokio::task::spawn_local({
                let timer = timer.clone();
                async move { timer.drive().await }
            });
            let begin = now();
            let order = Rc::new(RefCell::new(Vec::new()));
            let waits = [30, 10, 20, 10].map(|ms| {
                let (timer, order) = (timer.clone(), order.clone());
                tokio::task::spawn_local(async move {
                    timer.sleep_until(begin + Duration::from_millis(ms)).await;
                    assert!(now().since(begin) >= Duration::from_millis(ms), "never early");
                    order.borrow_mut().push(ms);
                })
            });
            let dropped = timer.sleep_until(begin + Duration::from_millis(5));
            drop(dropped);
            for wait in waits {
                wait.await.unwrap();
            }
            timer.sleep_until(begin).await;
            driver.abort();
            order.take()
        });
        assert_eq!(order, [10, 10, 20, 30]);
    }
}

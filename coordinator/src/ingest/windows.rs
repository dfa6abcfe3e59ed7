//! The run over time: one window per interval, merged over all workers.
//!
//! The list is bounded: when it is full, neighbours are merged and windows are twice as long from then on.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_common::stats::{Distribution, Measures};

/// The most windows that are kept.
const MOST: usize = 1_200;

/// One stretch of time. Everything is over all recorded steps and loads.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Phase; that of the window's beginning where it spans two.
    pub phase: u32,
    /// Begin in run time.
    pub from: Duration,
    /// End in run time.
    pub to: Duration,
    /// Exchanges that ended.
    pub exchanges: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Exchanges sent.
    pub sent: u64,
    /// Iterations begun.
    pub started: u64,
    /// Arrivals dropped.
    pub dropped: u64,
    /// Users alive at its end, over all workers.
    pub users: u64,
    /// By worker: the newest count that it reported in this window.
    users_by_worker: BTreeMap<u32, u64>,
    /// Response times.
    pub response: Distribution,
    /// The generator's own delay.
    pub lateness: Distribution,
}

impl Window {
    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    fn add(&mut self, measures: &Measures) {
        for step in measures.steps.values() {
            self.exchanges += step.ended();
            self.failed += step.failed;
            self.sent += step.sent;
            self.response.merge(&step.response);
        }
        for load in measures.loads.values() {
            self.started += load.started;
            self.dropped += load.dropped;
            self.lateness.merge(&load.lateness);
        }
    }

    /// Adds the window behind this one.
    pub fn absorb(&mut self, next: &Self) {
        self.to = next.to;
        self.exchanges += next.exchanges;
        self.failed += next.failed;
        self.sent += next.sent;
        self.started += next.started;
        self.dropped += next.dropped;
        self.users_by_worker.extend(next.users_by_worker.iter().map(|(worker, users)| (*worker, *users)));
        self.users = self.users.max(next.users);
        self.response.merge(&next.response);
        self.lateness.merge(&next.lateness);
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Windows {
    length: Duration,
    windows: BTreeMap<u64, Window>,
}

impl Windows {
    /// Windows of one snapshot interval each.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { length: interval.max(Duration::from_millis(100)), windows: BTreeMap::new() }
    }

    /// Adds what a worker measured up to `to`.
    pub fn add(
        &mut self,
        worker: u32,
        phase: u32,
        from: Duration,
        to: Duration,
        users: u64,
        measures: &Measures,
    ) {
        let middle = from + to.saturating_sub(from) / 2;
        let number = u64::try_from(middle.as_nanos() / self.length.as_nanos()).unwrap_or(u64::MAX);
        let begin = self.length.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let window = self.windows.entry(number).or_insert_with(|| Window {
            phase,
            from: begin,
            to: begin,
            ..Window::default()
        });
        window.to = window.to.max(to.min(begin + self.length));
        window.users_by_worker.insert(worker, users);
        window.users = window.users_by_worker.values().sum();
        window.add(measures);
        if self.windows.len() > MOST {
            self.thin();
        }
    }

    fn thin(&mut self) {
        self.length *= 2;
        let mut thinned: BTreeMap<u64, Window> = BTreeMap::new();
        for (number, window) in std::mem::take(&mut self.windows) {
            match thinned.get_mut(&(number / 2)) {
                Some(first) => first.absorb(&window),
                None => drop(thinned.insert(number / 2, window)),
            }
        }
        self.windows = thinned;
    }

    /// All windows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.windows.values()
    }

    /// The newest window up to `horizon`.
    #[must_use]
    pub fn newest_until(&self, horizon: Duration) -> Option<&Window> {
        self.windows.values().rev().find(|window| window.from + self.length <= horizon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_sum_of_its_workers_and_long_runs_are_thinned() {
        let mut windows = Windows::new(Duration::from_secs(1));
        let second = Duration::from_secs;
        let mut measures = Measures::default();
        measures.steps.entry(0).or_default().sent = 1;
        windows.add(0, 0, second(0), second(1), 5, &measures);
        windows.add(0, 0, second(1), second(2), 5, &measures);
        windows.add(1, 0, second(0), second(1), 5, &measures);
        let newest = windows.newest_until(second(1)).map(|w| (w.from, w.users, w.sent));
        assert_eq!(newest, Some((second(0), 10, 2)));
        assert_eq!(windows.newest_until(second(2)).map(|w| w.from), Some(second(1)));
        for i in 2..5_000 {
            windows.add(0, 0, second(i), second(i + 1), 5, &measures);
        }
        assert!(windows.iter().count() <= MOST);
        assert_eq!(windows.iter().map(|w| w.sent).sum::<u64>(), 5_001, "thinning loses nothing");
    }
}

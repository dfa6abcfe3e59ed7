//! What a load thread was granted for the current phase: blocks of shared iterations, turns of sequential users.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tokio::sync::Notify;

/// A word to the coordinator about grants; the thread sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrantWord {
    /// The thread wants its `number`-th block of a load.
    Wanted { phase: u32, load: u32, number: u64 },
    /// A user's turn is over.
    TurnEnded { phase: u32, load: u32, user: u64 },
}

/// The grants of a load thread.
#[derive(Debug)]
pub(super) struct Grants {
    blocks: RefCell<HashMap<(u32, u32), Rc<Blocks>>>,
    turns: RefCell<HashMap<(u32, u32), u64>>,
    turned: Notify,
    words: Rc<Words>,
}

/// Words on their way to the session. Each load wants one block at a time and each user ends one turn, so there are
/// never many.
#[derive(Debug, Default)]
pub(super) struct Words {
    waiting: RefCell<VecDeque<GrantWord>>,
    came: Notify,
}

impl Words {
    fn say(&self, word: GrantWord) {
        self.waiting.borrow_mut().push_back(word);
        self.came.notify_one();
    }

    /// The next word, once there is one.
    pub(super) async fn next(&self) -> GrantWord {
        loop {
            let came = self.came.notified();
            if let Some(word) = self.waiting.borrow_mut().pop_front() {
                return word;
            }
            came.await;
        }
    }
}

/// The blocks of one load on one thread.
#[derive(Debug)]
pub(super) struct Blocks {
    phase: u32,
    load: u32,
    ranges: RefCell<VecDeque<(u64, u64)>>,
    /// Blocks that have come, and the size of the newest.
    received: Cell<u64>,
    newest: Cell<u64>,
    wanted: Cell<bool>,
    exhausted: Cell<bool>,
    changed: Notify,
    /// Users that still take from it.
    takers: Cell<u64>,
    words: Rc<Words>,
}

impl Grants {
    pub(super) fn new(words: Rc<Words>) -> Self {
        Self { blocks: RefCell::default(), turns: RefCell::default(), turned: Notify::new(), words }
    }

    /// The blocks of a load.
    pub(super) fn blocks(&self, phase: u32, load: u32) -> Rc<Blocks> {
        let fresh = || {
            Rc::new(Blocks {
                phase,
                load,
                ranges: RefCell::default(),
                received: Cell::new(0),
                newest: Cell::new(0),
                wanted: Cell::new(false),
                exhausted: Cell::new(false),
                changed: Notify::new(),
                takers: Cell::new(0),
                words: self.words.clone(),
            })
        };
        self.blocks.borrow_mut().entry((phase, load)).or_insert_with(fresh).clone()
    }

    /// A block has come, perhaps again.
    pub(super) fn block(&self, phase: u32, load: u32, number: u64, first: u64, count: u64) {
        let blocks = self.blocks.borrow().get(&(phase, load)).cloned();
        if let Some(blocks) = blocks {
            blocks.came(number, first, count);
        }
    }

    /// It is the turn of user `user` (1 + index), and of nobody before it any more.
    pub(super) fn set_turn(&self, phase: u32, load: u32, user: u64) {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry((phase, load)).or_default();
        *turn = (*turn).max(user);
        self.turned.notify_waiters();
    }

    /// Waits for the turn of user `k`.
    pub(super) async fn turn(&self, phase: u32, load: u32, k: u64) {
        loop {
            let turned = self.turned.notified();
            if self.turns.borrow().get(&(phase, load)).is_some_and(|turn| *turn == k + 1) {
                return;
            }
            turned.await;
        }
    }

    /// The turn of user `k` is over.
    pub(super) fn turn_ended(&self, phase: u32, load: u32, k: u64) {
        self.words.say(GrantWord::TurnEnded { phase, load, user: k + 1 });
    }
}

impl Blocks {
    /// The next iteration; `None` when there are no more.
    pub(super) async fn next(&self) -> Option<u64> {
        loop {
            let changed = self.changed.notified();
            let taken = self.take();
            self.ask_in_time();
            if taken.is_some() {
                return taken;
            }
            if self.exhausted.get() {
                return None;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<u64> {
        let mut ranges = self.ranges.borrow_mut();
        let (first, count) = ranges.front_mut()?;
        let iteration = *first;
        *first += 1;
        *count -= 1;
        if *count == 0 {
            ranges.pop_front();
        }
        Some(iteration)
    }

    fn left(&self) -> u64 {
        self.ranges.borrow().iter().map(|(_, count)| count).sum()
    }

    /// Asks for the next block when half of the newest one is gone.
    fn ask_in_time(&self) {
        if self.wanted.get() || self.exhausted.get() || self.left() > self.newest.get() / 2 {
            return;
        }
        self.wanted.set(true);
        let number = self.received.get() + 1;
        self.words.say(GrantWord::Wanted { phase: self.phase, load: self.load, number });
    }

    fn came(&self, number: u64, first: u64, count: u64) {
        if number != self.received.get() + 1 {
            return;
        }
        self.wanted.set(false);
        if count == 0 {
            self.exhausted.set(true);
        } else {
            self.received.set(number);
            self.newest.set(count);
            self.ranges.borrow_mut().push_back((first, count));
        }
        self.changed.notify_waiters();
    }

    /// One more user takes from it.
    pub(super) fn join(&self) {
        self.takers.set(self.takers.get() + 1);
    }

    /// A user leaves: what the last one leaves is nobody's any more.
    pub(super) fn left_by(&self) -> u64 {
        self.takers.set(self.takers.get().saturating_sub(1));
        if self.takers.get() > 0 {
            return 0;
        }
        self.exhausted.set(true);
        std::mem::take(&mut *self.ranges.borrow_mut()).iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn blocks_are_asked_for_in_time_and_each_is_taken_once() {
        let words = Rc::new(Words::default());
        let grants = Grants::new(words.clone());
        let said = || words.waiting.borrow_mut().pop_front();
        let blocks = grants.blocks(0, 1);
        blocks.join();
        let ask = blocks.clone();
        let waiting = tokio::task::LocalSet::new();
        let first = waiting.run_until(async move {
            let next = tokio::task::spawn_local(async move { ask.next().await });
            tokio::task::yield_now().await;
            grants.block(0, 1, 1, 100, 4);
            grants.block(0, 1, 1, 100, 4);
            let first = next.await.unwrap();
            (first, grants)
        });
        let (first, grants) = first.await;
        assert_eq!(first, Some(100));
        assert_eq!(said(), Some(GrantWord::Wanted { phase: 0, load: 1, number: 1 }));
        assert_eq!(said(), None, "three are left: no hurry");
        assert_eq!(blocks.next().await, Some(101));
        assert_eq!(said(), Some(GrantWord::Wanted { phase: 0, load: 1, number: 2 }));
        grants.block(0, 1, 2, 7, 0);
        assert_eq!(
            (blocks.next().await, blocks.next().await, blocks.next().await),
            (Some(102), Some(103), None)
        );
        assert_eq!(blocks.left_by(), 0);
    }
}

//! The workers and their leases. Pure: time is an argument.
//!
//! A worker is lost one second after the coordinator's view of its lease has ended; by then it has fenced
//! itself, because its own view ends earlier (see `loadgrid_common::lease`).

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::time::Moment;
use loadgrid_common::wire::{PROTOCOL_VERSION, pb};

/// From the end of a lease to the moment at which its share may be given away.
pub const MARGIN: Duration = Duration::from_secs(1);

/// A worker that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What it said of itself.
    pub hello: pb::Hello,
    /// When its lease ends, as the coordinator sees it.
    pub lease_until: Moment,
    /// What it last said of its state.
    pub health: pb::Health,
    /// Its clock: the coordinator's minus its own.
    pub clock_offset_ns: i64,
    /// Uncertainty of that.
    pub clock_uncertainty_ns: u64,
}

/// Why a worker is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another protocol.
    #[error(
        "this coordinator speaks protocol {PROTOCOL_VERSION}, the worker {theirs}; use the same loadgrid on both sides"
    )]
    Protocol {
        /// The worker's.
        theirs: u32,
    },
    /// A name that says nothing.
    #[error("a worker needs a name of 1 to 100 characters without control characters")]
    Name,
    /// The name is taken.
    #[error(
        "a worker named `{0}` is here already; give this one another --name (after a crash, its name is free again in 6 s)"
    )]
    Taken(WorkerId),
    /// No load threads.
    #[error("a worker needs 1 to 1,024 load threads")]
    Threads,
}

/// See the module.
#[derive(Debug)]
pub struct FleetCore {
    lease: Duration,
    members: BTreeMap<WorkerId, Member>,
}

impl FleetCore {
    /// An empty fleet.
    #[must_use]
    pub const fn new(lease: Duration) -> Self {
        Self { lease, members: BTreeMap::new() }
    }

    /// The lease of every worker.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// A worker presents itself, anew or again.
    ///
    /// # Errors
    /// Where it is not let in.
    pub fn hello(&mut self, now: Moment, hello: pb::Hello) -> Result<(), Refusal> {
        if hello.protocol != PROTOCOL_VERSION {
            return Err(Refusal::Protocol { theirs: hello.protocol });
        }
        if !(1..=100).contains(&hello.worker.chars().count()) || hello.worker.chars().any(char::is_control) {
            return Err(Refusal::Name);
        }
        if !(1..=1_024).contains(&hello.threads) {
            return Err(Refusal::Threads);
        }
        let id = WorkerId::from(hello.worker.as_str());
        let incarnation = Incarnation(hello.incarnation);
        if self.members.get(&id).is_some_and(|member| member.incarnation != incarnation) {
            return Err(Refusal::Taken(id));
        }
        let lease_until = now + self.lease;
        let member = self.members.entry(id).or_insert_with(|| Member {
            incarnation,
            hello: hello.clone(),
            lease_until,
            health: pb::Health::default(),
            clock_offset_ns: 0,
            clock_uncertainty_ns: u64::MAX,
        });
        member.hello = hello;
        member.lease_until = lease_until;
        Ok(())
    }

    /// A worker's beat came. Returns whether it is a member; one that was lost must present itself again.
    pub fn beat(
        &mut self,
        now: Moment,
        worker: &WorkerId,
        incarnation: Incarnation,
        progress: &pb::Progress,
    ) -> bool {
        let Some(member) = self.members.get_mut(worker).filter(|member| member.incarnation == incarnation)
        else {
            return false;
        };
        member.lease_until = now + self.lease;
        member.clock_offset_ns = progress.clock_offset_ns;
        member.clock_uncertainty_ns = progress.clock_uncertainty_ns;
        true
    }

    /// A worker told how it is.
    pub fn health(&mut self, worker: &WorkerId, health: pb::Health) {
        if let Some(member) = self.members.get_mut(worker) {
            member.health = health;
        }
    }

    /// Takes out the workers whose lease ended a margin ago.
    pub fn take_lost(&mut self, now: Moment) -> Vec<(WorkerId, Member)> {
        self.members.extract_if(.., |_, member| member.lease_until + MARGIN <= now).collect()
    }

    /// When [`Self::take_lost`] should be asked next.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.members.values().map(|member| member.lease_until + MARGIN).min()
    }

    /// All workers, by name.
    #[must_use]
    pub const fn members(&self) -> &BTreeMap<WorkerId, Member> {
        &self.members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(worker: &str, incarnation: u64) -> pb::Hello {
        pb::Hello {
            worker: worker.to_owned(),
            incarnation,
            protocol: PROTOCOL_VERSION,
            threads: 1,
            ..pb::Hello::default()
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_silent_worker_is_lost_a_margin_after_its_lease_and_its_name_is_free() {
        let mut fleet = FleetCore::new(Duration::from_secs(5));
        assert_eq!(fleet.hello(at(0), hello("a", 1)), Ok(()));
        assert_eq!(fleet.hello(at(1), hello("a", 2)), Err(Refusal::Taken("a".into())));
        assert!(fleet.beat(at(2), &"a".into(), Incarnation(1), &pb::Progress::default()));
        assert!(!fleet.beat(at(2), &"a".into(), Incarnation(2), &pb::Progress::default()));
        assert_eq!(fleet.deadline(), Some(at(8)));
        assert!(fleet.take_lost(at(7)).is_empty());
        assert_eq!(fleet.take_lost(at(8)).len(), 1);
        assert_eq!(fleet.hello(at(8), hello("a", 2)), Ok(()));
    }

    #[test]
    fn strangers_are_refused() {
        let mut fleet = FleetCore::new(Duration::from_secs(5));
        assert_eq!(
            fleet.hello(at(0), pb::Hello { protocol: 99, ..hello("a", 1) }),
            Err(Refusal::Protocol { theirs: 99 })
        );
        assert_eq!(fleet.hello(at(0), hello("", 1)), Err(Refusal::Name));
        assert_eq!(fleet.hello(at(0), pb::Hello { threads: 0, ..hello("a", 1) }), Err(Refusal::Threads));
    }
}

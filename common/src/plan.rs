//! The plan: what is left of a scenario when all is resolved.
//!
//! The message of `plan.proto` *is* the plan; see `docs/decisions/0002-the-plan-is-its-message.md`. This
//! module gives it a checked door ([`decode`]) and the views that both sides compute with.

use std::num::NonZeroU32;
use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::schedule::{
    Arrivals, Cycle, PacedCurve, RateCurve, RatePiece, ScheduleError, UserCurve, UserPiece,
};
use crate::units::Rate;
pub use crate::wire::pb::plan_types::*;

/// The variables that every virtual user has, by slot. Data sources and captures follow.
pub mod slots {
    /// `user.index`, `user.id`.
    pub const USER: u32 = 0;
    /// `iteration`: the arrival's number in open models, the user's own count in closed ones.
    pub const ITERATION: u32 = 1;
    /// `last.status`, `.headers`, `.json`, `.body` of the newest answer.
    pub const LAST: u32 = 2;
    /// `run.id`.
    pub const RUN: u32 = 3;
    /// `secrets.NAME`.
    pub const SECRETS: u32 = 4;
    /// `vars.NAME`, resolved.
    pub const VARS: u32 = 5;
    /// `env.NAME`, resolved.
    pub const ENV: u32 = 6;
    /// `target`.
    pub const TARGET: u32 = 7;
    /// `setup.NAME`: what the steps of `setup` captured.
    pub const SETUP: u32 = 8;
    /// Names of the fixed slots, in order.
    pub const FIXED: [&str; 9] =
        ["user", "iteration", "last", "run", "secrets", "vars", "env", "target", "setup"];
}

/// Why bytes are not a plan that can be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not a plan message.
    #[error("the plan cannot be read")]
    Unreadable(#[from] prost::DecodeError),
    /// It does not hash to what was announced.
    #[error("the plan's hash does not match")]
    WrongHash,
    /// A part is missing or out of range.
    #[error("the plan is damaged: {0}")]
    Damaged(String),
    /// A schedule that cannot be built.
    #[error("the schedule of phase `{phase}` cannot be built")]
    Schedule {
        /// The phase.
        phase: String,
        /// Why.
        #[source]
        source: ScheduleError,
    },
}

/// The SHA-256 of an encoded plan, in hex.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes a plan and checks that every index in it points to something.
///
/// # Errors
/// Where the bytes are no plan, or its parts do not fit together.
pub fn decode(bytes: &[u8]) -> Result<Plan, PlanError> {
    let plan = Plan::decode(bytes)?;
    if plan.phases.is_empty() {
        return Err(PlanError::Damaged("it has no phases".to_owned()));
    }
    for phase in &plan.phases {
        for load in &phase.loads {
            if usize::try_from(load.user).is_ok_and(|user| user >= plan.users.len()) {
                return Err(PlanError::Damaged(format!(
                    "phase `{}` names a user type that is not there",
                    phase.name
                )));
            }
            load.view(phase)?;
        }
    }
    for user in &plan.users {
        if user.bindings.iter().any(|binding| binding.source as usize >= plan.sources.len()) {
            return Err(PlanError::Damaged(format!(
                "user `{}` is bound to a source that is not there",
                user.name
            )));
        }
    }
    Ok(plan)
}

/// A load as both sides compute with it.
#[derive(Clone, Debug)]
pub enum LoadView {
    /// Arrivals come at their own rate.
    Open {
        /// When.
        curve: RateCurve,
        /// Whether they come at random.
        poisson: bool,
        /// The most users that may serve them.
        max_vus: u64,
        /// Users that have begun their lives before the first arrival.
        prepared: u64,
        /// Whether arrivals wait for a free user.
        queue: bool,
    },
    /// Users that each wait for their own answers.
    Closed {
        /// How many, over time.
        curve: UserCurve,
    },
    /// Users that each carry out a number of iterations.
    Counted(Counted),
    /// Users that share a number of iterations.
    Shared(Shared),
    /// Users that take turns at a pace.
    Paced(PacedCurve),
}

impl LoadView {
    /// How long the load may go on at most.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::Open { curve, .. } => curve.length(),
            Self::Closed { curve } => curve.length(),
            Self::Counted(counted) => Duration::from_nanos(counted.max_duration_ns),
            Self::Shared(shared) => Duration::from_nanos(shared.max_duration_ns),
            Self::Paced(curve) => curve.length(),
        }
    }

    /// How long the load goes on at least: nothing where it ends with its last iteration.
    #[must_use]
    pub fn length(&self) -> Duration {
        match self {
            Self::Open { .. } | Self::Closed { .. } | Self::Paced(_) => self.limit(),
            Self::Counted(_) | Self::Shared(_) => Duration::ZERO,
        }
    }

    /// The most users it may have: the range of identities it needs.
    #[must_use]
    pub fn users(&self) -> u64 {
        match self {
            Self::Open { max_vus, .. } => *max_vus,
            Self::Closed { curve } => curve.peak(),
            Self::Counted(counted) => counted.vus,
            Self::Shared(shared) => shared.vus,
            Self::Paced(curve) => curve.users(),
        }
    }

    /// Iterations planned; `None` for closed models.
    #[must_use]
    pub fn planned(&self) -> Option<u64> {
        match self {
            Self::Open { curve, .. } => Some(curve.total()),
            Self::Closed { .. } => None,
            Self::Counted(counted) => Some(counted.vus.saturating_mul(counted.iterations)),
            Self::Shared(shared) => Some(shared.iterations),
            Self::Paced(curve) => Some(curve.total()),
        }
    }

    /// Whether users begin their lives before phase zero.
    #[must_use]
    pub const fn prepares(&self) -> bool {
        match self {
            Self::Open { prepared, .. } => *prepared > 0,
            Self::Counted(counted) => counted.at_once,
            Self::Closed { .. } | Self::Shared(_) | Self::Paced(_) => false,
        }
    }

    /// The instants of its arrivals; `None` for models without.
    #[must_use]
    pub fn arrivals(&self, seed: u64, phase: u32, load: u32) -> Option<Arrivals> {
        match self {
            Self::Open { curve, poisson: true, .. } => {
                Some(Arrivals::poisson(curve.clone(), seed, u64::from(phase) << 32 | u64::from(load)))
            }
            Self::Open { curve, .. } => Some(Arrivals::uniform(curve.clone())),
            Self::Closed { .. } | Self::Counted(_) | Self::Shared(_) | Self::Paced(_) => None,
        }
    }

    /// Iterations of one worker's share in the whole load; 0 where nobody knows them before.
    #[must_use]
    pub fn planned_for(&self, cycle: &Cycle, worker: u32) -> u64 {
        match self {
            Self::Open { curve, max_vus, .. } => {
                cycle.worker_stripe(worker, *max_vus).count_below(curve.total())
            }
            Self::Counted(counted) => self.users_for(cycle, worker).saturating_mul(counted.iterations),
            Self::Paced(curve) => curve.turns_of(&cycle.worker_stripe(worker, curve.users())),
            Self::Closed { .. } | Self::Shared(_) => 0,
        }
    }

    /// Users of one worker's share.
    #[must_use]
    pub fn users_for(&self, cycle: &Cycle, worker: u32) -> u64 {
        cycle.stripe(worker, 0, NonZeroU32::MIN, self.users()).count_below(self.users())
    }
}

impl Load {
    /// The load as both sides compute with it.
    ///
    /// # Errors
    /// Where the model is missing or its schedule cannot be built.
    pub fn view(&self, phase: &Phase) -> Result<LoadView, PlanError> {
        let schedule = |source| PlanError::Schedule { phase: phase.name.clone(), source };
        match &self.model {
            None => Err(PlanError::Damaged(format!("a load of phase `{}` has no model", phase.name))),
            Some(load::Model::Open(open)) => {
                let pieces: Vec<RatePiece> = open
                    .pieces
                    .iter()
                    .map(|piece| RatePiece {
                        from: Rate::from_milli_per_hour(piece.from_milli_per_hour),
                        to: Rate::from_milli_per_hour(piece.to_milli_per_hour),
                        over: Duration::from_nanos(piece.over_ns),
                    })
                    .collect();
                let curve = RateCurve::try_new(&pieces).map_err(schedule)?;
                let Open { poisson, max_vus, prepared, queue, .. } = *open;
                Ok(LoadView::Open { curve, poisson, max_vus, prepared: prepared.min(max_vus), queue })
            }
            Some(load::Model::Closed(closed)) => {
                let pieces = closed.pieces.iter().map(|piece| UserPiece {
                    from: piece.from,
                    to: piece.to,
                    over: Duration::from_nanos(piece.over_ns),
                    batch: piece.batch.max(1),
                });
                Ok(LoadView::Closed { curve: UserCurve::new(pieces.collect()) })
            }
            Some(load::Model::Counted(counted)) => Ok(LoadView::Counted(*counted)),
            Some(load::Model::Shared(shared)) => Ok(LoadView::Shared(*shared)),
            Some(load::Model::Paced(paced)) => {
                let (cycle, length) =
                    (Duration::from_nanos(paced.cycle_ns), Duration::from_nanos(paced.duration_ns));
                PacedCurve::try_new(paced.vus, cycle, length).map(LoadView::Paced).map_err(schedule)
            }
        }
    }

    /// The name of its executor.
    #[must_use]
    pub fn executor(&self) -> &str {
        match &self.model {
            Some(load::Model::Open(open)) => &open.executor,
            Some(load::Model::Closed(closed)) => &closed.executor,
            Some(load::Model::Counted(Counted { at_once: true, .. })) => "at-once",
            Some(load::Model::Counted(_)) => "per-vu-iterations",
            Some(load::Model::Shared(_)) => "shared-iterations",
            Some(load::Model::Paced(_)) => "paced",
            None => "?",
        }
    }
}

impl Phase {
    /// How long the phase's longest load may go on; 0 where a load cannot be read.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.loads.iter().filter_map(|load| Some(load.view(self).ok()?.limit())).max().unwrap_or_default()
    }

    /// How long the phase goes on at least.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.loads.iter().filter_map(|load| Some(load.view(self).ok()?.length())).max().unwrap_or_default()
    }

    /// Whether users begin their lives before its zero.
    #[must_use]
    pub fn prepares(&self) -> bool {
        self.loads.iter().any(|load| load.view(self).is_ok_and(|view| view.prepares()))
    }

    /// Whether it is a phase of load, not `setup` or `teardown`.
    #[must_use]
    pub fn is_load(&self) -> bool {
        self.kind() == PhaseKind::Load
    }

    /// How long iterations under way may go on after that.
    #[must_use]
    pub const fn graceful_stop(&self) -> Duration {
        Duration::from_nanos(self.graceful_stop_ns)
    }
}

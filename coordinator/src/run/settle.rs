//! What follows from a run's state alone: which phase begins, and when to give up.

use std::num::NonZeroU32;
use std::time::Duration;

use loadgrid_common::plan::{self, Phase, PhaseKind};
use loadgrid_common::schedule::weights_for;
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb::{self, from_coordinator::Message as Order};

use super::core::{
    ARMING_LIMIT, EndReason, LEAD, OPENING_LIMIT, PhaseSpan, RunCore, RunEffect, SEAL_LIMIT, SLACK,
    STOP_FLOWS, State, WARMING_LIMIT,
};

impl RunCore {
    /// What follows from the state alone; each turn may allow the next.
    pub(super) fn settle(&mut self, now: Moment, out: &mut Vec<RunEffect>) {
        while self.settle_once(now, out) {}
    }

    fn settle_once(&mut self, now: Moment, out: &mut Vec<RunEffect>) -> bool {
        let present = self.live().count();
        match &self.state {
            State::Waiting { until } => {
                if present >= self.needed() {
                    let until = now + ARMING_LIMIT + self.config.wait_for_target;
                    self.state = State::Arming { until };
                    return true;
                }
                if now >= *until {
                    self.end(EndReason::NotEnoughWorkers { present, needed: self.needed() }, out);
                }
                false
            }
            State::Arming { until } => {
                let until = *until;
                if self.waits_again(now, present) {
                    return false;
                }
                if let Some(reason) = self.cannot_begin(present) {
                    self.stop(now, reason, true);
                    return true;
                }
                if self
                    .live()
                    .all(|(_, worker)| worker.progress.armed && worker.progress.run == self.config.run)
                {
                    return self.open_if_clocks_allow(now, until);
                }
                self.give_up_after(now, until, "preparing the workers")
            }
            State::Opening { epoch, until } => {
                let (epoch, until) = (*epoch, *until);
                if self.waits_again(now, present) {
                    return false;
                }
                if let Some(reason) = self.cannot_begin(present) {
                    self.stop(now, reason, true);
                    return true;
                }
                if self.live().all(|(_, worker)| worker.progress.committed_epoch >= epoch) {
                    self.begin_phase(now, 0, out);
                    return true;
                }
                self.give_up_after(now, until, "agreeing on the shares")
            }
            State::Warming { .. } | State::InPhase { .. } | State::Ending { .. } if present == 0 => {
                self.end(EndReason::NoWorkersLeft, out);
                false
            }
            &State::Warming { phase, until } => {
                if self.live().all(|(_, worker)| worker.progress.ready > phase) {
                    self.set_zero(now, phase, out);
                    return true;
                }
                self.give_up_after(now, until, "preparing users for a phase")
            }
            &State::InPhase { phase, until, .. } => self.settle_in_phase(now, phase, until, out),
            &State::Ending { phase, until, aborting } => self.settle_ending(now, phase, until, aborting, out),
            State::Draining { until, aborting, reason } => {
                let (until, aborting, reason) = (*until, *aborting, reason.clone());
                let holding = self
                    .workers
                    .values()
                    .filter(|worker| worker.live && worker.progress.run == self.config.run);
                let mut holding = holding.filter(|worker| !worker.sealed).peekable();
                if holding.peek().is_none() {
                    self.end(reason, out);
                    return false;
                }
                if now >= until {
                    if aborting {
                        self.end(reason, out);
                        return false;
                    }
                    self.state = State::Draining { reason, until: now + SEAL_LIMIT, aborting: true };
                }
                false
            }
            State::Ended => false,
        }
    }

    fn settle_in_phase(&mut self, now: Moment, phase: u32, until: Moment, out: &mut Vec<RunEffect>) -> bool {
        let kind = self.kind_of(phase);
        if kind == PhaseKind::Load && self.live().any(|(_, worker)| worker.progress.end_run) {
            self.stop(now, EndReason::EndedByScenario, false);
            return true;
        }
        if self.live().all(|(_, worker)| worker.progress.ended > phase) {
            out.push(RunEffect::PhaseEnded { phase, at: now });
            self.after(now, phase, out);
            return true;
        }
        if kind == PhaseKind::Teardown && now >= until {
            self.state =
                State::Draining { reason: self.reason_so_far(), until: now + SEAL_LIMIT, aborting: true };
            return true;
        }
        self.give_up_after(now, until, "ending a phase")
    }

    fn settle_ending(
        &mut self,
        now: Moment,
        phase: u32,
        until: Moment,
        aborting: bool,
        out: &mut Vec<RunEffect>,
    ) -> bool {
        if self.live().all(|(_, worker)| worker.progress.ended > phase) {
            out.push(RunEffect::PhaseEnded { phase, at: now });
            self.keep_setup(phase);
            self.end_survivors(now, phase, aborting, out);
            return true;
        }
        if now < until {
            return false;
        }
        let until = now + SEAL_LIMIT;
        self.state = if aborting {
            // Somebody does not end even what it was told to drop; then there is nobody to rely on.
            State::Draining { reason: self.reason_so_far(), until, aborting: true }
        } else {
            State::Ending { phase, until, aborting: true }
        };
        true
    }

    /// Users that would have lived on in the next phase end their lives in it: nothing else of it is carried out.
    fn end_survivors(&mut self, now: Moment, phase: u32, aborting: bool, out: &mut Vec<RunEffect>) {
        let next = phase + 1;
        if !self.config.phases.get(next as usize).is_some_and(|next| next.continues) {
            self.tear_down(now, out);
            return;
        }
        // It has no zero: nobody may have started anything that was planned for it.
        let until = now + if aborting { SEAL_LIMIT } else { STOP_FLOWS + SLACK };
        self.state = State::Ending { phase: next, until, aborting };
    }

    /// Why the run ends, as far as it is known.
    fn reason_so_far(&self) -> EndReason {
        self.reason.clone().unwrap_or(EndReason::Completed)
    }

    /// Why a run that has not begun cannot begin.
    fn cannot_begin(&self, present: usize) -> Option<EndReason> {
        let refused = self.live().find(|(_, worker)| {
            !worker.progress.refused.is_empty() && worker.progress.run == self.config.run
        });
        if let Some((worker, refused)) = refused {
            return Some(EndReason::Refused {
                worker: worker.clone(),
                reason: refused.progress.refused.clone(),
            });
        }
        (present < self.needed()).then(|| EndReason::NotEnoughWorkers { present, needed: self.needed() })
    }

    fn open_if_clocks_allow(&mut self, now: Moment, until: Moment) -> bool {
        let allowed = match self.config.grid.start_skew_ns {
            0 => u64::MAX,
            skew => skew,
        };
        let worst = self.live().max_by_key(|(_, worker)| worker.progress.clock_uncertainty_ns);
        let Some((worst, uncertainty_ns)) =
            worst.map(|(id, worker)| (id.clone(), worker.progress.clock_uncertainty_ns))
        else {
            return false;
        };
        if uncertainty_ns < allowed {
            self.open_epoch(now);
            return true;
        }
        // The first beats are still under way, or the network is too slow for the skew asked for.
        if now >= until {
            self.stop(now, EndReason::ClocksUncertain { worker: worst, uncertainty_ns }, true);
            return true;
        }
        false
    }

    pub(super) fn open_epoch(&mut self, now: Moment) {
        let threads: Vec<NonZeroU32> = self.live().map(|(_, worker)| worker.threads).collect();
        let equal = self.config.grid.weights == i32::from(plan::Weights::Equal);
        let weights = weights_for(&threads, equal);
        let parts: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        if let Some(cap) = self.config.smallest_cap.filter(|cap| *cap < parts) {
            self.stop(now, EndReason::CapTooSmall { cap, parts }, true);
            return;
        }
        self.shares = self
            .live()
            .zip(weights)
            .map(|((id, worker), weight)| (id.clone(), worker.incarnation, weight))
            .collect();
        self.epoch += 1;
        self.state = State::Opening { epoch: self.epoch, until: now + OPENING_LIMIT };
    }

    /// What follows a phase that has ended by itself.
    fn after(&mut self, now: Moment, phase: u32, out: &mut Vec<RunEffect>) {
        self.keep_setup(phase);
        let next = phase + 1;
        if self.reason.is_some() && self.kind_of(phase) != PhaseKind::Teardown {
            self.tear_down(now, out);
        } else if (next as usize) < self.config.phases.len() {
            self.begin_phase(now, next, out);
        } else {
            let reason = self.reason_so_far();
            self.state = State::Draining { reason, until: now + SEAL_LIMIT, aborting: false };
        }
    }

    /// Takes what `setup` yielded, and why it failed, where it did.
    fn keep_setup(&mut self, phase: u32) {
        if self.kind_of(phase) != PhaseKind::Setup {
            return;
        }
        let failed = match self.performer.as_ref().and_then(|performer| self.workers.get(performer)) {
            Some(worker) if worker.live => {
                self.setup_json.clone_from(&worker.progress.setup_json);
                match worker.progress.setup_failed.as_str() {
                    "" if self.setup_json.is_empty() => "it was broken off".to_owned(),
                    failed => failed.to_owned(),
                }
            }
            _ => "the worker that carried it out was lost".to_owned(),
        };
        if !failed.is_empty() {
            self.reason.get_or_insert(EndReason::SetupFailed(failed));
        }
    }

    /// Begins teardown, or drains where there is none.
    fn tear_down(&mut self, now: Moment, out: &mut Vec<RunEffect>) {
        match self.teardown() {
            Some(teardown) => self.begin_phase(now, teardown, out),
            None => {
                let reason = self.reason_so_far();
                self.state = State::Draining { reason, until: now + SEAL_LIMIT, aborting: false };
            }
        }
    }

    fn begin_phase(&mut self, now: Moment, phase: u32, out: &mut Vec<RunEffect>) {
        self.performer = match self.kind_of(phase) {
            PhaseKind::Load => None,
            PhaseKind::Setup | PhaseKind::Teardown => self.live().map(|(id, _)| id.clone()).next(),
        };
        if self.config.phases.get(phase as usize).is_some_and(Phase::prepares) {
            self.run_zero.get_or_insert(now + LEAD);
            self.state = State::Warming { phase, until: now + WARMING_LIMIT };
        } else {
            self.set_zero(now, phase, out);
        }
    }

    /// Sets the zero of a phase, after its pause.
    fn set_zero(&mut self, now: Moment, phase: u32, out: &mut Vec<RunEffect>) {
        let Some(shape) = self.config.phases.get(phase as usize) else { return };
        let zero = now + LEAD.max(Duration::from_nanos(shape.settle_ns));
        let until = zero + shape.limit() + shape.graceful_stop() + STOP_FLOWS + SLACK;
        let threads: Vec<NonZeroU32> = self.live().map(|(_, worker)| worker.threads).collect();
        self.grants.begin(phase, &self.config.phases[phase as usize], &threads);
        self.run_zero.get_or_insert(zero);
        self.state = State::InPhase { phase, zero, until };
        out.push(RunEffect::PhaseBegins(PhaseSpan { phase, zero }));
    }

    /// Before the first phase a worker may be lost while there is time for another: then the run waits on.
    fn waits_again(&mut self, now: Moment, present: usize) -> bool {
        if present >= self.needed() || now >= self.wait_until {
            return false;
        }
        self.state = State::Waiting { until: self.wait_until };
        true
    }

    fn give_up_after(&mut self, now: Moment, until: Moment, what: &str) -> bool {
        if now < until {
            return false;
        }
        self.stop(now, EndReason::TimedOut(format!("{what} took too long")), true);
        true
    }

    fn end(&mut self, reason: EndReason, out: &mut Vec<RunEffect>) {
        // Workers that still hold the run let go of it; one that does not hear this finds out when it
        // presents itself again.
        for (id, worker) in self.workers.iter().filter(|(_, worker)| worker.live) {
            if worker.progress.run == self.config.run {
                let release = pb::Release { run: self.config.run.clone() };
                out.push(RunEffect::Send { worker: id.clone(), order: Box::new(Order::Release(release)) });
            }
        }
        self.state = State::Ended;
        out.push(RunEffect::Ended(reason));
    }
}

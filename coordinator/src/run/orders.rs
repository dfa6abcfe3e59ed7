//! The table of orders: what a worker should hear next, from how far it says it is.

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::plan::PhaseKind;
use loadgrid_common::random::{hash_text, mix};
use loadgrid_common::schedule::Cycle;
use loadgrid_common::time::Moment;
use loadgrid_common::wire::pb::{self, from_coordinator::Message as Order};

use super::EndReason;
use super::core::{REPEAT, RunCore, RunEffect, State, Worker};

impl RunCore {
    /// Gives every live worker the order that it has not obeyed yet.
    pub(super) fn send_orders(&mut self, now: Moment, out: &mut Vec<RunEffect>) {
        let ids: Vec<WorkerId> = self.workers.keys().cloned().collect();
        for id in ids {
            let Some((kind, order)) = self.workers.get(&id).and_then(|worker| self.order_for(worker)) else {
                continue;
            };
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let recently =
                matches!(worker.ordered, Some((last, at)) if last == kind && now.since(at) < REPEAT);
            if recently {
                continue;
            }
            worker.ordered = Some((kind, now));
            out.push(RunEffect::Send { worker: id, order: Box::new(order) });
        }
        self.say_turns(now, out);
    }

    /// Answers to what a worker's threads have asked for, as often as they ask.
    pub(super) fn granted(
        &mut self,
        now: Moment,
        id: &WorkerId,
        incarnation: Incarnation,
        progress: &pb::Progress,
        out: &mut Vec<RunEffect>,
    ) {
        let State::InPhase { phase, .. } = self.state else { return };
        let known = self.workers.get(id).is_some_and(|known| known.incarnation == incarnation && known.live);
        if !known || progress.run != self.config.run {
            return;
        }
        for turn in progress.turns.iter().filter(|turn| turn.phase == phase) {
            self.grants.ended(phase, turn.load, turn.ended);
        }
        for wanted in progress.wanted.iter().filter(|wanted| wanted.phase == phase) {
            let (load, thread, number) = (wanted.load, wanted.thread, wanted.number);
            let Some(block) = self.grants.block(now, (phase, load), id, thread, number) else { continue };
            let order = pb::IterationBlock {
                run: self.config.run.clone(),
                phase,
                load,
                thread,
                number,
                first: block.first,
                count: block.count,
            };
            out.push(RunEffect::Send { worker: id.clone(), order: Box::new(Order::Block(order)) });
        }
    }

    /// Lets the sequential user go on whose turn it is.
    fn say_turns(&mut self, now: Moment, out: &mut Vec<RunEffect>) {
        let State::InPhase { phase, .. } = self.state else { return };
        let weights: Vec<u32> = self.shares.iter().map(|share| share.2).collect();
        let Ok(cycle) = Cycle::deal(&weights) else { return };
        let (shares, workers) = (&self.shares, &self.workers);
        let worker_of = |owner: u32| shares.get(owner as usize).map(|(worker, _, _)| worker);
        let is_live =
            |owner: u32| worker_of(owner).and_then(|id| workers.get(id)).is_some_and(|worker| worker.live);
        for (load, user, owner) in self.grants.due_turns(now, phase, REPEAT, &cycle, is_live) {
            let Some(worker) = worker_of(owner) else { continue };
            let turn = pb::Turn { run: self.config.run.clone(), phase, load, user: user + 1 };
            out.push(RunEffect::Send { worker: worker.clone(), order: Box::new(Order::Turn(turn)) });
        }
    }

    /// The order that begins a phase; without a zero it only prepares its users.
    fn start(&self, phase: u32, zero: Option<Moment>) -> Order {
        let run_zero = self.run_zero.or(zero).unwrap_or(Moment::ZERO);
        Order::Start(pb::Start {
            run: self.config.run.clone(),
            phase,
            epoch: self.epoch,
            at_ns: zero.unwrap_or(Moment::ZERO).as_nanos(),
            run_zero_ns: run_zero.as_nanos(),
            performer: match self.kind_of(phase) {
                PhaseKind::Load => String::new(),
                PhaseKind::Setup | PhaseKind::Teardown => {
                    self.performer.as_ref().map(ToString::to_string).unwrap_or_default()
                }
            },
            setup_json: self.setup_json.clone(),
            prepare: zero.is_none(),
            after_failure: matches!(self.reason, Some(EndReason::SetupFailed(_))),
        })
    }

    fn order_for(&self, worker: &Worker) -> Option<(u64, Order)> {
        let run = self.config.run.clone();
        let progress = &worker.progress;
        let holds = progress.run == run;
        if !worker.live {
            let order = if worker.sealed {
                (6, Order::Release(pb::Release { run }))
            } else {
                (5, Order::Abort(pb::Abort { run, reason: "its lease had ended".to_owned() }))
            };
            return (worker.back && holds).then_some(order);
        }
        match &self.state {
            State::Waiting { .. } | State::Ended => None,
            State::Arming { .. } | State::Opening { .. } if !holds => {
                Some((1, Order::Prepare(self.config.prepare.clone())))
            }
            State::Arming { .. } | State::Opening { .. } if !progress.missing_data.is_empty() => {
                // Data goes on as fast as the worker says that it has come: which file and which part of it tell orders
                // apart.
                let chunk = self.chunk(&progress.missing_data, progress.missing_offset);
                let place = mix(hash_text(&progress.missing_data), progress.missing_offset);
                chunk.map(|chunk| (2 | place << 8, Order::Data(chunk)))
            }
            State::Arming { .. } => None,
            State::Opening { epoch, .. } => self.opening_order(*epoch, progress),
            // The phase is part of the kind, or the order of the next one would look like a repetition.
            State::Warming { phase, .. } => {
                let order = || (9 | u64::from(*phase) << 8, self.start(*phase, None));
                (holds && progress.ready <= *phase).then(order)
            }
            State::InPhase { phase, zero, .. } => {
                let order = || (3 | u64::from(*phase) << 8, self.start(*phase, Some(*zero)));
                (holds && progress.started <= *phase).then(order)
            }
            State::Ending { phase, aborting, .. } => {
                let end = pb::EndPhase { run, phase: *phase, abort: *aborting };
                let kind = 10 | u64::from(*phase) << 8 | u64::from(*aborting) << 7;
                (holds && progress.ended <= *phase).then_some((kind, Order::EndPhase(end)))
            }
            State::Draining { aborting, .. } => {
                if !holds {
                    None
                } else if worker.sealed {
                    Some((6, Order::Release(pb::Release { run })))
                } else if *aborting {
                    Some((5, Order::Abort(pb::Abort { run, reason: String::new() })))
                } else {
                    (!progress.draining).then(|| (4, Order::Drain(pb::Drain { run, reason: String::new() })))
                }
            }
        }
    }

    fn opening_order(&self, number: u32, progress: &pb::Progress) -> Option<(u64, Order)> {
        let run = self.config.run.clone();
        if progress.prepared_epoch < number {
            let shares = self.shares.iter().map(|(worker, incarnation, weight)| pb::Share {
                worker: worker.as_str().to_owned(),
                incarnation: incarnation.0,
                weight: *weight,
            });
            return Some((
                7 | u64::from(number) << 8,
                Order::Epoch(pb::Epoch { run, number, shares: shares.collect(), loads: Vec::new() }),
            ));
        }
        // Nobody commits before all are prepared.
        let all_prepared = self.live().all(|(_, worker)| worker.progress.prepared_epoch >= number);
        (all_prepared && progress.committed_epoch < number)
            .then(|| (8 | u64::from(number) << 8, Order::Commit(pb::EpochCommit { run, number })))
    }

    fn chunk(&self, hash: &str, offset: u64) -> Option<pb::DataChunk> {
        let table = self.config.tables.get(hash)?;
        let begin = usize::try_from(offset).ok()?.min(table.len());
        let end = (begin + loadgrid_common::wire::PIECE_BYTES).min(table.len());
        Some(pb::DataChunk {
            hash: hash.to_owned(),
            offset,
            total: table.len() as u64,
            bytes: table[begin..end].to_vec().into(),
        })
    }
}

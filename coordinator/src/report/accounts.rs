//! The ledger: what became of everything that was planned and begun, also on a bad day.
//!
//! Of a worker that was lost we know what it reported. What it had begun and not reported is unknown; what
//! it may have begun until its lease ended is unknown, too, so `started` is an upper bound there; what came
//! due after that was never started.

use std::time::Duration;

use loadgrid_common::plan::LoadView;
use loadgrid_common::schedule::Cycle;

use crate::ingest::WorkerTotals;

use super::build::Facts;
use super::model::{Exchanges, Iterations, Ledger, WorkerLedger};

/// Accounts of one load of one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoadAccount {
    pub(super) iterations: Iterations,
}

/// Closes the books of every load of every phase, and notes where they do not close.
pub(super) fn close(facts: &Facts<'_>, gaps: &mut Vec<String>) -> Vec<Vec<LoadAccount>> {
    let weights: Vec<u32> = facts.shares.iter().map(|share| share.2).collect();
    let cycle = Cycle::deal(&weights).ok();
    let mut phases = Vec::new();
    for (number, phase) in (0_u32..).zip(&facts.plan.phases) {
        let mut loads = Vec::new();
        for (load, shape) in (0_u32..).zip(&phase.loads) {
            let Ok(view) = shape.view(phase) else { continue };
            let account = close_load(facts, cycle.as_ref(), number, load, &view, gaps);
            loads.push(account);
        }
        phases.push(loads);
    }
    phases
}

fn close_load(
    facts: &Facts<'_>,
    cycle: Option<&Cycle>,
    phase: u32,
    load: u32,
    view: &LoadView,
    gaps: &mut Vec<String>,
) -> LoadAccount {
    let measured = facts.ingest.totals().get(&phase).and_then(|measures| measures.loads.get(&load));
    let mut iterations = Iterations { planned: view.planned(), ..Iterations::default() };
    if let Some(stats) = measured {
        iterations.started = stats.started;
        iterations.dropped = stats.dropped;
        iterations.never_started = stats.never_started;
        iterations.ok = stats.ok;
        iterations.failed = stats.failed;
        iterations.unknown = stats.unknown;
    }
    for (place, (worker, _, _)) in (0_u32..).zip(facts.shares) {
        // An owner that never said a word has nothing to show for its share.
        let totals = facts.ingest.workers().get(worker);
        let own = totals.and_then(|totals| totals.loads.get(&(phase, load))).copied().unwrap_or_default();
        let is_sealed = totals.is_some_and(WorkerTotals::is_sealed);
        // What a worker had under way when it was last heard is unknown.
        if !is_sealed {
            iterations.unknown += own.started.saturating_sub(own.ended);
        }
        let (Some(cycle), Some(_)) = (cycle, view.planned()) else { continue };
        // A phase that one worker carries out has no shares: what nobody began was never started.
        let is_load =
            facts.plan.phases.get(phase as usize).is_some_and(loadgrid_common::plan::Phase::is_load);
        if !is_load {
            continue;
        }
        let share = match view {
            LoadView::Shared(_) => facts.core.leased(phase, load, worker),
            _ => view.planned_for(cycle, place),
        };
        let open = share.saturating_sub(own.started + own.dropped + own.never_started);
        if open == 0 {
            continue;
        }
        let begun = facts.phases.get(phase as usize).and_then(|phase| phase.zero);
        let may_have_started = match (begun, is_sealed) {
            // It ended in order before it was told to begin the phase.
            (None, _) | (_, true) => 0,
            (Some(zero), false) => {
                let silent_from = facts.lost_at(worker).unwrap_or(facts.ended_at);
                let due = match silent_from > zero {
                    true => due_of_share(view, cycle, place, silent_from.saturating_sub(zero)),
                    // Its lease was over before the phase began.
                    false => 0,
                };
                due.saturating_sub(own.started + own.dropped + own.never_started).min(open)
            }
        };
        iterations.started += may_have_started;
        iterations.unknown += may_have_started;
        iterations.never_started += open - may_have_started;
        let is_shared = matches!(view, LoadView::Shared(_));
        if is_sealed && begun.is_some() && facts.completed && own.started > 0 && !is_shared {
            gaps.push(format!("{open} arrivals of {worker} in phase {phase} are missing from its reports"));
        }
    }
    if let Some(planned) = view.planned() {
        // What belongs to no share: everything where there was none, iterations that nobody leased.
        let accounted = iterations.started + iterations.dropped + iterations.never_started;
        let is_shared = matches!(view, LoadView::Shared(_));
        let is_load =
            facts.plan.phases.get(phase as usize).is_some_and(loadgrid_common::plan::Phase::is_load);
        let rest = planned.saturating_sub(accounted);
        if is_shared && facts.completed && facts.lost.is_empty() {
            // The load's time was up before all of them were leased.
            iterations.dropped += rest;
        } else if facts.shares.is_empty() || is_shared || !is_load {
            iterations.never_started += rest;
        }
    }
    check(&iterations, phase, load, gaps);
    LoadAccount { iterations }
}

/// Arrivals of a worker's share that are due by `until` after phase zero.
fn due_of_share(view: &LoadView, cycle: &Cycle, worker: u32, until: Duration) -> u64 {
    match view {
        // Random arrivals are as many as even ones up to a block, which is near enough for what is unknown.
        LoadView::Open { curve, .. } => {
            cycle.worker_stripe(worker, view.users()).count_below(curve.due_by(until))
        }
        // Every user may have gone on until then.
        LoadView::Shared(_) | LoadView::Counted(_) => u64::MAX,
        LoadView::Paced(curve) => match curve.length() {
            length if length.is_zero() => 0,
            length => {
                let share = u128::from(view.planned_for(cycle, worker));
                let due = (share * until.as_nanos()).div_ceil(length.as_nanos());
                u64::try_from(due.min(share)).unwrap_or(u64::MAX)
            }
        },
        LoadView::Closed { .. } => 0,
    }
}

fn check(iterations: &Iterations, phase: u32, load: u32, gaps: &mut Vec<String>) {
    let Iterations { planned, started, dropped, never_started, ok, failed, unknown } = *iterations;
    if let Some(planned) = planned
        && planned != started + dropped + never_started
    {
        gaps.push(format!("phase {phase}, load {load}: {planned} planned ≠ {started} started + {dropped} dropped + {never_started} never started"));
    }
    if started != ok + failed + unknown {
        gaps.push(format!(
            "phase {phase}, load {load}: {started} started ≠ {ok} ok + {failed} failed + {unknown} unknown"
        ));
    }
}

/// Adds accounts up. `planned` stays known only where all are.
pub(super) fn sum<'a>(accounts: impl Iterator<Item = &'a LoadAccount>) -> Iterations {
    let mut sum = Iterations { planned: Some(0), ..Iterations::default() };
    for LoadAccount { iterations } in accounts {
        sum.planned = sum.planned.zip(iterations.planned).map(|(a, b)| a + b);
        sum.started += iterations.started;
        sum.dropped += iterations.dropped;
        sum.never_started += iterations.never_started;
        sum.ok += iterations.ok;
        sum.failed += iterations.failed;
        sum.unknown += iterations.unknown;
    }
    sum
}

/// The ledger of a run.
pub(super) fn ledger(facts: &Facts<'_>, phases: &[Vec<LoadAccount>], mut gaps: Vec<String>) -> Ledger {
    let mut exchanges = Exchanges::default();
    for step in facts.ingest.totals().values().flat_map(|measures| measures.steps.values()) {
        exchanges.sent += step.sent;
        exchanges.ok += step.ok;
        exchanges.failed += step.failed;
        exchanges.unknown += step.unknown;
    }
    let mut workers = Vec::new();
    for (id, totals) in facts.ingest.workers() {
        let (sent, started) = totals.sent_and_started();
        if !totals.is_sealed() {
            // What a worker had in the air when it was last heard is unknown.
            exchanges.unknown += totals
                .phases
                .values()
                .map(|phase| phase.exchanges_sent.saturating_sub(phase.exchanges_ended))
                .sum::<u64>();
        }
        if let Some(mismatch) = totals.mismatch() {
            gaps.push(format!("worker {id}: {mismatch}"));
        }
        workers.push(WorkerLedger {
            worker: id.to_string(),
            iterations_started: started,
            exchanges_sent: sent,
            snapshots: totals.sequence.counted(),
            sealed: totals.is_sealed(),
            lost: facts.lost_at(id).is_some(),
        });
    }
    let Exchanges { sent, ok, failed, unknown } = exchanges;
    if sent != ok + failed + unknown {
        gaps.push(format!("{sent} exchanges sent ≠ {ok} ok + {failed} failed + {unknown} unknown"));
    }
    if sent != workers.iter().map(|worker| worker.exchanges_sent).sum::<u64>() {
        gaps.push(format!("{sent} exchanges sent ≠ the sum over workers"));
    }
    Ledger { closes: gaps.is_empty(), gaps, iterations: sum(phases.iter().flatten()), exchanges, workers }
}

//! `loadgrid plan`: what a scenario will do, computed by the same functions that workers use.

use std::num::NonZeroU32;

use anyhow::Context as _;
use loadgrid_common::plan::LoadView;
use loadgrid_common::schedule::{Cycle, weights_for};
use loadgrid_common::units::show_duration;

use crate::arguments::Plan;
use crate::files;
use crate::output::{Failure, print};

pub(crate) fn plan(verb: &Plan) -> Result<u8, Failure> {
    let plan = files::load(&verb.file, &verb.overrides)?.plan;
    let threads: Vec<NonZeroU32> = (0..verb.workers.get()).map(|_| verb.threads).collect();
    let cycle = Cycle::deal(&weights_for(&threads, false)).context("too many workers")?;
    print(format_args!("{} against {}, seed {}", plan.name, plan.target, plan.seed));
    for phase in &plan.phases {
        print(format_args!("\nphase {}  {}", phase.name, span_of(phase)));
        for load in &phase.loads {
            let user = plan.users.get(load.user as usize).map_or("?", |user| user.name.as_str());
            let view = load.view(phase).context("the plan cannot be shown")?;
            let executor = load.executor();
            let what = match &view {
                LoadView::Open { curve, max_vus, .. } => {
                    format!(
                        "{} arrivals, at most {} and {max_vus} virtual users",
                        curve.total(),
                        curve.peak()
                    )
                }
                LoadView::Closed { curve } => format!("at most {} virtual users", curve.peak()),
                LoadView::Counted(counted) => {
                    let order = if counted.sequential { ", one user after the other" } else { "" };
                    format!("{} virtual users, {} iterations each{order}", counted.vus, counted.iterations)
                }
                LoadView::Shared(shared) => {
                    format!("{} iterations, shared by {} virtual users", shared.iterations, shared.vus)
                }
                LoadView::Paced(curve) => {
                    format!("{} turns of {} virtual users", curve.total(), curve.users())
                }
            };
            print(format_args!("  {executor} of {user}: {what}"));
            if !phase.is_load() {
                continue;
            }
            for worker in 0..verb.workers.get() {
                let users = view.users_for(&cycle, worker);
                let number = worker + 1;
                match (view.planned(), &view) {
                    (None, _) | (_, LoadView::Shared(_)) => {
                        print(format_args!("    worker {number}: at most {users} users"))
                    }
                    (Some(_), _) => {
                        let iterations = view.planned_for(&cycle, worker);
                        print(format_args!(
                            "    worker {number}: {iterations} iterations, at most {users} users"
                        ));
                    }
                }
            }
        }
    }
    if !plan.sources.is_empty() {
        print("\ndata");
        for source in &plan.sources {
            print(format_args!(
                "  {}: {} rows, used columns: {}",
                source.name,
                source.rows,
                source.columns.join(", ")
            ));
        }
    }
    if !plan.thresholds.is_empty() {
        print("\nthresholds");
        plan.thresholds.iter().for_each(|threshold| print(format_args!("  {}", threshold.text)));
    }
    Ok(0)
}

/// How long a phase is: exactly, or at most.
fn span_of(phase: &loadgrid_common::plan::Phase) -> String {
    let (length, limit) = (phase.length(), phase.limit());
    let mut text = match limit > length {
        true => format!("at most {}", show_duration(limit)),
        false => show_duration(length),
    };
    if phase.settle_ns > 0 {
        let settle = show_duration(std::time::Duration::from_nanos(phase.settle_ns));
        text.push_str(&format!(", after a pause of {settle}"));
    }
    if phase.continues {
        text.push_str(", users live on from the phase before");
    }
    if phase.unrecorded && phase.is_load() {
        text.push_str(", not part of the totals");
    }
    text
}

//! `loadgrid plan`: what a scenario will do, computed by the same functions that workers use.

use std::num::NonZeroU32;

use anyhow::Context as _;
use loadgrid_common::plan::{LoadView, load};
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
        print(format_args!("\nphase {}  {}", phase.name, show_duration(phase.length())));
        for load in &phase.loads {
            let user = plan.users.get(load.user as usize).map_or("?", |user| user.name.as_str());
            let view = load.view(phase).context("the plan cannot be shown")?;
            let executor = match &load.model {
                Some(load::Model::Open(open)) => open.executor.as_str(),
                Some(load::Model::Closed(closed)) => closed.executor.as_str(),
                None => "?",
            };
            match &view {
                LoadView::Open { curve, max_vus, .. } => {
                    print(format_args!(
                        "  {executor} of {user}: {} arrivals, at most {} and {max_vus} virtual users",
                        curve.total(),
                        curve.peak()
                    ));
                }
                LoadView::Closed { curve } => {
                    print(format_args!("  {executor} of {user}: at most {} virtual users", curve.peak()))
                }
            }
            for worker in 0..verb.workers.get() {
                let users = view.users_for(&cycle, worker);
                match view.planned() {
                    Some(_) => {
                        let arrivals = view.planned_for(&cycle, worker);
                        print(format_args!(
                            "    worker {}: {arrivals} arrivals, at most {users} users",
                            worker + 1
                        ));
                    }
                    None => print(format_args!("    worker {}: at most {users} users", worker + 1)),
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
        plan.thresholds.iter().for_each(|threshold| print(format_args!("  {threshold}")));
    }
    Ok(0)
}

//! Thresholds as written to thresholds of the plan: names are checked here.

use std::time::Duration;

use loadgrid_common::plan;

use super::constants::Constants;
use super::decode;
use super::document::Document;
use super::flow::Names;
use super::problem::Sink;
use crate::judge::{Known, Threshold};

/// The longest window of a threshold: the coordinator keeps its measures apart.
const LONGEST_WINDOW: Duration = Duration::from_secs(600);

/// Compiles the thresholds about phases that are carried out.
pub(super) fn compile(
    document: &Document,
    constants: &Constants,
    names: &Names,
    phases: Option<&[plan::Phase]>,
    sink: &mut Sink,
) -> Vec<plan::Threshold> {
    let declared: Vec<String> = match &document.phases {
        Some(phases) => phases.iter().map(|phase| phase.name.0.value.clone()).collect(),
        None => vec!["main".to_owned()],
    };
    let all_read = sink.is_empty();
    let known = Known {
        counters: &names.counters,
        observed: &names.observed,
        phases: &declared,
        steps: &names.steps,
        groups: &names.groups,
        places: &names.places,
    };
    let carried_out =
        |name: &String| phases.is_none_or(|phases| phases.iter().any(|phase| phase.name == *name));
    let mut out = Vec::new();
    for threshold in document.thresholds.iter().flatten() {
        let text = &threshold.text;
        let parsed = match Threshold::parse(&text.value, &known) {
            Ok(parsed) => parsed,
            // The step or phase may be one that could not be read.
            Err(error) if error.is_unknown_name && !all_read => continue,
            Err(error) => {
                sink.add_with_hint(text.at(error.offset, error.length), error.message, error.hint);
                continue;
            }
        };
        let mut compiled = plan::Threshold { text: text.value.clone(), ..plan::Threshold::default() };
        let mut good = true;
        if let Some(more) = &threshold.more {
            let mut ns = |quantity: &Option<decode::Quantity<decode::Duration>>| {
                let Some(quantity) = quantity else { return 0 };
                constants.quantity(quantity, sink).map_or_else(
                    || {
                        good = false;
                        0
                    },
                    loadgrid_common::time::nanos,
                )
            };
            (compiled.window_ns, compiled.for_ns, compiled.grace_ns) =
                (ns(&more.window), ns(&more.r#for), ns(&more.grace));
            compiled.abort = more.abort.unwrap_or(false);
            let is_watched = more.window.is_some() || more.r#for.is_some() || compiled.abort;
            if let Some(grace) = more.grace.as_ref().filter(|_| !is_watched) {
                let message = "`grace` leaves out the beginning of what is watched, and this threshold is judged once, over the whole run";
                let hint = "add `window`, `for` or `abort`, or give the beginning a phase of its own with `record: false`";
                sink.add_with_hint(grace.text.span, message, hint);
                good = false;
            }
            if Duration::from_nanos(compiled.window_ns) > LONGEST_WINDOW {
                let span = more.window.as_ref().map_or(more.span, |window| window.text.span);
                sink.add_with_hint(
                    span,
                    "a window is at most 10 minutes long",
                    "leave it out for the whole run",
                );
                good = false;
            }
        }
        // A phase that is not carried out this time has no figures, and that is no failure.
        if good && parsed.phase.as_ref().is_none_or(carried_out) {
            out.push(compiled);
        }
    }
    out
}

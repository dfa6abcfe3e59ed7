//! A run while it goes on: bars on a terminal, a plain line every few seconds otherwise.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use loadgrid_common::units::show_duration;
use loadgrid_common::wire::pb;

use crate::output::say;

/// How often a plain line comes.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Progress {
    form: Form,
    warned: usize,
}

enum Form {
    Quiet,
    Bars { all: MultiProgress, phases: Vec<ProgressBar>, note: ProgressBar },
    Lines { last: Option<Instant>, state: pb::RunState, phase: usize },
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let form = if quiet {
            Form::Quiet
        } else if std::io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let note = all.add(ProgressBar::new_spinner());
            note.set_style(style("{spinner} {msg}"));
            note.enable_steady_tick(Duration::from_millis(120));
            Form::Bars { all, phases: Vec::new(), note }
        } else {
            Form::Lines { last: None, state: pb::RunState::Unspecified, phase: 0 }
        };
        Self { form, warned: 0 }
    }

    /// Shows how far the run is.
    pub(crate) fn show(&mut self, update: &pb::RunUpdate) {
        let warnings = update.warnings.iter().skip(self.warned);
        self.warned = update.warnings.len().max(self.warned);
        match &mut self.form {
            Form::Quiet => {}
            Form::Bars { all, phases, note } => {
                warnings.for_each(|warning| {
                    if all.println(format!("warning: {warning}")).is_err() {
                        tracing::debug!("the terminal is gone");
                    }
                });
                bars(all, phases, note, update);
            }
            Form::Lines { last, state, phase } => {
                warnings.for_each(|warning| say(format_args!("warning: {warning}")));
                let current = update.phases.iter().filter(|phase| phase.started).count();
                let news = *state != update.state() || *phase != current;
                if news || last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
                    *last = Some(Instant::now());
                    (*state, *phase) = (update.state(), current);
                    line(update);
                }
            }
        }
    }

    /// Clears what was drawn.
    pub(crate) fn finish(&mut self) {
        if let Form::Bars { all, phases, note } = &self.form {
            note.finish_and_clear();
            phases.iter().for_each(ProgressBar::finish_and_clear);
            if all.clear().is_err() {
                tracing::debug!("the terminal is gone");
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template of ours; the default serves where it is not understood.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

fn bars(all: &MultiProgress, phases: &mut Vec<ProgressBar>, note: &ProgressBar, update: &pb::RunUpdate) {
    let state = match update.state() {
        pb::RunState::Running => format!(
            "{} workers, {}{}",
            update.workers_live,
            show_duration(Duration::from_secs(update.elapsed_ns / 1_000_000_000)),
            thresholds(update)
        ),
        _ => update.note.clone(),
    };
    note.set_message(state);
    let width = update.phases.iter().map(|phase| phase.name.chars().count()).max().unwrap_or(4).min(24);
    while phases.len() < update.phases.len() {
        let bar = all.add(ProgressBar::new(1_000));
        bar.set_style(style("{prefix} {bar:24} {msg}"));
        phases.push(bar);
    }
    for (bar, phase) in phases.iter().zip(&update.phases) {
        let name: String = phase.name.chars().take(width).collect();
        bar.set_prefix(format!("{name:width$}"));
        let done = if phase.ended {
            1_000
        } else {
            phase.elapsed_ns.saturating_mul(1_000) / phase.duration_ns.max(1)
        };
        bar.set_position(done.min(1_000));
        bar.set_message(if phase.started { figures(phase) } else { "-".to_owned() });
    }
}

/// How many thresholds hold so far; the first that does not, by name.
fn thresholds(update: &pb::RunUpdate) -> String {
    let all = update.thresholds.len();
    match update.thresholds.iter().find(|threshold| !threshold.passed) {
        _ if all == 0 => String::new(),
        None => format!(", all {all} thresholds hold"),
        Some(first) => {
            let failing = update.thresholds.iter().filter(|threshold| !threshold.passed).count();
            format!(", {failing} of {all} thresholds do not hold: {} is {}", first.threshold, first.observed)
        }
    }
}

fn figures(phase: &pb::PhaseProgress) -> String {
    let left = Duration::from_nanos(phase.duration_ns.saturating_sub(phase.elapsed_ns));
    let time = if phase.ended {
        "done".to_owned()
    } else {
        let at_most = if phase.ends_early { "at most " } else { "" };
        format!("{at_most}{} left", show_duration(Duration::from_secs(left.as_secs())))
    };
    let dropped = if phase.dropped > 0 { format!("  {} dropped", phase.dropped) } else { String::new() };
    if phase.ended {
        return format!("{} exchanges  {} failed{dropped}  {time}", phase.exchanges, phase.failed);
    }
    format!(
        "{} users  {:.0}/s  p95 {}  {} failed{dropped}  {time}",
        phase.users,
        phase.rate_per_s,
        show_duration(Duration::from_micros(phase.p95_us)),
        phase.failed
    )
}

fn line(update: &pb::RunUpdate) {
    let current = update.phases.iter().rev().find(|phase| phase.started && !phase.ended);
    match (update.state(), current) {
        (pb::RunState::Running, Some(phase)) => {
            let elapsed = show_duration(Duration::from_secs(update.elapsed_ns / 1_000_000_000));
            let (count, thresholds) = (phase.exchanges, thresholds(update));
            say(format_args!(
                "{elapsed:>6}  {}: {count} exchanges  {}{thresholds}",
                phase.name,
                figures(phase)
            ));
        }
        (pb::RunState::Running, None) | (pb::RunState::Ended, _) => {}
        _ if update.note.is_empty() => {}
        _ => say(&update.note),
    }
}

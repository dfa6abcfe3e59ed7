//! The report for people at a terminal: what matters first.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use loadgrid_common::units::show_duration;

use super::model::{Iterations, Outcome, Report, Times, Totals, ValidityStatus};

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    Plain,
    /// With ANSI colours.
    Colour,
}

const RED: &str = "\u{1b}[1;31m";
const GREEN: &str = "\u{1b}[1;32m";
const YELLOW: &str = "\u{1b}[1;33m";
const BOLD: &str = "\u{1b}[1m";
const RESET: &str = "\u{1b}[0m";

impl Style {
    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("{colour}{text}{RESET}"),
        }
    }
}

/// Renders the report.
#[must_use]
pub fn render(report: &Report, style: Style) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let written = (|| {
        headline(&mut out, report, style)?;
        thresholds(&mut out, report, style)?;
        totals(&mut out, report, style)?;
        steps(&mut out, report, style)?;
        ranking(&mut out, report, style)?;
        actions(&mut out, report, style)?;
        lives_and_observed(&mut out, report, style)?;
        statuses_and_errors(&mut out, report, style)?;
        resources(&mut out, report, style)?;
        trust(&mut out, report, style)
    })();
    debug_assert!(written.is_ok());
    out
}

/// Text from outside, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

fn title(out: &mut String, style: Style, text: &str) -> std::fmt::Result {
    writeln!(out, "\n{}", style.paint(BOLD, text))
}

fn headline(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    let verdict = &report.verdict;
    let (word, colour) = match verdict.outcome {
        Outcome::Passed => ("PASSED", GREEN),
        Outcome::Failed => ("FAILED", RED),
        Outcome::Invalid => ("INVALID", RED),
        Outcome::Incomplete => ("INCOMPLETE", RED),
        Outcome::Aborted => ("ABORTED", YELLOW),
    };
    let run = &report.run;
    let workers = workers(run.workers);
    let length = show_duration(round(Duration::from_micros(run.duration_us)));
    writeln!(
        out,
        "{}  {} against {} · {length} · {workers}",
        style.paint(colour, word),
        clean(&run.scenario),
        clean(&run.target)
    )?;
    if !run.labels.is_empty() {
        let labels = run.labels.iter().map(|(name, value)| format!("{}: {}", clean(name), clean(value)));
        writeln!(out, "  {}", labels.collect::<Vec<_>>().join(" · "))?;
    }
    for reason in &verdict.reasons {
        writeln!(out, "  {}", clean(reason))?;
    }
    for warning in &report.warnings {
        writeln!(out, "  {} {}", style.paint(YELLOW, "warning:"), clean(warning))?;
    }
    if report.validity.status == ValidityStatus::Suspect {
        for reason in &report.validity.reasons {
            writeln!(out, "  {} {}", style.paint(YELLOW, "suspect:"), clean(reason))?;
        }
    }
    Ok(())
}

fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn round(duration: Duration) -> Duration {
    if duration > Duration::from_secs(10) {
        Duration::from_millis(duration.as_millis() as u64 / 100 * 100)
    } else {
        duration
    }
}

fn thresholds(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    if report.thresholds.is_empty() {
        return Ok(());
    }
    title(out, style, "Thresholds")?;
    let width = report.thresholds.iter().map(|t| t.threshold.chars().count()).max().unwrap_or(0).min(70);
    for threshold in &report.thresholds {
        let mark = if threshold.passed { style.paint(GREEN, "✓") } else { style.paint(RED, "✗") };
        writeln!(out, "  {mark} {:width$}  {}", clean(&threshold.threshold), clean(&threshold.observed))?;
    }
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if place == 0 { 2 } else { 1 }, 1));
        if place > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn write_table(out: &mut String, table: &Table) -> std::fmt::Result {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

/// A time; `-` where there are too few samples for the quantile to mean anything.
fn time(us: u64, count: u64, needed: u64) -> String {
    if count < needed { "-".to_owned() } else { show_duration(Duration::from_micros(us)) }
}

fn times(times: &Times) -> [String; 6] {
    let n = times.count;
    [
        time(times.p50_us, n, 1),
        time(times.p90_us, n, 10),
        time(times.p95_us, n, 20),
        time(times.p99_us, n, 100),
        time(times.p99_9_us, n, 1_000),
        time(times.max_us, n, 1),
    ]
}

/// Quantiles that lie among dropped arrivals are at least the maximum: nobody knows more.
fn with_drops(mut cells: [String; 6], totals: &Totals, iterations: &Iterations) -> [String; 6] {
    let offered = iterations.started + iterations.dropped;
    if offered == 0 || totals.response_time.count == 0 {
        return cells;
    }
    let dropped = iterations.dropped as f64 / offered as f64;
    let max = show_duration(Duration::from_micros(totals.response_time.max_us));
    for (cell, q) in cells.iter_mut().zip([0.5, 0.9, 0.95, 0.99, 0.999, 1.0]) {
        if dropped > 1.0 - q {
            *cell = format!("≥{max}");
        }
    }
    cells
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part == 0 {
        return if part == 0 { "0%".to_owned() } else { "-".to_owned() };
    }
    let share = part as f64 / whole as f64 * 100.0;
    if share < 0.01 { "<0.01%".to_owned() } else { format!("{share:.2}%") }
}

fn rate(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}/s") } else { format!("{value:.1}/s") }
}

fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c >= 1e9 => format!("{:.2} GB", c / 1e9),
        c if c >= 1e6 => format!("{:.1} MB", c / 1e6),
        c if c >= 1e3 => format!("{:.1} kB", c / 1e3),
        c => format!("{c:.0} B"),
    }
}

/// The iterations of the phases that belong to the totals.
fn recorded_iterations(report: &Report) -> Iterations {
    let recorded = report.phases.iter().filter(|phase| phase.recorded).map(|phase| phase.iterations);
    let none = Iterations { planned: Some(0), ..Iterations::default() };
    recorded.fold(none, |sum, phase| Iterations {
        planned: sum.planned.zip(phase.planned).map(|(a, b)| a + b),
        started: sum.started + phase.started,
        dropped: sum.dropped + phase.dropped,
        never_started: sum.never_started + phase.never_started,
        ok: sum.ok + phase.ok,
        failed: sum.failed + phase.failed,
        unknown: sum.unknown + phase.unknown,
    })
}

fn totals(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    title(out, style, "Totals")?;
    let (totals, iterations) = (&report.totals, &recorded_iterations(report));
    writeln!(
        out,
        "  {} exchanges, {}, {} failed ({})",
        totals.exchanges,
        rate(totals.exchanges_per_s),
        totals.failed,
        percent(totals.failed, totals.exchanges)
    )?;
    let planned = iterations.planned.map_or_else(String::new, |planned| format!("{planned} planned, "));
    write!(out, "  {planned}{} iterations started ({})", iterations.started, rate(totals.offered_per_s))?;
    if iterations.dropped > 0 {
        write!(
            out,
            ", {}",
            style.paint(YELLOW, &format!("{} dropped: no virtual user was free in time", iterations.dropped))
        )?;
    }
    if iterations.never_started > 0 {
        write!(out, ", {} never started", iterations.never_started)?;
    }
    if iterations.unknown > 0 {
        write!(out, ", {} of unknown outcome", iterations.unknown)?;
    }
    writeln!(out, "\n  {} sent, {} received", bytes(totals.bytes_sent), bytes(totals.bytes_received))?;
    let mut table = table(&["", "p50", "p90", "p95", "p99", "p99.9", "max", "mean"]);
    for (name, figures) in [("response time", &totals.response_time), ("service time", &totals.service_time)]
    {
        let mut cells = times(figures);
        if name == "response time" {
            cells = with_drops(cells, totals, iterations);
        }
        let mean = time(figures.mean_us, figures.count, 1);
        table.add_row([name.to_owned()].into_iter().chain(cells).chain([mean]).collect::<Vec<_>>());
    }
    write_table(out, &table)
}

fn steps(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    let many = report.phases.len() > 1;
    for phase in &report.phases {
        let heading = if many { format!("Phase {}", clean(&phase.name)) } else { "Steps".to_owned() };
        let heading = if phase.recorded { heading } else { format!("{heading}, not part of the totals") };
        if !phase.started {
            title(out, style, &heading)?;
            writeln!(out, "  did not begin")?;
            continue;
        }
        title(out, style, &format!("{heading}  (response time)"))?;
        let mut table =
            table(&["step", "count", "rate", "failed", "p50", "p90", "p95", "p99", "p99.9", "max"]);
        let seconds = phase.duration_us as f64 / 1e6;
        let per_second =
            |count: u64| if seconds > 0.0 { rate(count as f64 / seconds) } else { "-".to_owned() };
        for step in &phase.steps {
            let head = [
                short(&step_name(step), 44),
                step.exchanges.to_string(),
                per_second(step.exchanges),
                percent(step.failed, step.exchanges),
            ];
            table.add_row(head.into_iter().chain(times(&step.response_time)).collect::<Vec<_>>());
        }
        if phase.steps.len() > 1 || phase.iterations.dropped > 0 {
            let totals = &phase.totals;
            let head = [
                "all".to_owned(),
                totals.exchanges.to_string(),
                rate(totals.exchanges_per_s),
                percent(totals.failed, totals.exchanges),
            ];
            let cells = with_drops(times(&totals.response_time), totals, &phase.iterations);
            table.add_row(head.into_iter().chain(cells).collect::<Vec<_>>());
        }
        write_table(out, &table)?;
        if !phase.groups.is_empty() {
            groups(out, phase)?;
        }
        for step in phase.steps.iter().filter(|step| step.retries > 0) {
            let again = if step.retries == 1 { "once" } else { "times" };
            let times = if step.retries == 1 { String::new() } else { format!("{} ", step.retries) };
            writeln!(out, "  {} was tried again {times}{again}", step_name(step))?;
        }
        for step in phase.steps.iter().filter(|step| step.cap_wait.max_us > 1_000) {
            let wait = &step.cap_wait;
            writeln!(
                out,
                "  {} waited for its cap: p50 {}, p95 {}, max {} (no part of the response time)",
                step_name(step),
                time(wait.p50_us, wait.count, 1),
                time(wait.p95_us, wait.count, 20),
                time(wait.max_us, wait.count, 1)
            )?;
        }
    }
    Ok(())
}

/// A step with its group.
fn step_name(step: &super::model::Step) -> String {
    match &step.group {
        Some(group) => format!("{} › {}", clean(group), clean(&step.step)),
        None => clean(&step.step),
    }
}

fn groups(out: &mut String, phase: &super::model::Phase) -> std::fmt::Result {
    let mut table = table(&["group", "count", "failed", "p50", "p90", "p95", "p99", "p99.9", "max"]);
    for group in &phase.groups {
        let all = group.ok + group.failed;
        let head = [short(&clean(&group.group), 44), all.to_string(), percent(group.failed, all)];
        table.add_row(head.into_iter().chain(times(&group.duration)).collect::<Vec<_>>());
    }
    write_table(out, &table)
}

/// Lives of users, and the scenario's own distributions.
fn lives_and_observed(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    if !report.lives.is_empty() {
        title(out, style, "Users' lives")?;
        let mut table =
            table(&["user", "begun", "ok", "failed", "cut off", "p50", "p95", "max", "actions (mean)"]);
        for lives in &report.lives {
            let ended = lives.ok + lives.failed;
            let span = |ms: u64| match ended {
                0 => "-".to_owned(),
                _ => show_duration(Duration::from_millis(ms)),
            };
            table.add_row(vec![
                short(&clean(&lives.user), 44),
                lives.begun.to_string(),
                lives.ok.to_string(),
                lives.failed.to_string(),
                lives.unknown.to_string(),
                span(lives.duration_p50_ms),
                span(lives.duration_p95_ms),
                span(lives.duration_max_ms),
                if ended > 0 { number(lives.actions.mean) } else { "-".to_owned() },
            ]);
        }
        write_table(out, &table)?;
        for lives in &report.lives {
            for (counter, o) in &lives.counters {
                writeln!(
                    out,
                    "  {} in a life of {}: mean {}, p50 {}, p95 {}, max {}",
                    clean(counter),
                    clean(&lives.user),
                    number(o.mean),
                    number(o.p50),
                    number(o.p95),
                    number(o.max)
                )?;
            }
        }
    }
    if !report.observed.is_empty() {
        title(out, style, "Observed values")?;
        let mut table = table(&["", "count", "min", "mean", "p50", "p90", "p95", "p99", "max"]);
        for (name, o) in &report.observed {
            let cells = [o.min, o.mean, o.p50, o.p90, o.p95, o.p99, o.max].map(number);
            let head = [short(&clean(name), 44), o.count.to_string()];
            table.add_row(head.into_iter().chain(cells).collect::<Vec<_>>());
        }
        write_table(out, &table)?;
    }
    Ok(())
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn short(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let head: String = text.chars().take(width - 1).collect();
    format!("{head}…")
}

fn ranking(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    if report.ranking.len() < 2 {
        return Ok(());
    }
    title(out, style, "Where users waited")?;
    for rank in report.ranking.iter().take(5) {
        let mean = show_duration(Duration::from_micros(rank.mean_us));
        writeln!(
            out,
            "  {:>5.1}%  {}  (mean {mean})",
            rank.share_of_time * 100.0,
            short(&clean(&rank.step), 60)
        )?;
    }
    Ok(())
}

fn actions(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    let all: u64 = report.actions.iter().map(|action| action.chosen).sum();
    if all > 0 {
        title(out, style, "Actions")?;
        let mut table = table(&["action", "count", "share", "failed"]);
        for action in &report.actions {
            table.add_row(vec![
                short(&clean(&action.action), 44),
                action.chosen.to_string(),
                percent(action.chosen, all),
                percent(action.failed, action.chosen),
            ]);
        }
        write_table(out, &table)?;
    }
    if !report.counters.is_empty() {
        title(out, style, "Counters")?;
        for (name, counter) in &report.counters {
            writeln!(out, "  {}: {} (counted {} times)", clean(name), counter.sum, counter.count)?;
        }
    }
    Ok(())
}

fn statuses_and_errors(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    let mut statuses = std::collections::BTreeMap::<&str, u64>::new();
    let mut errors = Vec::<(&str, &str, u64, bool)>::new();
    for step in report.phases.iter().flat_map(|phase| &phase.steps) {
        step.status_codes.iter().for_each(|(status, count)| *statuses.entry(status).or_default() += count);
        errors.extend(
            step.errors.iter().map(|(kind, &count)| (kind.as_str(), step.step.as_str(), count, false)),
        );
        errors.extend(
            step.generator_errors
                .iter()
                .map(|(kind, &count)| (kind.as_str(), step.step.as_str(), count, true)),
        );
    }
    if !statuses.is_empty() {
        title(out, style, "Status codes")?;
        let list: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        writeln!(out, "  {}", list.join("   "))?;
    }
    if !errors.is_empty() {
        title(out, style, "Errors")?;
        errors.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.cmp(b)));
        for (kind, step, count, ours) in errors.iter().take(20) {
            let whose = if *ours { "  (the generator's own)" } else { "" };
            writeln!(out, "  {count:>7}  {}  {}{whose}", style.paint(RED, kind), short(&clean(step), 60))?;
        }
        if errors.len() > 20 {
            writeln!(out, "  … and {} more kinds", errors.len() - 20)?;
        }
    }
    checks(out, report, style)
}

/// Every check, those that failed first.
fn checks(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    const MOST: usize = 40;
    if report.checks.is_empty() {
        return Ok(());
    }
    title(out, style, "Checks")?;
    let mut checks: Vec<_> = report.checks.iter().collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.failed));
    for check in checks.iter().take(MOST) {
        let (name, all) = (short(&clean(&check.check), 70), check.passed + check.failed);
        if check.failed > 0 {
            let share = percent(check.failed, all);
            let mark = style.paint(RED, "✗");
            writeln!(out, "  {mark} {name}  failed {} of {all} ({share})", check.failed)?;
        } else {
            writeln!(out, "  {} {name}  passed {all}", style.paint(GREEN, "✓"))?;
        }
    }
    if checks.len() > MOST {
        writeln!(out, "  … and {} more", checks.len() - MOST)?;
    }
    Ok(())
}

fn resources(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    if report.resources.workers.is_empty() {
        return Ok(());
    }
    title(out, style, "Workers")?;
    let mut table = table(&[
        "worker",
        "threads",
        "iterations",
        "exchanges",
        "cpu mean",
        "cpu max",
        "memory",
        "descriptors",
    ]);
    for worker in &report.ledger.workers {
        let used = report.resources.workers.iter().find(|used| used.worker == worker.worker);
        let cell = |show: &dyn Fn(&super::model::WorkerResources) -> String| {
            used.map_or_else(|| "-".to_owned(), show)
        };
        let name =
            if worker.lost { format!("{} (lost)", clean(&worker.worker)) } else { clean(&worker.worker) };
        table.add_row(vec![
            name,
            cell(&|used| used.threads.to_string()),
            worker.iterations_started.to_string(),
            worker.exchanges_sent.to_string(),
            cell(&|used| format!("{:.0}%", used.cpu_mean_percent)),
            cell(&|used| format!("{:.0}%", used.cpu_max_percent)),
            cell(&|used| bytes(used.rss_max_bytes)),
            cell(&|used| used.open_descriptors_max.to_string()),
        ]);
    }
    write_table(out, &table)
}

fn trust(out: &mut String, report: &Report, style: Style) -> std::fmt::Result {
    title(out, style, "Can this be trusted?")?;
    let validity = &report.validity;
    let (word, colour) = match validity.status {
        ValidityStatus::Valid => ("valid", GREEN),
        ValidityStatus::Suspect => ("suspect", YELLOW),
        ValidityStatus::Invalid => ("invalid", RED),
    };
    let ledger = &report.ledger;
    let closes =
        if ledger.closes { style.paint(GREEN, "closes") } else { style.paint(RED, "does not close") };
    writeln!(out, "  result {}, ledger {closes}", style.paint(colour, word))?;
    for gap in &ledger.gaps {
        writeln!(out, "  {}", clean(gap))?;
    }
    let i = &ledger.iterations;
    if let Some(planned) = i.planned {
        writeln!(
            out,
            "  iterations  {planned} planned = {} started + {} dropped + {} never started",
            i.started, i.dropped, i.never_started
        )?;
    }
    writeln!(
        out,
        "  iterations  {} started = {} ok + {} failed + {} unknown",
        i.started, i.ok, i.failed, i.unknown
    )?;
    let e = &ledger.exchanges;
    writeln!(
        out,
        "  exchanges   {} sent = {} ok + {} failed + {} unknown",
        e.sent, e.ok, e.failed, e.unknown
    )?;
    let late = &report.totals.lateness;
    if i.planned.is_some() && late.count > 0 {
        writeln!(
            out,
            "  generator   late by p50 {}, p99 {}, max {}",
            time(late.p50_us, late.count, 1),
            time(late.p99_us, late.count, 100),
            time(late.max_us, late.count, 1)
        )?;
    }
    let workers = workers(report.run.workers);
    writeln!(
        out,
        "  start       skew {} over {workers}, clocks known to ± {}; seed {}; run {}",
        show_duration(Duration::from_micros(report.run.start_skew_us)),
        show_duration(Duration::from_micros(report.run.clock_uncertainty_us)),
        report.run.seed,
        clean(&report.run.id)
    )
}

//! The coordinator under many workers: its cost, and the ledger to the exchange.

use std::path::Path;
use std::time::Duration;

use loadgrid_e2e::{Child, Grid};

/// Processor seconds and resident bytes of a process.
fn cost(id: u32) -> (f64, u64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<i64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    // Behind the name and the state: utime and stime are the 10th and 11th number, in ticks of 10 ms.
    let ticks: i64 = fields.get(10).copied().unwrap_or(0) + fields.get(11).copied().unwrap_or(0);
    let pages: u64 = read("statm").split_whitespace().nth(1).and_then(|f| f.parse().ok()).unwrap_or(0);
    (ticks as f64 / 100.0, pages * 4096)
}

/// 20 workers for 4 s; `scripts/verify` has 100 workers × 20 series × 30 s.
#[test]
fn the_ledger_is_exact_under_a_swarm() {
    let (workers, seconds) = if std::env::var_os("LOADGRID_LONG").is_some() { (100, 30) } else { (20, 4) };
    let grid = Grid::start(0);
    let count = workers.to_string();
    let swarm = Child::start(
        "swarm",
        Path::new(env!("CARGO_BIN_EXE_swarm")),
        &["--coordinator", &grid.address, "--workers", &count],
    );
    let steps: Vec<String> =
        (0..10).map(|step| format!("get: {{ url: /{step}, name: step-{step} }}")).collect();
    let scenario = format!(
        "version: 1\ntarget: http://127.0.0.1:9\nsteps: [ {} ]\nload: {{ vus: {workers}, for: {seconds}s }}\n",
        steps.join(", ")
    );
    let (before, _) = cost(grid.coordinator.id());
    let (submit, json) = grid.submit(&scenario, &["--expect-workers", &count]);
    let mut highest = 0;
    let mut child = submit;
    while child.is_running() {
        highest = highest.max(cost(grid.coordinator.id()).1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let finished = Grid::finish(child, &json);
    let (after, _) = cost(grid.coordinator.id());
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    let (status, stdout, log) = swarm.wait(Duration::from_secs(30));
    assert!(status.success(), "{log}");
    let said: serde_json::Value = serde_json::from_str(&stdout).expect("the swarm says what it sent");
    assert_eq!(said["exchanges_sent"], finished.report["ledger"]["exchanges"]["sent"]);
    assert_eq!(finished.report["ledger"]["closes"], true);
    assert_eq!(finished.report["ledger"]["workers"].as_array().map(Vec::len), Some(workers));
    println!(
        "{workers} workers × 20 series × 1/s for {seconds} s: {} exchanges; the coordinator took {:.2} s of processor time and at most {} MB",
        said["exchanges_sent"],
        after - before,
        highest / 1_000_000
    );
}

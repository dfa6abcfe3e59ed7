//! The product's reason: a server that freezes whole for a second in every five. In an open model a fifth
//! of the arrivals wait, evenly up to a second, so p90, p95 and p99 of the response time are 500, 750 and
//! 950 ms and what the server needs to catch up. Service time and drops are shown apart.

use loadgrid_e2e::{Demo, Finished, run_local, truth};

fn run(more: &str) -> (Finished, serde_json::Value) {
    let demo = Demo::start(&["--stall", "every=5s,for=1s"]);
    let scenario = format!(
        "version: 1
target: {}
steps: [ get: /api/health ]
phases: [ {{ name: main, load: [ constant-arrival-rate: {{ user: user, rate: 500/s, duration: 20s{more} }} ] }} ]
",
        demo.target
    );
    let finished = run_local(&scenario, &["--workers", "1", "--threads", "1"]);
    let truth = truth(&demo.target);
    (finished, truth)
}

#[test]
fn a_freeze_is_shown_in_full() {
    let (finished, truth) = run("");
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    println!("{}", finished.stdout);
    assert_eq!(finished.number("/ledger/iterations/started"), 10_000);
    assert_eq!(truth["requests"], finished.report["ledger"]["exchanges"]["sent"]);
    // Four of the freezes fall into the run whole; a wide margin for the machine, and for the drain.
    for (pointer, expected_ms) in [("p90_us", 500.0), ("p95_us", 750.0), ("p99_us", 950.0)] {
        let observed = finished.number(&format!("/totals/response_time/{pointer}")) as f64 / 1e3;
        assert!(
            (expected_ms * 0.8..expected_ms * 1.3).contains(&observed),
            "{pointer}: {observed} ms for {expected_ms}"
        );
    }
}

#[test]
fn a_full_pool_drops_and_says_so() {
    let (finished, truth) = run(", max_vus: 64");
    println!("{}", finished.stdout);
    assert_eq!(truth["requests"], finished.report["ledger"]["exchanges"]["sent"]);
    let dropped = finished.number("/ledger/iterations/dropped");
    assert!((1_200..2_400).contains(&dropped), "about (500 − 64) × 4 arrivals find nobody free: {dropped}");
    assert_eq!(finished.number("/ledger/iterations/started") + dropped, 10_000);
    // Only the 64 that were caught saw the freeze, in each of four: 2.6 % of what was sent.
    let service_p95 = finished.number("/totals/service_time/p95_us");
    assert!(service_p95 < 100_000, "{service_p95}");
    assert!(finished.number("/totals/service_time/max_us") > 500_000);
    assert!(finished.stdout.contains("dropped: no virtual user was free"), "{}", finished.stdout);
    assert!(
        finished.stdout.contains('≥'),
        "quantiles among the dropped are at least the maximum: {}",
        finished.stdout
    );
}

//! The ledger against outside witnesses: what the report says was sent is what arrived, to the request.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_e2e::{Demo, Finished, Grid, Nginx, Witness, run_local, truth, wait_for};

/// Exchanges in the ledger, over the workers and in the witness's log are one number.
fn assert_same(finished: &Finished, seen: usize) {
    let sent = finished.number("/ledger/exchanges/sent");
    let by_workers: u64 = finished.report["ledger"]["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w["exchanges_sent"].as_u64().unwrap())
        .sum();
    assert_eq!(sent, seen as u64, "the witness saw another number\n{}", finished.stdout);
    assert_eq!(sent, by_workers);
    assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.report["ledger"]);
}

const STEPS: &str = "
users:
  visitor:
    loop:
      - get: /
      - get: { url: /twice, name: twice }      # two redirects: three exchanges
      - get: /b
      - choose:
          - { weight: 1, name: left, do: [ get: /a ] }
          - { weight: 1, name: right, do: [ get: /c, get: { url: /missing, expect: { status: 404 } } ] }
";

#[test]
fn nginx_logs_exactly_what_an_open_model_says_it_sent() {
    let nginx = Nginx::start().expect("nginx is installed by scripts/test");
    let grid = Grid::start(2);
    let scenario = format!(
        "version: 1\ntarget: {}\n{STEPS}\nphases:\n  - {{ name: ramp, load: [ ramping-arrival-rate: {{ stages: [ {{ to: 50/s, over: 2s }} ] }} ] }}\n  - {{ name: steady, load: [ constant-arrival-rate: {{ rate: 50/s, duration: 3s, arrivals: poisson }} ] }}\n",
        nginx.target
    );
    let finished = grid.run(&scenario, &[]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.number("/ledger/iterations/planned"), 50 + 150);
    assert_eq!(finished.number("/ledger/iterations/started"), 200);
    assert_same(&finished, nginx.requests().len());
}

#[test]
fn nginx_logs_exactly_what_a_closed_model_says_it_sent() {
    let nginx = Nginx::start().expect("nginx is installed by scripts/test");
    let grid = Grid::start(2);
    let scenario = format!(
        "version: 1\ntarget: {}\n{STEPS}\nphases:\n  - {{ name: ramp, load: [ ramping-vus: {{ stages: [ {{ to: 10, over: 1s }}, {{ to: 3, over: 1s }} ] }} ] }}\n  - {{ name: steady, load: [ constant-vus: {{ vus: 5, duration: 2s }} ] }}\n",
        nginx.target
    );
    let finished = grid.run(&scenario, &[]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert!(
        finished.report["ledger"]["iterations"]["planned"].is_null(),
        "planned is null for closed models"
    );
    assert!(finished.number("/ledger/exchanges/sent") > 1_000);
    assert_same(&finished, nginx.requests().len());
}

#[test]
fn a_run_that_is_interrupted_half_way_is_counted_to_the_request() {
    let nginx = Nginx::start().expect("nginx is installed by scripts/test");
    let grid = Grid::start(2);
    let scenario = format!(
        "version: 1\ntarget: {}\nsteps: [ get: /, get: /moved ]\nload: {{ rate: 100/s, for: 60s }}\n",
        nginx.target
    );
    let (submit, json) = grid.submit(&scenario, &[]);
    wait_for("load to flow", Duration::from_secs(30), || submit.log().contains("exchanges").then_some(()));
    std::thread::sleep(Duration::from_millis(700));
    submit.signal("INT");
    let finished = Grid::finish(submit, &json);
    assert_eq!(finished.code, 105, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.report["verdict"]["outcome"], "aborted");
    assert_eq!(finished.number("/ledger/iterations/planned"), 6_000);
    assert!(finished.number("/ledger/iterations/never_started") > 3_000);
    assert_eq!(finished.number("/ledger/exchanges/unknown"), 0, "what was under way was waited for");
    assert_same(&finished, nginx.requests().len());
}

#[test]
fn the_demo_counts_what_the_report_says_by_route_and_status() {
    let demo = Demo::start(&["--decline", "20%"]);
    let scenario = format!(
        "version: 1
target: {}
data: {{ account: {{ generate: {{ rows: 50, columns: {{ email: \"user${{row}}@shop.test\", password: \"pw-${{row}}\" }} }} }} }}
users:
  buyer:
    data: [ account ]
    start:
      - post: {{ url: /api/auth/login, name: login, json: {{ email: \"${{account.email}}\", password: \"${{account.password}}\" }}, capture: {{ token: $.token }}, required: true }}
      - headers: {{ authorization: \"Bearer ${{token}}\" }}
    loop:
      - get: /api/products
      - post: {{ url: /api/payment/stripe/create-intent, name: pay, json: {{ amount: 5 }}, expect: {{ status: [ 201, 402 ] }} }}
    stop:
      - post: {{ url: /api/auth/logout, name: logout, expect: {{ status: 204 }} }}
phases: [ {{ name: main, load: [ constant-vus: {{ vus: 8, duration: 3s }} ] }} ]
",
        demo.target
    );
    let finished = run_local(&scenario, &["--workers", "2"]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    let truth = truth(&demo.target);
    assert_eq!(truth["requests"], finished.report["ledger"]["exchanges"]["sent"]);
    let mut said = BTreeMap::new();
    for step in finished.report["phases"][0]["steps"].as_array().unwrap() {
        said.insert(step["step"].as_str().unwrap().to_owned(), step["status_codes"].clone());
    }
    assert_eq!(said["login"], serde_json::json!({ "200": 8 }));
    assert_eq!(said["logout"], serde_json::json!({ "204": 8 }));
    assert_eq!(said["pay"], truth["routes"]["POST /api/payment/stripe/create-intent"]);
    assert_eq!(said["GET /api/products"], truth["routes"]["GET /api/products"]);
    assert!(said["pay"]["402"].as_u64().unwrap() > 0, "cards were declined");
}

/// 300/s for 4 s on 1, 2, 3 and 4 workers; `scripts/verify` has the long form.
#[test]
fn every_planned_arrival_starts_once_on_any_number_of_workers() {
    let (rate, seconds) = match std::env::var_os("LOADGRID_LONG") {
        Some(_) => (1_000, 20),
        None => (300, 4),
    };
    for workers in 1..=4 {
        let witness = Witness::start();
        let grid = Grid::start(workers);
        let scenario = format!(
            "version: 1\ntarget: {}\nsteps: [ get: \"/n/${{iteration}}\" ]\nload: {{ rate: {rate}/s, for: {seconds}s }}\n",
            witness.target
        );
        let finished = grid.run(&scenario, &[]);
        assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
        let mut numbers: Vec<u64> = witness
            .seen()
            .iter()
            .map(|seen| seen.request.rsplit('/').next().unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..rate * seconds).collect::<Vec<u64>>(), "{workers} workers");
        assert!(finished.number("/run/start_skew_us") < 100_000, "{}", finished.report["run"]);
        println!(
            "{workers} workers: {} started, skew {} us",
            numbers.len(),
            finished.number("/run/start_skew_us")
        );
    }
}

#[test]
fn the_same_seed_sends_the_same_on_one_and_four_workers() {
    let sent = |workers: usize, seed: &str| {
        let witness = Witness::start();
        let grid = Grid::start(workers);
        let scenario = format!(
            "version: 1
target: {}
steps:
  - choose:
      - {{ weight: 3, do: [ post: {{ url: /three, json: {{ arrival: \"${{iteration}}\", draw: \"${{int(1, 1000000)}}\" }} }} ] }}
      - {{ weight: 1, do: [ post: {{ url: /one, json: {{ arrival: \"${{iteration}}\", draw: \"${{int(1, 1000000)}}\" }} }} ] }}
  - get: \"/after/${{iteration}}?${{int(0, 99)}}\"
load: {{ rate: 100/s, for: 2s }}
",
            witness.target
        );
        let finished = grid.run(&scenario, &["--seed", seed]);
        assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
        let mut seen: Vec<(String, String)> =
            witness.seen().into_iter().map(|seen| (seen.request, seen.body)).collect();
        seen.sort();
        seen
    };
    let one = sent(1, "7");
    assert_eq!(one.len(), 400);
    assert_eq!(one, sent(4, "7"));
    assert_ne!(one, sent(1, "8"), "another seed is another test");
}

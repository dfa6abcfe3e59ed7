//! What lives how long: setup and teardown, users over phases, rows, caps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadgrid_e2e::{Answer, Finished, Grid, Seen, Witness, run_local, wait_for};

fn scenario(witness: &Witness, rest: &str) -> String {
    format!(
        "version: 1\ntarget: {}\nhttp: {{ headers: {{ x-user: \"${{user.index}}\" }} }}\n{rest}",
        witness.target
    )
}

fn passed(finished: &Finished) {
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.stdout);
}

const AROUND: &str = "setup: [ post: { url: /setup, json: { size: 3 }, capture: { batch: $.batch } } ]
teardown: [ delete: \"/setup/${setup.batch}\" ]
users: { u: { loop: [ get: \"/x?batch=${setup.batch}\", think: 5ms ], stop: [ get: /out ] } }
phases:
  - { name: one, load: [ constant-vus: { vus: 6, duration: 500ms } ] }
  - { name: two, load: [ constant-vus: { vus: 6, duration: LONG } ] }
";

fn batch() -> Witness {
    Witness::answering(|seen| match seen.request.as_str() {
        "POST /setup" => Answer::new(201, "{\"batch\": \"b-77\"}").after(Duration::from_millis(200)),
        _ => Answer::default(),
    })
}

/// Setup is the first thing that was seen, and once; teardown the last, and once; between them everything else.
fn surrounded(seen: &[Seen]) {
    let requests: Vec<&str> = seen.iter().map(|seen| seen.request.as_str()).collect();
    assert_eq!(requests.first(), Some(&"POST /setup"));
    assert_eq!(requests.last(), Some(&"DELETE /setup/b-77"));
    let inner = &requests[1..requests.len() - 1];
    assert!(
        inner.len() > 20
            && inner.iter().all(|request| *request == "GET /x?batch=b-77" || *request == "GET /out")
    );
}

#[test]
fn setup_runs_once_and_teardown_after_everything() {
    for workers in [1, 3] {
        let witness = batch();
        let grid = Grid::start(workers);
        let finished = grid.run(&scenario(&witness, &AROUND.replace("LONG", "500ms")), &[]);
        passed(&finished);
        surrounded(&witness.seen());
        // Both have rows of their own, and are no part of the totals.
        let phases = finished.report["phases"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
        assert_eq!(names, ["setup", "one", "two", "teardown"]);
        assert_eq!(finished.number("/totals/exchanges"), witness.seen().len() as u64 - 2);
        assert_eq!(finished.number("/ledger/exchanges/sent"), witness.seen().len() as u64);
    }
}

#[test]
fn teardown_follows_an_interrupt_and_an_abort() {
    for (signals, code) in [(1, 105), (2, 105)] {
        let witness = batch();
        let grid = Grid::start(3);
        let (child, json) = grid.submit(&scenario(&witness, &AROUND.replace("LONG", "60s")), &[]);
        wait_for("load", Duration::from_secs(20), || (witness.seen().len() > 60).then_some(()));
        for _ in 0..signals {
            child.signal("INT");
            std::thread::sleep(Duration::from_millis(30));
        }
        let finished = Grid::finish(child, &json);
        assert_eq!(finished.code, code, "{}\n{}", finished.stdout, finished.stderr);
        surrounded(&witness.seen());
        assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.stdout);
    }
}

#[test]
fn teardown_follows_a_stop_through_the_api_and_a_threshold_that_aborts() {
    let witness = batch();
    let text = AROUND.replace("LONG", "60s")
        + "thresholds: [ { threshold: \"count(exchanges, phase=two) < 50\", abort: true } ]\n";
    let finished = Grid::start(2).run(&scenario(&witness, &text), &[]);
    assert_eq!(finished.code, 99, "{}\n{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("a threshold ended the run"), "{}", finished.stdout);
    surrounded(&witness.seen());
    assert!(finished.number("/run/duration_us") < 30_000_000);
}

#[test]
fn a_setup_that_fails_sends_no_load_and_is_torn_down() {
    let witness = Witness::answering(|seen| match seen.request.as_str() {
        "POST /setup" => Answer::new(500, "no"),
        _ => Answer::default(),
    });
    let text = AROUND.replace("LONG", "1s").replace("/setup/${setup.batch}\"", "/setup/all\"");
    let finished = run_local(&scenario(&witness, &text), &[]);
    assert_eq!(finished.code, 107, "{}\n{}", finished.stdout, finished.stderr);
    assert!(
        finished.stdout.contains("setup failed") && finished.stdout.contains("status 500"),
        "{}",
        finished.stdout
    );
    let requests: Vec<String> = witness.seen().into_iter().map(|seen| seen.request).collect();
    assert_eq!(requests, ["POST /setup", "DELETE /setup/all"]);
}

#[test]
fn users_live_on_in_a_phase_that_continues() {
    let logins = AtomicU64::new(0);
    let witness = Witness::answering(move |seen| match seen.request.as_str() {
        "POST /login" => {
            let n = logins.fetch_add(1, Ordering::Relaxed);
            let cookie = ("set-cookie", format!("sid=c{}; Path=/", seen.number("x-user")));
            Answer { headers: vec![cookie], ..Answer::new(200, format!("{{\"token\": \"t{n}\"}}")) }
        }
        _ => Answer::new(200, "{}"),
    });
    let rest = "users:
  u:
    start: [ post: { url: /login, capture: { token: $.token } } ]
    loop: [ get: \"/one?t=${token}\", think: 20ms ]
    stop: [ get: /out ]
phases:
  - { name: one, load: [ ramping-vus: { start: 8, stages: [ { to: 8, over: 400ms } ] } ] }
  - { name: two, continues: one, load: [ paced: { rate: 60/s, duration: 1s } ] }
  - { name: three, continues: two, load: [ constant-vus: { vus: 5, duration: 400ms } ] }
  - { name: four, load: [ constant-vus: { vus: 2, duration: 300ms } ] }
";
    let finished = Grid::start(3).run(&scenario(&witness, rest), &[]);
    passed(&finished);
    let seen = witness.seen();
    let first_out = seen.iter().position(|seen| seen.request == "GET /out").expect("users leave");
    let logins: Vec<&Seen> = seen.iter().filter(|seen| seen.request == "POST /login").collect();
    assert_eq!(logins.len(), 8 + 2, "once for each user of the first three phases, and of the last");
    let mut by_user = BTreeMap::<u64, BTreeSet<(String, String, u16)>>::new();
    for seen in seen[..first_out].iter().filter(|seen| seen.request.starts_with("GET /one")) {
        let who = (seen.request.clone(), seen.header("cookie").to_owned(), seen.peer.port());
        by_user.entry(seen.number("x-user")).or_default().insert(who);
    }
    assert_eq!(by_user.len(), 8);
    for (user, state) in by_user {
        assert_eq!(state.len(), 1, "user {user} keeps its variable, cookie and connection: {state:?}");
        assert!(state.iter().all(|(_, cookie, _)| *cookie == format!("sid=c{user}")));
    }
    let outs = seen.iter().filter(|seen| seen.request == "GET /out").count();
    assert_eq!(outs, 10, "every life ends in order, once");
    let lives = &finished.report["lives"][0];
    assert_eq!((lives["begun"].as_u64(), lives["ok"].as_u64()), (Some(10), Some(10)), "{lives}");
}

#[test]
fn users_that_wait_for_a_phase_leave_when_the_run_is_interrupted_before_it() {
    let witness = Witness::start();
    let rest = "users: { u: { start: [ get: /in ], loop: [ get: /x, think: 20ms ], stop: [ get: /out ] } }
phases:
  - { name: one, load: [ constant-vus: { vus: 4, duration: 300ms } ] }
  - { name: two, continues: one, settle: 60s, load: [ constant-vus: { vus: 4, duration: 1s } ] }
";
    let grid = Grid::start(2);
    let (child, json) = grid.submit(&scenario(&witness, rest), &[]);
    // The first phase is over when nobody has sent anything for longer than a think time by far.
    let mut last = (0, std::time::Instant::now());
    wait_for("the end of phase one", Duration::from_secs(20), || {
        let seen = witness.seen().len();
        if seen != last.0 {
            last = (seen, std::time::Instant::now());
        }
        (seen > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(())
    });
    child.signal("INT");
    let finished = Grid::finish(child, &json);
    assert_eq!(finished.code, 105, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!((witness.seen_of("GET /in").len(), witness.seen_of("GET /out").len()), (4, 4));
    assert_eq!(finished.number("/ledger/exchanges/sent"), witness.seen().len() as u64);
}

#[test]
fn users_that_wait_for_others_to_end_a_phase_leave_when_the_run_is_interrupted_in_it() {
    // User 0 is through with the phase at once, and lives on; user 1 is busy when the run is interrupted.
    let witness = Witness::answering(|seen| match seen.request.as_str() {
        "GET /x" if seen.number("x-user") == 1 => Answer::default().after(Duration::from_secs(3)),
        _ => Answer::default(),
    });
    let rest = "users: { u: { start: [ get: /in ], loop: [ get: /x ], stop: [ get: /out ] } }
phases:
  - { name: one, load: [ per-vu-iterations: { vus: 2, iterations: 1 } ] }
  - { name: two, continues: one, load: [ constant-vus: { vus: 2, duration: 1s } ] }
";
    let grid = Grid::start(2);
    let (child, json) = grid.submit(&scenario(&witness, rest), &[]);
    wait_for("user 1", Duration::from_secs(20), || {
        let busy = witness.seen_of("GET /in").len() == 2;
        (busy && !witness.seen_of("GET /x").is_empty()).then_some(())
    });
    child.signal("INT");
    let finished = Grid::finish(child, &json);
    assert_eq!(finished.code, 105, "{}\n{}", finished.stdout, finished.stderr);
    let count = |request| witness.seen_of(request).len();
    assert_eq!((count("GET /in"), count("GET /x"), count("GET /out")), (2, 2, 2));
    assert_eq!(finished.number("/ledger/exchanges/sent"), 6, "{}", finished.stdout);
    assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.stdout);
}

#[test]
fn a_run_that_its_scenario_ends_is_torn_down_to_the_last_step() {
    let witness = batch();
    let text = AROUND
        .replace("think: 5ms ]", "if: { when: iteration == 9, then: [ end: run ] }, think: 5ms ]")
        .replace("teardown: [ ", "teardown: [ think: 2500ms, ")
        .replace("LONG", "60s");
    // Longer than any snapshot interval: nothing cuts it.
    let finished = Grid::start(2).run(&scenario(&witness, &text), &[]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(witness.seen().last().map(|seen| seen.request.clone()).as_deref(), Some("DELETE /setup/b-77"));
    assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.stdout);
}

#[test]
fn a_setup_that_does_not_come_to_its_end_is_a_failed_one() {
    let witness = batch();
    let text = AROUND.replace("capture: { batch: $.batch } } ]", "capture: { batch: $.batch } }, end: run ]");
    let finished = run_local(&scenario(&witness, &text.replace("LONG", "1s")), &[]);
    assert_eq!(finished.code, 107, "{}\n{}", finished.stdout, finished.stderr);
    assert!(
        finished.stdout.contains("setup failed") && finished.stdout.contains("end: run"),
        "{}",
        finished.stdout
    );
    let requests: Vec<String> = witness.seen().into_iter().map(|seen| seen.request).collect();
    assert_eq!(requests, ["POST /setup", "DELETE /setup/b-77"], "what it made is cleared up");
}

#[test]
fn no_row_is_two_users_over_workers_and_phases() {
    let witness = Witness::start();
    let rest = "data: { account: { generate: { rows: 400, columns: { email: \"u${row}@x\" } } } }
users:
  a: { data: [ account ], loop: [ get: { url: /x, headers: { x-row: \"${account.email}\", x-kind: a } } ] }
  b: { data: [ account ], loop: [ get: { url: /x, headers: { x-row: \"${account.email}\", x-kind: b } } ] }
phases:
  - name: one
    load: [ constant-vus: { user: a, vus: 50, duration: 500ms }, at-once: { user: b, vus: 30 }, at-once: { user: a, vus: 20 } ]
  - name: two
    load: [ constant-arrival-rate: { user: a, rate: 200/s, duration: 1s, max_vus: 80 }, per-vu-iterations: { user: b, vus: 60, iterations: 2 } ]
";
    passed(&Grid::start(3).run(&scenario(&witness, rest), &[]));
    let mut owners = BTreeMap::<String, BTreeSet<(String, u64)>>::new();
    for seen in witness.seen() {
        let owner = (seen.header("x-kind").to_owned(), seen.number("x-user"));
        owners.entry(seen.header("x-row").to_owned()).or_default().insert(owner);
    }
    assert!(owners.len() > 100, "{}", owners.len());
    assert!(owners.values().all(|owners| owners.len() == 1), "{owners:?}");
}

#[test]
fn a_cap_holds_in_every_window() {
    // The long form is the contract: 600 a minute, watched for more than two minutes.
    let long = std::env::var_os("LOADGRID_LONG").is_some();
    let (cap, count, window, length) = if long { ("600/m", 600, 60, "130s") } else { ("40/s", 40, 1, "4s") };
    let witness = Witness::start();
    let text = format!(
        "users: {{ u: {{ loop: [ get: /x, get: /y ] }} }}
phases: [ {{ name: main, load: [ constant-vus: {{ vus: 30, duration: {length} }} ] }} ]
"
    );
    let text = scenario(&witness, &text).replace("http: {", &format!("http: {{ cap: {{ rate: {cap} }},"));
    let finished = Grid::start(2).run(&text, &[]);
    passed(&finished);
    let mut at: Vec<Duration> = witness.seen().iter().map(|seen| seen.at).collect();
    at.sort_unstable();
    let tightest = at.windows(count + 1).map(|span| span[count] - span[0]).min();
    println!("{} requests; {} of them in {tightest:?} at the closest", at.len(), count + 1);
    assert!(tightest >= Some(Duration::from_secs(window)), "{} requests in {tightest:?}", count + 1);
    // It throttles, it does not starve: nine tenths of what it allows.
    let allowed = count as f64 * if long { 3.0 } else { 4.0 };
    assert!(at.len() as f64 > allowed * 0.85, "{} of {allowed}", at.len());
    let step = &finished.report["phases"][0]["steps"][0];
    assert!(step["cap_wait"]["max_us"].as_u64() > Some(100_000), "the waiting is shown: {step}");
    assert!(step["response_time"]["p95_us"].as_u64() < Some(100_000), "and is no part of the response time");
}

#[test]
fn caps_of_steps_and_users_are_their_own() {
    let witness = Witness::start();
    let rest = "users:
  u:
    loop:
      - get: { url: /free }
      - get: { url: /step, cap: { rate: 10/s, per: step } }
      - get: { url: /user, cap: { rate: 5/s, per: user } }
phases: [ { name: main, load: [ constant-vus: { vus: 4, duration: 2500ms } ] } ]
";
    passed(&run_local(&scenario(&witness, rest), &[]));
    let tightest = |mut at: Vec<Duration>, count: usize| {
        at.sort_unstable();
        at.windows(count + 1).map(|span| span[count] - span[0]).min()
    };
    let at = |seen: Vec<Seen>| seen.into_iter().map(|seen| seen.at).collect::<Vec<_>>();
    assert!(tightest(at(witness.seen_of("GET /step")), 10) >= Some(Duration::from_secs(1)));
    for user in 0..4 {
        let own =
            witness.seen_of("GET /user").into_iter().filter(|seen| seen.number("x-user") == user).collect();
        let tightest = tightest(at(own), 5);
        assert!(tightest.is_none() || tightest >= Some(Duration::from_secs(1)), "{user}: {tightest:?}");
    }
}

#[test]
fn a_cap_that_cannot_be_cut_is_refused() {
    let witness = Witness::start();
    let rest = "users: { u: { loop: [ get: { url: /x, cap: { rate: 2/s } } ] } }
phases: [ { name: main, load: [ constant-vus: { vus: 4, duration: 1s } ] } ]
";
    let finished = run_local(&scenario(&witness, rest), &["--workers", "3", "--threads", "1"]);
    assert_eq!(finished.code, 112, "{}\n{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("`cap` of 2 cannot be cut into 3 parts"), "{}", finished.stdout);
    assert!(witness.seen().is_empty());
}

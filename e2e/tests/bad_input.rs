//! Wrong input of every kind: a clear error that names the thing and the cure, the right exit code, no
//! panic, nothing sent.

use std::fmt::Write as _;
use std::time::Duration;

use loadgrid_e2e::{Child, Finished, Grid, Witness, free_port, loadgrid, run_local};

fn assert_refused(finished: &Finished, code: i32, words: &[&str]) {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, code, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not said in:\n{said}");
    }
}

fn command(arguments: &[&str]) -> Finished {
    let (status, stdout, stderr) =
        Child::start("loadgrid", &loadgrid(), arguments).wait(Duration::from_secs(60));
    Finished { code: status.code().unwrap_or(-1), stdout, stderr, report: serde_json::Value::Null }
}

fn validate(text: &str) -> Finished {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("bad.yaml");
    std::fs::write(&file, text).expect("the scenario is written");
    command(&["validate", &file.display().to_string()])
}

const GOOD: &str = "version: 1\ntarget: http://127.0.0.1:9\nsteps: [ get: / ]\nload: { vus: 1, for: 1s }\n";

#[test]
fn ten_mistakes_are_told_in_one_go_with_their_places() {
    let finished = validate(
        r#"version: 1
target: http://127.0.0.1:9
vars: { size: 10 }
data:
  account: { csv: { file: nowhere.csv } }
users:
  shopper:
    loop:
      - gett: /a
      - get: { url: /b, expct: { status: 200 } }
      - get: { url: "/c/${nobody}" }
      - get: { url: /d, expect: { status: 2000 } }
      - think: 5 parsecs
      - call: missing
      - get: { url: "/e/${vars.sise}" }
phases:
  - name: main
    load: [ constant-vus: { user: shoper, vus: ten, duration: 30 } ]
thresholds: [ "p99(response_tim) < 1s" ]
"#,
    );
    assert_refused(
        &finished,
        104,
        &[
            ":5:27",
            "`nowhere.csv` cannot be read",
            ":9:9",
            "did you mean `get`?",
            ":10:25",
            "did you mean `expect`?",
            ":11:",
            "`nobody` is not known here",
            ":12:",
            "`2000` is not an HTTP status",
            ":13:",
            "unknown unit `parsecs`",
            ":14:",
            "there is no flow `missing`",
            ":15:",
            "did you mean `size`?",
            ":18:",
            "`ten` is not a whole number",
            "did you mean 30s or 30ms?",
            ":19:",
            "did you mean `response_time`?",
            "problems in",
        ],
    );
    let count = finished.stderr.matches("error: ").count();
    assert!(count >= 10, "{count} problems:\n{}", finished.stderr);
}

#[test]
fn broken_texts_are_refused_quickly() {
    let deep = format!("version: 1\ntarget: {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let mut bomb = "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for (name, of) in
        ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        let list = vec![format!("*{of}"); 10].join(",");
        writeln!(bomb, "x-{name}: &{name} [{list}]").expect("a string");
    }
    let mut fifty = "version: 1\ntarget: http://127.0.0.1:9\nload: { vus: 1, for: 1s }\nsteps:\n".to_owned();
    for line in 0..10_000 {
        fifty.push_str(if line % 200 == 0 { "  - gat: /x\n" } else { "  - get: /x\n" });
    }
    let large = format!("{GOOD}# {}\n", "x".repeat(4 << 20));
    for (text, words) in [
        ("", vec!["empty", "quickstart"]),
        ("version: 1\n\ttarget: x\n", vec!["not valid YAML", "tabs"]),
        ("version: 2\ntarget: http://x\n", vec!["version 2 is not known", "`version: 1`"]),
        (deep.as_str(), vec!["recursion limit"]),
        (bomb.as_str(), vec!["more than 250000 values"]),
        (fifty.as_str(), vec!["50 problems", "first 20"]),
        (large.as_str(), vec!["at most 4 MiB"]),
        ("version: 1\0\n", vec!["NUL"]),
        (
            "version: 1\ntarget: http://x\ntarget: http://y\nsteps: [ get: / ]\nload: { vus: 1, for: 1s }\n",
            vec!["second time"],
        ),
        (
            "version: 1\ntarget: http://x\nsteps: [ get: { url: /x/${id} } ]\nload: { vus: 1, for: 1s }\n",
            vec!["quotes"],
        ),
        (
            "version: 1\ntarget: http://x\nexpectations: [ fairness: 1 ]\nsteps: [ ws.connect: /ws ]\nload: { vus: 1, for: 1s }\n",
            vec!["`expectations` is not supported yet", "`ws.connect` is not supported yet"],
        ),
        (
            "version: 1\ntarget: ftp://x\nsteps: [ get: / ]\nload: { rate: 5, for: 1s }\n",
            vec!["is not an address", "did you mean 5/s or 5/m?"],
        ),
    ] {
        let began = std::time::Instant::now();
        assert_refused(&validate(text), 104, &words);
        assert!(began.elapsed() < Duration::from_secs(5), "slow: {}", &text[..text.len().min(60)]);
    }
}

#[test]
fn data_that_runs_out_is_found_before_the_run() {
    let text = "version: 1
target: http://127.0.0.1:9
data: { account: { generate: { rows: 10, columns: { email: \"u${row}\" } } } }
users: { u: { data: [ account ], loop: [ get: \"/${account.email}\" ] } }
phases: [ { name: main, load: [ constant-vus: { vus: 50, duration: 1s } ] } ]
";
    assert_refused(&validate(text), 104, &["`account` has 10 rows", "50 users", "lower the number of users"]);
    let column =
        text.replace("account.email }", "account.mail }").replace("/${account.email}", "/${account.mail}");
    assert_refused(&validate(&column), 104, &["`account` has no `mail`", "did you mean `email`?"]);
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    assert_refused(&command(&["rum", "x.yaml"]), 2, &["run"]);
    assert_refused(&command(&["run"]), 2, &["FILE"]);
    assert_refused(&command(&["run", "x.yaml", "-d", "30"]), 2, &["30s"]);
    assert_refused(&command(&["run", "nowhere.yaml"]), 104, &["nowhere.yaml", "quickstart"]);
    assert_refused(
        &command(&["submit", "--coordinator", "not an address", "scenarios/quickstart.yaml"]),
        104,
        &["scenario"],
    );
    assert_eq!(command(&["--help"]).code, 0);
    assert_eq!(command(&["--version"]).code, 0);
}

#[test]
fn help_fits_a_screen() {
    let help = command(&["--help"]).stdout;
    assert!(help.lines().count() <= 40, "{help}");
    assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
}

#[test]
fn a_target_that_does_not_answer_is_named_and_nothing_is_sent() {
    let scenario = format!(
        "version: 1\ntarget: http://127.0.0.1:{}\nsteps: [ get: / ]\nload: {{ vus: 1, for: 1s }}\n",
        free_port()
    );
    let finished = run_local(&scenario, &[]);
    assert_refused(&finished, 112, &["does not answer", "127.0.0.1", "--target"]);
    assert_eq!(finished.number("/ledger/exchanges/sent"), 0);
    let unknown = scenario.replace("127.0.0.1", "nobody.invalid");
    assert_refused(&run_local(&unknown, &[]), 112, &["nobody.invalid", "not resolved"]);
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("good.yaml");
    std::fs::write(&file, GOOD).expect("the scenario is written");
    let address = format!("127.0.0.1:{}", free_port());
    let file = file.display().to_string();
    assert_refused(
        &command(&["submit", &file, "--coordinator", &address]),
        113,
        &["no coordinator answers", "loadgrid coordinator"],
    );
    assert_refused(&command(&["runs", "--coordinator", &address]), 113, &["no coordinator answers"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().display().to_string();
    assert_refused(
        &command(&["coordinator", "--listen", &address, "--data", &data]),
        1,
        &[&address, "--listen"],
    );
    assert_refused(&command(&["demo", "--listen", &address]), 1, &[&address, "--listen"]);
    assert_refused(&command(&["coordinator", "--listen", "0.0.0.0:7400"]), 2, &["loopback", "127.0.0.1"]);
}

#[test]
fn a_coordinator_refuses_targets_that_are_not_allowed() {
    let grid = Grid::start(1);
    let elsewhere = GOOD.replace("127.0.0.1:9", "203.0.113.7");
    let finished = grid.run(&elsewhere, &[]);
    assert_refused(&finished, 113, &["203.0.113.7", "--allow-target 203.0.113.7"]);
    let metadata = GOOD.replace("get: /", "get: \"http://169.254.169.254/latest\"");
    assert_refused(&grid.run(&metadata, &[]), 113, &["169.254.169.254"]);
}

#[test]
fn an_allowed_name_does_not_lend_itself_to_any_address() {
    let grid = Grid::start(1);
    let text = GOOD.replace("127.0.0.1:9", "localhost:9");
    let text = text.replace("steps:", "http: { hosts: { localhost: 203.0.113.7 } }\nsteps:");
    assert_refused(&grid.run(&text, &[]), 113, &["203.0.113.7", "--allow-target 203.0.113.7"]);
}

#[test]
fn a_redirect_does_not_lead_where_load_may_not_go() {
    // The witness answers everything; the scenario's address comes from a variable, so that only the worker
    // can see where it leads.
    let witness = Witness::start();
    let scenario = format!(
        "version: 1\ntarget: {}\nsteps:\n  - set: {{ host: 127.0.0.77 }}\n  - get: {{ url: \"http://${{host}}:1/x\", name: away }}\nload: {{ vus: 1, for: 300ms }}\nthresholds: [ \"rate(failed) < 1%\" ]\n",
        witness.target
    );
    let finished = run_local(&scenario, &["--workers", "1"]);
    assert_refused(&finished, 99, &["target_not_allowed"]);
    assert!(witness.seen().is_empty());
}

#[test]
fn too_few_workers_and_a_second_run_are_refused() {
    let witness = Witness::start();
    let grid = Grid::start(1);
    let scenario = GOOD.replace("http://127.0.0.1:9", &witness.target).replace("for: 1s", "for: 20s");
    let finished = grid.run(&scenario, &["--expect-workers", "3", "--wait", "1s"]);
    assert_refused(&finished, 112, &["1 of 3 workers", "no load was sent"]);
    assert!(witness.seen().is_empty());

    let (first, json) = grid.submit(&scenario, &[]);
    loadgrid_e2e::wait_for("load", Duration::from_secs(20), || (!witness.seen().is_empty()).then_some(()));
    assert_refused(&grid.run(&scenario, &[]), 113, &["is live", "one run at a time"]);
    // Stopped through the API, by the beginning of its name.
    let log = first.log();
    let run = log.lines().find_map(|line| line.strip_prefix("run ")).expect("the run's name is said");
    let stopped = command(&["stop", &run[..13], "--coordinator", &grid.address]);
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let finished = Grid::finish(first, &json);
    assert_refused(&finished, 103, &["ABORTED", "stopped"]);

    let runs = command(&["runs", "--coordinator", &grid.address]);
    assert!(runs.stdout.contains(run) && runs.stdout.contains("aborted"), "{}", runs.stdout);
    let workers = command(&["workers", "--coordinator", &grid.address]);
    assert!(workers.stdout.contains("w1") && workers.stdout.contains("idle"), "{}", workers.stdout);
    let report = command(&["report", run, "--coordinator", &grid.address]);
    assert!(report.code == 0 && report.stdout.contains("ABORTED"), "{}{}", report.stdout, report.stderr);
    assert_refused(&command(&["report", "nosuchrun", "--coordinator", &grid.address]), 2, &["nosuchrun"]);
}

#[test]
fn a_scenario_that_fails_while_it_runs_says_so() {
    let witness = Witness::start();
    let scenario = format!(
        "version: 1\ntarget: {}\nsteps: [ get: /, get: \"/${{last.json.nothing.there}}\" ]\nload: {{ vus: 1, for: 300ms }}\n",
        witness.target
    );
    assert_refused(&run_local(&scenario, &[]), 107, &["the scenario failed", "last.json.nothing"]);
}

#[test]
fn thresholds_decide_and_one_without_data_fails() {
    let witness = Witness::start();
    let scenario = |threshold: &str| {
        format!(
            "version: 1\ntarget: {}\nsteps:\n  - get: /\n  - if: {{ when: \"1 > 2\", then: [ get: {{ url: /never, name: never }} ] }}\nload: {{ vus: 1, for: 300ms }}\nthresholds: [ \"{threshold}\" ]\n",
            witness.target
        )
    };
    assert_eq!(run_local(&scenario("p50(response_time) < 10s"), &[]).code, 0);
    assert_refused(
        &run_local(&scenario("p50(response_time) < 1us"), &[]),
        99,
        &["✗", "1 of 1 thresholds failed"],
    );
    assert_refused(&run_local(&scenario("p50(response_time, step=never) < 10s"), &[]), 99, &["no data"]);
}

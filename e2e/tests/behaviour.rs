//! What users do, as a server sees it: draws, lives, actions, the end of a phase.

use std::collections::BTreeSet;

use loadgrid_e2e::{Witness, run_local};

/// Every value of `draw` that the witness saw.
fn draws(witness: &Witness) -> Vec<String> {
    let of = |body: &str| Some(body.split("\"draw\":\"").nth(1)?.split('"').next()?.to_owned());
    witness.seen().iter().filter_map(|seen| of(&seen.body)).collect()
}

#[test]
fn random_values_differ_in_every_turn_life_and_phase() {
    let witness = Witness::start();
    let scenario = format!(
        "version: 1
target: {}
users:
  u:
    start: [ post: {{ url: /start, json: {{ draw: \"${{uuid()}}\" }} }} ]
    loop:
      - repeat: {{ times: 3, do: [ post: {{ url: /turn, json: {{ draw: \"${{uuid()}}\" }} }} ] }}
      - end: user
phases:
  - {{ name: one, load: [ constant-vus: {{ vus: 2, duration: 200ms }} ] }}
  - {{ name: two, load: [ constant-vus: {{ vus: 2, duration: 200ms }}, constant-arrival-rate: {{ rate: 20/s, duration: 200ms }} ] }}
",
        witness.target
    );
    let finished = run_local(&scenario, &[]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    let draws = draws(&witness);
    assert!(draws.len() > 50, "{}", draws.len());
    assert_eq!(draws.iter().collect::<BTreeSet<_>>().len(), draws.len(), "no value is drawn twice");
}

#[test]
fn a_failure_before_an_action_still_fails_the_iteration_that_ends_in_it() {
    let witness = Witness::start();
    let scenario = format!(
        "version: 1
target: {}
steps:
  - get: {{ url: /a, expect: {{ status: 500 }} }}
  - choose: [ {{ weight: 1, name: leave, do: [ get: /b, end: iteration ] }} ]
load: {{ rate: 20/s, for: 1s }}
",
        witness.target
    );
    let finished = run_local(&scenario, &[]);
    assert_eq!(finished.number("/ledger/iterations/failed"), 20, "{}", finished.stdout);
    assert_eq!(finished.number("/ledger/iterations/ok"), 0);
    assert_eq!(finished.number("/actions/0/ok"), 20, "nothing failed in the action itself");
}

#[test]
fn lives_end_with_their_last_steps_also_when_iterations_are_interrupted() {
    let witness = Witness::start();
    let scenario = format!(
        "version: 1
target: {}
users:
  u:
    start: [ post: /in ]
    loop: [ get: /x, think: 50ms ]
    stop: [ post: /out ]
phases:
  - {{ name: one, load: [ ramping-vus: {{ stages: [ {{ to: 6, over: 300ms }}, {{ to: 2, over: 300ms }} ] }} ] }}
  - {{ name: two, load: [ constant-arrival-rate: {{ rate: 50/s, duration: 500ms, max_vus: 5 }} ] }}
",
        witness.target
    );
    let finished = run_local(&scenario, &[]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    let count = |request: &str| witness.seen().iter().filter(|seen| seen.request == request).count();
    assert!(count("POST /in") >= 8, "{}", count("POST /in"));
    assert_eq!(count("POST /in"), count("POST /out"), "whoever came in went out");
    assert_eq!(finished.number("/ledger/exchanges/sent"), witness.seen().len() as u64);
}

#[test]
fn a_login_does_not_count_into_the_first_step_of_the_loop() {
    let witness = Witness::start();
    let scenario = format!(
        "version: 1
target: {}
users:
  u:
    start: [ get: {{ url: /login, name: login }}, think: 300ms ]
    loop: [ get: {{ url: /x, name: x }} ]
phases: [ {{ name: main, load: [ constant-arrival-rate: {{ rate: 10/s, duration: 500ms }} ] }} ]
",
        witness.target
    );
    let finished = run_local(&scenario, &["--workers", "1", "--threads", "1"]);
    let steps = finished.report["phases"][0]["steps"].as_array().cloned().unwrap_or_default();
    let x = steps.iter().find(|step| step["step"] == "x").cloned().unwrap_or_default();
    assert!(x["response_time"]["max_us"].as_u64().is_some_and(|max| max < 200_000), "{x:#}");
}

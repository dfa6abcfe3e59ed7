//! A lost worker: the run goes on, ends `incomplete`, and says what it does not know.

use std::time::Duration;

use loadgrid_e2e::{Grid, Witness, wait_for};

#[test]
fn a_killed_worker_is_in_ledger_and_headline() {
    let witness = Witness::start();
    let mut grid = Grid::start(3);
    let scenario = format!(
        "version: 1\ntarget: {}\nsteps: [ get: \"/n/${{iteration}}\" ]\nload: {{ rate: 90/s, for: 12s }}\n",
        witness.target
    );
    let (submit, json) = grid.submit(&scenario, &[]);
    wait_for("load", Duration::from_secs(30), || (witness.seen().len() > 200).then_some(()));
    grid.workers[1].signal("KILL");
    wait_for("the worker's end", Duration::from_secs(5), || (!grid.workers[1].is_running()).then_some(()));
    let at_kill = witness.seen().len();

    let finished = Grid::finish(submit, &json);
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, 111, "{said}");
    assert_eq!(finished.report["verdict"]["outcome"], "incomplete", "{said}");
    assert!(said.contains("INCOMPLETE") && said.contains("worker w2 was lost"), "{said}");
    assert!(witness.seen().len() > at_kill + 200, "the others go on");

    let iterations = &finished.report["ledger"]["iterations"];
    let number = |key: &str| iterations[key].as_u64().unwrap_or_default();
    assert_eq!(finished.report["ledger"]["closes"], true, "{said}");
    assert_eq!(number("planned"), 12 * 90);
    assert_eq!(number("planned"), number("started") + number("dropped") + number("never_started"));
    assert!(number("never_started") > 30, "what came due after its lease: {iterations}");
    // What the witness saw lies between what is known and what may have been.
    let seen = witness.seen().len() as u64;
    assert!((number("ok")..=number("started")).contains(&seen), "{seen} of {iterations}");
    let lost: Vec<_> = finished.report["ledger"]["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|w| w["lost"] == true)
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["worker"], "w2");
    assert_eq!(lost[0]["sealed"], false);
}

#[test]
fn losing_all_workers_ends_the_run_with_a_partial_report() {
    let witness = Witness::start();
    let grid = Grid::start(1);
    let scenario = format!(
        "version: 1\ntarget: {}\nsteps: [ get: / ]\nload: {{ rate: 50/s, for: 60s }}\n",
        witness.target
    );
    let (submit, json) = grid.submit(&scenario, &[]);
    wait_for("a counted second", Duration::from_secs(30), || (witness.seen().len() > 150).then_some(()));
    grid.workers[0].signal("KILL");
    let finished = Grid::finish(submit, &json);
    assert_eq!(finished.code, 111, "{}\n{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("all workers were lost"), "{}", finished.stdout);
    assert!(finished.number("/ledger/exchanges/sent") > 0);
    assert_eq!(finished.report["ledger"]["closes"], true);
}

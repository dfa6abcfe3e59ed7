//! Which row is whose, and what the command line chooses.

use std::collections::BTreeMap;
use std::time::Duration;

use loadgrid_e2e::{Finished, Grid, Witness, run_local, run_with_files, wait_for};

fn scenario(witness: &Witness, rest: &str) -> String {
    format!("version: 1\ntarget: {}\n{rest}", witness.target)
}

fn passed(finished: &Finished) {
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.stdout);
}

fn requests(witness: &Witness) -> Vec<String> {
    witness.seen().into_iter().map(|seen| seen.request).collect()
}

fn counts(witness: &Witness) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    requests(witness).into_iter().for_each(|request| *counts.entry(request).or_default() += 1);
    counts
}

#[test]
fn sequential_rows_come_in_turn_over_the_whole_grid() {
    let witness = Witness::start();
    let rest = "data: { code: { csv: { file: codes.txt, columns: [ word, number ], delimiter: \";\", comment: \"#\", trim: true, pick: sequential } } }
users: { u: { data: [ code ], loop: [ get: \"/${code.word}?n=${iteration}\" ] } }
phases: [ { name: main, load: [ shared-iterations: { vus: 4, iterations: 10 } ] } ]
";
    let files: [(&str, &[u8]); 1] = [("codes.txt", b"# words\n a ; 1\nb;2\n'c';3\n")];
    let rest = rest.replace("trim: true", "trim: true, quote: \"'\"");
    passed(&run_with_files(&scenario(&witness, &rest), &files, &[]));
    let mut seen = requests(&witness);
    seen.sort_by_key(|request| request.rsplit('=').next().and_then(|n| n.parse::<u64>().ok()));
    let words: Vec<&str> = seen.iter().filter_map(|request| request[5..].split('?').next()).collect();
    assert_eq!(
        words,
        ["a", "b", "c", "a", "b", "c", "a", "b", "c", "a"],
        "recycled, by the number of the iteration"
    );
}

#[test]
fn random_rows_come_by_their_weight_and_the_same_on_any_grid() {
    let rest = "data: { product: { inline: { rows: [ { sku: a, w: 6 }, { sku: b, w: 3 }, { sku: c, w: 0 }, { sku: d, w: 1 } ], pick: random, weight: w } } }
users: { u: { data: [ product ], loop: [ get: \"/${product.sku}\" ] } }
phases: [ { name: main, load: [ per-vu-iterations: { vus: 20, iterations: 50 } ] } ]
";
    let of = |workers: usize| {
        let witness = Witness::start();
        passed(&Grid::start(workers).run(&scenario(&witness, rest), &[]));
        counts(&witness)
    };
    let (one, three) = (of(1), of(3));
    assert_eq!(one, three);
    assert_eq!(one.get("GET /c"), None);
    for (row, expected) in [("GET /a", 600.0), ("GET /b", 300.0), ("GET /d", 100.0)] {
        assert!((one[row] as f64 - expected).abs() < 5.0 * f64::sqrt(expected), "{one:?}");
    }
}

#[test]
fn behind_the_last_row_the_scenario_decides() {
    let run = |exhausted: &str, pick: &str, load: &str| {
        let witness = Witness::start();
        let rest = format!(
            "data: {{ row: {{ inline: {{ rows: [ {{ n: 0 }}, {{ n: 1 }}, {{ n: 2 }} ], pick: {pick}{exhausted} }} }} }}
users: {{ u: {{ data: [ row ], loop: [ get: \"/${{row.n}}\" ] }} }}
phases: [ {{ name: main, load: [ {load} ] }} ]
"
        );
        let finished = run_local(&scenario(&witness, &rest), &[]);
        (finished, counts(&witness))
    };
    let five = "per-vu-iterations: { vus: 5, iterations: 1 }";
    let (finished, seen) = run(", exhausted: recycle", "unique", five);
    passed(&finished);
    assert_eq!(seen.values().copied().collect::<Vec<u64>>(), [2, 2, 1]);
    let (finished, seen) = run(", exhausted: stop-user", "unique", five);
    assert_eq!(seen.values().copied().collect::<Vec<u64>>(), [1, 1, 1]);
    assert_eq!(finished.number("/ledger/iterations/dropped"), 2, "{}", finished.stdout);
    let (finished, _) = run("", "unique", five);
    assert!(finished.code == 104 && finished.stderr.contains("3 rows"), "{}", finished.stderr);
    let (finished, _) = run(", exhausted: fail", "sequential", five);
    assert!(finished.code == 104 && finished.stderr.contains("5 iterations"), "{}", finished.stderr);
    let (finished, seen) =
        run(", exhausted: stop-user", "sequential", "shared-iterations: { vus: 2, iterations: 9 }");
    assert_eq!(seen.values().copied().collect::<Vec<u64>>(), [1, 1, 1]);
    assert_eq!(finished.number("/ledger/iterations/dropped"), 6, "{}", finished.stdout);
    // A closed model has no number of iterations that could be looked at before.
    let (finished, _) = run(", exhausted: fail", "sequential", "constant-vus: { vus: 1, duration: 500ms }");
    assert!(finished.code == 107 && finished.stdout.contains("has no more rows"), "{}", finished.stdout);
}

#[test]
fn a_life_begins_with_the_row_of_its_first_iteration() {
    // Every arrival begins a life of its own; no user asks for a row that is not there.
    let witness = Witness::start();
    let rows: Vec<String> = (0..100).map(|n| format!("{{ n: {n} }}")).collect();
    let rest = format!(
        "data: {{ row: {{ inline: {{ rows: [ {} ], pick: sequential, exhausted: fail }} }} }}
users: {{ u: {{ data: [ row ], start: [ get: \"/in?${{row.n}}\" ], loop: [ get: \"/${{row.n}}\", end: user ] }} }}
phases: [ {{ name: main, load: [ constant-arrival-rate: {{ rate: 100/s, duration: 1s, prepared: 0, max_vus: 300 }} ] }} ]
",
        rows.join(", ")
    );
    let finished = run_local(&scenario(&witness, &rest), &[]);
    passed(&finished);
    let seen = counts(&witness);
    for n in 0..100 {
        let pair = (seen.get(&format!("GET /in?{n}")), seen.get(&format!("GET /{n}")));
        assert_eq!(pair, (Some(&1), Some(&1)), "row {n}");
    }

    let witness = Witness::start();
    let rest = "data: { row: { inline: { rows: [ { n: 0 }, { n: 1 }, { n: 2 } ], exhausted: stop-user } } }
users: { u: { data: [ row ], start: [ get: \"/in?${row.n}\" ], loop: [ get: \"/${row.n}\" ] } }
phases: [ { name: main, load: [ at-once: { vus: 5 } ] } ]
";
    let finished = run_local(&scenario(&witness, rest), &[]);
    passed(&finished);
    assert_eq!(requests(&witness).len(), 3 + 3, "{:?}", requests(&witness));
    assert_eq!(finished.number("/ledger/iterations/dropped"), 2, "{}", finished.stdout);
}

#[test]
fn a_user_without_a_row_of_its_own_leaves_the_shared_iterations_to_the_others() {
    let witness = Witness::start();
    // No column is used: who may take part is said by the number of rows alone.
    let rest = "data: { seat: { inline: { rows: [ { n: 0 }, { n: 1 } ], exhausted: stop-user } } }
users: { u: { data: [ seat ], loop: [ get: \"/?${user.index}\" ] } }
phases: [ { name: main, load: [ shared-iterations: { vus: 5, iterations: 40 } ] } ]
";
    let finished = run_local(&scenario(&witness, rest), &[]);
    passed(&finished);
    let seen = counts(&witness);
    assert_eq!(seen.values().sum::<u64>() + finished.number("/ledger/iterations/dropped"), 40, "{seen:?}");
    assert!(seen.values().sum::<u64>() > 0, "{seen:?}");
    assert!(seen.keys().all(|request| ["GET /?0", "GET /?1"].contains(&request.as_str())), "{seen:?}");
}

#[test]
fn the_command_line_chooses_profiles_and_phases() {
    let witness = Witness::start();
    let rest = "include: [ more.yaml ]
vars: { path: low, twice: \"${vars.base}${vars.base}\" }
profiles: { high: { path: high } }
users: { u: { loop: [ call: included ] } }
phases:
  - { name: one, load: [ per-vu-iterations: { vus: 1, iterations: 1 } ] }
  - { name: two, record: false, load: [ per-vu-iterations: { vus: 2, iterations: 1 } ] }
  - { name: three, when: manual, load: [ per-vu-iterations: { vus: 4, iterations: 1 } ] }
thresholds: [ \"count(exchanges, phase=three) == 4\" ]
";
    let files: [(&str, &[u8]); 1] =
        [("more.yaml", b"vars:\n  base: x\nflows:\n  included:\n    - get: /${vars.path}/${vars.twice}\n")];
    let run = |more: &[&str]| {
        let before = witness.seen().len();
        let finished = run_with_files(&scenario(&witness, rest), &files, more);
        passed(&finished);
        (finished, requests(&witness)[before..].to_vec())
    };
    let (finished, seen) = run(&[]);
    assert_eq!(seen, vec!["GET /low/xx"; 3]);
    assert_eq!(finished.number("/totals/exchanges"), 1, "the second phase is not recorded");
    assert_eq!(run(&["--with", "three", "--profile", "high"]).1, vec!["GET /high/xx"; 7]);
    assert_eq!(run(&["--only", "three"]).1.len(), 4);
    assert_eq!(run(&["--only", "one", "--profile", "high", "--var", "path=mine"]).1, ["GET /mine/xx"]);
    for (flag, name) in [("--profile", "hihg"), ("--with", "thre"), ("--only", "oen")] {
        let finished = run_with_files(&scenario(&witness, rest), &files, &[flag, name]);
        assert!(finished.code == 104 && finished.stderr.contains("did you mean"), "{}", finished.stderr);
    }
    // A mistake in an included file is told there.
    let broken: [(&str, &[u8]); 1] =
        [("more.yaml", b"vars:\n  base: x\nflows:\n  included:\n    - gett: /\n")];
    let finished = run_with_files(&scenario(&witness, rest), &broken, &[]);
    assert!(
        finished.stderr.contains("more.yaml:5:7") && finished.stderr.contains("did you mean `get`?"),
        "{}",
        finished.stderr
    );
}

#[test]
fn waiting_for_a_target_can_be_interrupted() {
    let witness = Witness::answering(|_| loadgrid_e2e::Answer::new(503, "not yet"));
    let rest = "wait_for: { get: /health, within: 10m }
steps: [ get: /x ]
load: { vus: 1, for: 1s }
";
    let grid = Grid::start(1);
    let (child, json) = grid.submit(&scenario(&witness, rest), &[]);
    wait_for("a question", Duration::from_secs(20), || (!witness.seen().is_empty()).then_some(()));
    child.signal("INT");
    let finished = Grid::finish(child, &json);
    assert_eq!(finished.code, 105, "{}\n{}", finished.stdout, finished.stderr);
    assert!(witness.seen_of("GET /x").is_empty());
    // The worker is free for the next run.
    let next = "steps: [ get: /x ]\nload: { vus: 1, for: 200ms }\n";
    let finished = grid.run(&scenario(&witness, next), &[]);
    assert!(finished.number("/ledger/exchanges/sent") > 0, "{}\n{}", finished.stdout, finished.stderr);
}

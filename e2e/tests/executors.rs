//! Who starts what, how often and when: seen by an outside witness.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use loadgrid_e2e::{Answer, Finished, Grid, Seen, Witness, run_local};

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

#[test]
fn shared_iterations_are_exact_and_nobody_waits_for_the_slow_worker() {
    // Users live on the worker of their index: one worker of three is fast, one is slower, one very slow.
    let witness = Witness::answering(|seen| {
        let delay = [0, 5, 400][(seen.number("x-user") % 3) as usize];
        Answer::default().after(Duration::from_millis(delay))
    });
    let grid = Grid::start(3);
    let rest = "steps: [ get: \"/i?n=${iteration}\" ]
phases: [ { name: main, load: [ shared-iterations: { user: user, vus: 30, iterations: 10001, max_duration: 2m } ] } ]
";
    let rest =
        rest.replace("steps: [", "users: { user: { loop: [").replace("\" ]\nphases", "\" ] } }\nphases");
    let finished = grid.run(&scenario(&witness, &rest), &[]);
    passed(&finished);
    let seen = witness.seen();
    let numbers: BTreeSet<&str> = seen.iter().map(|seen| seen.request.as_str()).collect();
    assert_eq!((seen.len(), numbers.len()), (10_001, 10_001), "each once");
    let mut by_worker = [0_u64; 3];
    seen.iter().for_each(|seen| by_worker[(seen.number("x-user") % 3) as usize] += 1);
    // An even split would leave the slow worker with 3,333 iterations: more than two minutes.
    assert!(by_worker[2] < 1_500 && by_worker[0] > by_worker[1], "{by_worker:?}");
    let idle = seen.iter().filter(|seen| seen.number("x-user") % 3 == 0).map(|seen| seen.at).max();
    let last = seen.iter().map(|seen| seen.at).max();
    let waited = last.zip(idle).map_or(Duration::MAX, |(last, idle)| last.saturating_sub(idle));
    println!(
        "iterations by worker {by_worker:?}; the fast one waited {waited:?} for the slow one; in all {last:?}"
    );
    assert!(waited < Duration::from_secs(3), "the fast worker waited {waited:?} for the slow one");
    assert_eq!(finished.number("/ledger/iterations/planned"), 10_001);
    assert_eq!(finished.number("/ledger/iterations/started"), 10_001);
}

/// What each action was chosen, and what the witness saw, on so many workers.
fn totals(load: &str, workers: usize) -> (BTreeMap<String, u64>, Vec<String>) {
    let witness = Witness::start();
    let grid = Grid::start(workers);
    let rest = format!(
        "users:
  u:
    loop:
      - choose:
          - {{ weight: 3, name: look, do: [ get: \"/look?n=${{int(1, 1000000)}}\" ] }}
          - {{ weight: 1, name: buy, do: [ post: {{ url: /buy, json: {{ id: \"${{int(1, 1000000)}}\" }} }} ] }}
phases: [ {{ name: main, load: [ {load} ] }} ]
"
    );
    let finished = grid.run(&scenario(&witness, &rest), &[]);
    passed(&finished);
    let actions = finished.report["actions"].as_array().cloned().unwrap_or_default();
    let actions = actions.iter().map(|action| {
        (action["action"].as_str().unwrap_or_default().to_owned(), action["chosen"].as_u64().unwrap_or(0))
    });
    let mut requests: Vec<String> =
        witness.seen().into_iter().map(|seen| format!("{} {}", seen.request, seen.body)).collect();
    requests.sort();
    (actions.collect(), requests)
}

#[test]
fn counted_executors_do_the_same_on_one_worker_and_on_three() {
    for (load, count) in [
        ("per-vu-iterations: { vus: 13, iterations: 17 }", 13 * 17),
        ("shared-iterations: { vus: 7, iterations: 211 }", 211),
        ("at-once: { vus: 41 }", 41),
        ("paced: { vus: 9, pace: 1s, duration: 3s }", 27),
    ] {
        let (one, three) = (totals(load, 1), totals(load, 3));
        assert_eq!(one.1.len(), count, "{load}");
        assert_eq!(one, three, "{load}");
    }
}

#[test]
fn sequential_users_go_one_after_the_other_wherever_they_are() {
    let witness = Witness::answering(|_| Answer::default().after(Duration::from_millis(15)));
    let grid = Grid::start(3);
    let rest = "users: { u: { start: [ get: /in ], loop: [ get: /loop ], stop: [ get: /out ] } }
phases: [ { name: main, load: [ per-vu-iterations: { vus: 8, iterations: 2, order: sequential } ] } ]
";
    passed(&grid.run(&scenario(&witness, rest), &[]));
    let seen: Vec<(u64, String)> =
        witness.seen().iter().map(|seen| (seen.number("x-user"), seen.request.clone())).collect();
    let expected: Vec<(u64, String)> = (0..8)
        .flat_map(|user| ["/in", "/loop", "/loop", "/out"].map(|path| (user, format!("GET {path}"))))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn at_once_is_one_instant_after_everybody_is_ready() {
    let witness = Witness::answering(|seen| {
        let slow = seen.request.ends_with("/in") && seen.number("x-user") == 5;
        Answer::default().after(Duration::from_millis(if slow { 700 } else { 1 }))
    });
    let grid = Grid::start(2);
    let rest = "users: { u: { start: [ get: /in ], loop: [ get: /now ] } }
phases: [ { name: main, load: [ at-once: { vus: 50 } ] } ]
";
    passed(&grid.run(&scenario(&witness, rest), &[]));
    let (logins, now) = (witness.seen_of("GET /in"), witness.seen_of("GET /now"));
    assert_eq!((logins.len(), now.len()), (50, 50));
    let last_login = logins.iter().map(|seen| seen.at).max();
    let (first, last) = (now.iter().map(|seen| seen.at).min(), now.iter().map(|seen| seen.at).max());
    assert!(first > last_login.map(|at| at + Duration::from_millis(650)), "the slow login is waited for");
    let spread = last.zip(first).map(|(last, first)| last.saturating_sub(first));
    assert!(spread < Some(Duration::from_millis(500)), "{spread:?}");
}

#[test]
fn users_are_prepared_before_the_first_arrival_and_arrivals_may_queue() {
    let witness = Witness::answering(|_| Answer::default().after(Duration::from_millis(100)));
    let rest = "users: { u: { start: [ get: /in ], loop: [ get: /x ] } }
phases: [ { name: main, load: [ constant-arrival-rate: { rate: 40/s, duration: 2s, max_vus: 2, prepared: 2, when_full: queue } ] } ]
";
    let finished = run_local(&scenario(&witness, rest), &[]);
    passed(&finished);
    let (logins, arrivals) = (witness.seen_of("GET /in"), witness.seen_of("GET /x"));
    assert_eq!((logins.len(), arrivals.len()), (2, 80), "nothing is dropped");
    assert!(logins.iter().all(|login| arrivals.iter().all(|seen| seen.at > login.at)));
    assert_eq!(finished.number("/ledger/iterations/dropped"), 0);
    // 40/s against two users that do 20/s: the last arrival waits about two seconds, and its response time says so.
    assert!(finished.number("/totals/response_time/p99_us") > 1_000_000, "{}", finished.stdout);
    assert!(finished.number("/totals/service_time/p99_us") < 400_000);
}

#[test]
fn paced_users_take_turns_and_late_turns_count_from_when_they_were_due() {
    let witness = Witness::answering(|seen| {
        Answer::default().after(Duration::from_millis(if seen.number("x-user") == 0 { 900 } else { 1 }))
    });
    let rest = "users: { u: { loop: [ get: /x ] } }
phases: [ { name: main, load: [ paced: { vus: 4, rate: 8/s, duration: 3s } ] } ]
";
    let finished = run_local(&scenario(&witness, rest), &[]);
    assert_eq!(finished.number("/ledger/iterations/planned"), 24);
    let mut by_user = BTreeMap::<u64, Vec<Duration>>::new();
    witness.seen().iter().for_each(|seen| by_user.entry(seen.number("x-user")).or_default().push(seen.at));
    assert_eq!([1, 2, 3].map(|user| by_user[&user].len()), [6, 6, 6]);
    // A turn every 500 ms, but each takes 900: about half of them found their user busy until the end.
    assert!((3..=5).contains(&by_user[&0].len()), "{by_user:?}");
    assert!(finished.number("/ledger/iterations/dropped") >= 1);
    assert!(finished.number("/totals/response_time/max_us") > 1_200_000, "lateness is the target's");
    assert_eq!(finished.report["ledger"]["closes"], true);
}

/// Requests by second since the first one.
fn by_second(seen: &[Seen], seconds: usize) -> Vec<u64> {
    let first = seen.iter().map(|seen| seen.at).min().unwrap_or_default();
    let mut counts = vec![0; seconds + 1];
    for seen in seen {
        let second = seen.at.saturating_sub(first).as_secs() as usize;
        counts[second.min(seconds)] += 1;
    }
    counts
}

/// Compares with a curve: `rate(t)` per second; areas by the trapezoid over each second. Gives the largest difference.
fn follows(counts: &[u64], rate: impl Fn(f64) -> f64) -> f64 {
    let mut worst = 0.0_f64;
    for (second, &count) in counts.iter().take(counts.len() - 1).enumerate() {
        let steps = 1_000;
        let area: f64 =
            (0..steps).map(|n| rate(second as f64 + (f64::from(n) + 0.5) / f64::from(steps))).sum::<f64>();
        let expected = area / f64::from(steps);
        // One per cent, and one arrival at each edge of the second.
        let allowed = (expected * 0.01).max(1.0) + 1.0;
        worst = worst.max((count as f64 - expected).abs());
        assert!(
            (count as f64 - expected).abs() <= allowed,
            "second {second}: {count}, not {expected:.1}: {counts:?}"
        );
    }
    worst
}

#[test]
fn bursts_and_ramps_follow_their_curves() {
    let witness = Witness::start();
    let rest = "users: { u: { loop: [ get: /x ] } }
phases: [ { name: main, load: [ burst: { base: 100/s, factor: 4, burst: 2s, every: 6s, times: 1, max_vus: 200 } ] } ]
";
    let grid = Grid::start(3);
    passed(&grid.run(&scenario(&witness, rest), &[]));
    let seen = witness.seen();
    assert_eq!(seen.len(), 400 + 800);
    let counts = by_second(&seen, 6);
    let worst = follows(&counts, |t| if (2.0..4.0).contains(&t) { 400.0 } else { 100.0 });
    println!("a burst by second {counts:?}, at most {worst:.1} from the curve");

    let witness = Witness::start();
    let rest = "users: { u: { loop: [ get: /x ] } }
phases: [ { name: main, load: [ ramping-arrival-rate: { stages: [ { to: 300/s, over: 4s }, { to: 300/s, over: 2s }, { to: 0/s, over: 3s } ], max_vus: 200 } ] } ]
";
    passed(&grid.run(&scenario(&witness, rest), &[]));
    let seen = witness.seen();
    assert_eq!(seen.len(), 600 + 600 + 450);
    let counts = by_second(&seen, 9);
    let worst = follows(&counts, |t| match t {
        t if t < 4.0 => 75.0 * t,
        t if t < 6.0 => 300.0,
        t => 300.0 - 100.0 * (t - 6.0),
    });
    println!("ramps by second {counts:?}, at most {worst:.1} from the curve");
}

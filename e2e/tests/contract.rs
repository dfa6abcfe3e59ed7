//! The JSON report: its essential fields, as scripts rely on them.

use loadgrid_e2e::{Witness, run_local};
use serde_json::Value;

const FIELDS: &[&str] = &[
    "/format",
    "/run/id",
    "/run/scenario",
    "/run/started_at",
    "/run/duration_us",
    "/run/plan_hash",
    "/run/workers",
    "/run/start_skew_us",
    "/run/seed",
    "/verdict/outcome",
    "/verdict/exit_code",
    "/verdict/reasons",
    "/validity/status",
    "/validity/reasons",
    "/ledger/closes",
    "/ledger/iterations/planned",
    "/ledger/iterations/started",
    "/ledger/iterations/dropped",
    "/ledger/iterations/never_started",
    "/ledger/iterations/ok",
    "/ledger/iterations/failed",
    "/ledger/iterations/unknown",
    "/ledger/exchanges/sent",
    "/ledger/exchanges/ok",
    "/ledger/exchanges/failed",
    "/ledger/exchanges/unknown",
    "/ledger/workers/0/worker",
    "/ledger/workers/0/iterations_started",
    "/ledger/workers/0/exchanges_sent",
    "/ledger/workers/0/sealed",
    "/totals/exchanges",
    "/totals/ok",
    "/totals/failed",
    "/totals/offered_per_s",
    "/totals/achieved_per_s",
    "/totals/bytes_sent",
    "/totals/bytes_received",
    "/totals/response_time/count",
    "/totals/response_time/min_us",
    "/totals/response_time/mean_us",
    "/totals/response_time/p50_us",
    "/totals/response_time/p90_us",
    "/totals/response_time/p95_us",
    "/totals/response_time/p99_us",
    "/totals/response_time/p99_9_us",
    "/totals/response_time/max_us",
    "/totals/service_time/count",
    "/phases/0/name",
    "/phases/0/totals/exchanges",
    "/phases/0/steps/0/step",
    "/phases/0/steps/0/exchanges",
    "/phases/0/steps/0/failed",
    "/phases/0/steps/0/status_codes/200",
    "/phases/0/steps/0/errors",
    "/phases/0/steps/0/response_time/p99_us",
    "/phases/0/steps/0/service_time/p99_us",
    "/ranking",
    "/actions",
    "/counters",
    "/checks",
    "/thresholds/0/threshold",
    "/thresholds/0/observed",
    "/thresholds/0/passed",
    "/expectations",
    "/findings",
    "/samples",
    "/resources/workers",
    "/resources/hosts",
    "/recommendations",
    "/timeline",
    "/warnings",
    "/run/labels",
    "/observed",
    "/lives/0/user",
    "/lives/0/begun",
    "/lives/0/ok",
    "/lives/0/duration_p95_ms",
    "/lives/0/actions/mean",
    "/lives/0/counters",
    "/phases/0/recorded",
    "/phases/0/groups",
    "/phases/0/steps/0/labels",
    "/phases/0/steps/0/retries",
    "/phases/0/steps/0/cap_wait/count",
];

#[test]
fn the_report_has_the_fields_of_the_contract() {
    let witness = Witness::start();
    let scenario = format!(
        "version: 1\nname: \"<b>contract\"\ntarget: {}\nsteps: [ get: / ]\nload: {{ rate: 20/s, for: 2s }}\nthresholds: [ \"rate(failed) == 0%\" ]\n",
        witness.target
    );
    let finished = run_local(&scenario, &["--seed", "5"]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    for field in FIELDS {
        assert!(
            finished.report.pointer(field).is_some_and(|value| !value.is_null()),
            "{field} is missing in {:#}",
            finished.report
        );
    }
    let at = |pointer: &str| finished.report.pointer(pointer).cloned().unwrap_or(Value::Null);
    assert_eq!((at("/format"), at("/run/seed"), at("/run/workers")), (1.into(), 5.into(), 2.into()));
    assert_eq!((at("/verdict/outcome"), at("/validity/status")), ("passed".into(), "valid".into()));
    assert_eq!(at("/totals/exchanges"), 40);
    assert!(finished.report["timeline"].as_array().is_some_and(|windows| windows.len() >= 2));
    assert_eq!(witness.seen().len(), 40);
    // Cookies are kept for a life, and requests name the tool and the run.
    let seen = witness.seen();
    let header = |name: &str, at: usize| {
        seen[at].headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    assert!(
        header("user-agent", 0).is_some_and(|agent| agent.starts_with("loadgrid/") && agent.contains("run/"))
    );
    assert_eq!(
        (0..40).filter(|&at| header("cookie", at).as_deref() == Some("sid=abc")).count(),
        38,
        "all but the first of each worker's user"
    );
}

//! Scenarios as people write them: every file under `scenarios/` is valid, the schema agrees with the
//! parser, and plans hold what the text says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod common;

use common::{Given, to_json};
use loadgrid_common::plan::{self, LoadView};
use loadgrid_coordinator::scenario::{self, LoadOverrides, Loaded, Overrides};

fn given() -> Given {
    let accounts = "email,password,unused\na@x,1,z\nb@x,2,z\nc@x,3,z\n";
    Given {
        files: [("accounts.csv".to_owned(), accounts.into()), ("key".to_owned(), b"s3cret\n".to_vec())]
            .into(),
        environment: [("TARGET".to_owned(), "http://127.0.0.1:81".to_owned())].into(),
    }
}

fn load_with(text: &str, overrides: &Overrides) -> Result<Loaded, String> {
    scenario::load("test.yaml", text, &given(), overrides).map_err(|problems| problems.to_string())
}

fn load(text: &str) -> Result<Loaded, String> {
    load_with(text, &Overrides::default())
}

const RICH: &str = r#"
version: 1
name: rich
seed: 9
target: ${env.TARGET | default("http://nobody")}
x-anchor: &pause { between: [1ms, 3ms] }
vars: { size: 2, double: "${vars.size * 2}", rate: 10/s }
secrets: { key: { file: key } }
data:
  account: { csv: { file: accounts.csv, pick: unique, exhausted: fail } }
  person: { generate: { rows: 100, columns: { name: "p${row}", odd: "${row % 2}" } } }
http:
  timeout: { connect: 1s, response: 2s }
  redirects: 5
  cookies: per-user
  headers: { accept: application/json }
users:
  a:
    data: [ account ]
    start: [ call: login ]
    loop:
      - call: browse
      - think: *pause
      - think: { lognormal: { median: 1ms, p95: 3ms, max: 5ms } }
    stop: [ post: /logout ]
  b:
    data: [ person ]
    loop:
      - put: { url: "/p/${person.name}", form: { a: "${vars.double}", b: "x y" }, query: { q: "ä" }, headers: { x-signed: "${person.odd}" } }
      - patch: { url: /p, body: "raw ${user.id}" }
      - head: /p
      - delete: { url: /p, cookies: { one: "1" }, redirects: 0, timeout: 100ms }
flows:
  login:
    - post:
        url: /login
        json: { email: "${account.email}", n: "${vars.size}", list: [ 1, true, null, "007" ], key: "${secrets.key}" }
        expect: { status: [ 200, 3xx ], within: 1s, json: { $.token: { matches: "^x" }, $.id: 5 } }
        capture: { token: $.token, session: { cookie: sid }, etag: { header: ETag, optional: true } }
        required: true
    - headers: { authorization: "Bearer ${token}" }
    - set: { basket: { items: [ "${token}" ], size: "${vars.size}" } }
  browse:
    - choose:
        - { weight: 3, name: look, do: [ get: "/x?page=${int(1, 9)}" ] }
        - { weight: 1, name: leave, do: [ end: user ] }
    - repeat: { max: 5, every: 10ms, until: "last.status == 200", do: [ get: /poll ] }
    - repeat: { times: 2, do: [ count: { polls: 1 } ] }
    - if: { when: "token is defined and basket.size > 1", then: [ get: /then ], else: [ end: iteration ] }
phases:
  - name: one
    load:
      - constant-vus: { user: a, vus: "${vars.size}", duration: 1m }
      - ramping-vus: { user: b, start: 1, stages: [ { to: 5, over: 10s }, { to: 0, over: 5s } ] }
  - name: two
    load:
      - constant-arrival-rate: { user: a, rate: "${vars.rate}", duration: 10s, max_vus: 1 }
      - ramping-arrival-rate: { user: b, start: 6/m, stages: [ { to: 10/s, over: 10s } ], arrivals: poisson }
thresholds: [ "p99(response_time, step=POST /login) < 1s", "sum(polls) >= 0", "rate(checks) > 50%" ]
grid: { min_workers: 2, wait: 5s, weights: equal, start_skew: 5ms, snapshot: 500ms }
"#;

#[test]
fn a_rich_scenario_becomes_the_plan_it_says() {
    let Loaded { plan, bundle } = load(RICH).unwrap();
    assert_eq!((plan.name.as_str(), plan.seed, plan.target.as_str()), ("rich", 9, "http://127.0.0.1:81"));
    assert_eq!(bundle.secrets["key"], "s3cret");
    assert!(!String::from_utf8_lossy(&bundle.plan).contains("s3cret"), "a secret is no part of the plan");
    assert_eq!(plan.sources[0].columns, ["email"], "only used columns travel");
    assert_eq!(String::from_utf8_lossy(&bundle.blobs[0].content), "email\na@x\nb@x\nc@x\n");
    let plan::step::Step::Http(put) = plan.users[1].body[0].step.as_ref().unwrap() else {
        panic!("a request")
    };
    assert_eq!(put.headers[0].name, "x-signed", "only keys of ours may begin with x- and be free");
    assert_eq!(plan.actions, ["look", "leave"]);
    assert_eq!(plan.counters, ["polls"]);
    let views: Vec<LoadView> = plan
        .phases
        .iter()
        .flat_map(|phase| phase.loads.iter().map(|load| load.view(phase).unwrap()))
        .collect();
    assert_eq!(views[0].users(), 2);
    assert_eq!(views[1].users(), 5);
    assert_eq!(views[2].planned(), Some(100));
    assert_eq!(views[3].planned(), Some(51));
    let plan::step::Step::Http(login) = plan.users[0].start[0].step.as_ref().unwrap() else {
        panic!("a call is replaced")
    };
    let body = login.body.as_ref().unwrap();
    let literal: String = body
        .parts
        .iter()
        .filter_map(|part| match &part.part {
            Some(plan::part::Part::Literal(text)) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        literal, r#"{"email":,"n":2,"list":[1,true,null,"007"],"key":}"#,
        "constants are folded in, and keep their type"
    );
    assert_eq!(plan::decode(&bundle.plan).unwrap(), plan);
}

#[test]
fn the_short_form_is_short_for_the_long_one() {
    let short = load("version: 1\ntarget: http://127.0.0.1:8080\nsteps: [ get: / ]\nload: { rate: 100/s, for: 30s }\nthresholds: [ \"p99(response_time) < 100ms\" ]\n").unwrap();
    let long = load(
        "version: 1
target: http://127.0.0.1:8080
users:
  user: { loop: [ get: / ] }
phases:
  - name: main
    load: [ constant-arrival-rate: { user: user, rate: 100/s, duration: 30s } ]
thresholds: [ \"p99(response_time) < 100ms\" ]
",
    )
    .unwrap();
    assert_eq!(short.plan, long.plan);
}

#[test]
fn identities_and_rows_do_not_overlap() {
    let text = "version: 1
target: http://127.0.0.1:1
data: { account: { generate: { rows: 30, columns: { n: \"${row}\" } } } }
users:
  a: { data: [ account ], loop: [ get: \"/${account.n}\" ] }
  b: { data: [ account ], loop: [ get: \"/${account.n}\" ] }
phases:
  - { name: one, load: [ constant-vus: { user: a, vus: 5, duration: 1s }, constant-vus: { user: a, vus: 3, duration: 1s } ] }
  - { name: two, load: [ constant-vus: { user: a, vus: 6, duration: 1s }, constant-arrival-rate: { user: b, rate: 10/s, duration: 1s } ] }
";
    let plan = load(text).unwrap().plan;
    let bases: Vec<u64> =
        plan.phases.iter().flat_map(|phase| phase.loads.iter().map(|load| load.identity_base)).collect();
    assert_eq!(
        bases,
        [0, 5, 0, 0],
        "loads of one phase have users of their own; a later phase uses them again"
    );
    assert_eq!(plan.users[0].bindings[0].offset, 0);
    assert_eq!(plan.users[1].bindings[0].offset, 8, "behind the eight users of the other type");
    let Some(plan::load::Model::Open(open)) = &plan.phases[1].loads[1].model else { panic!("an open load") };
    assert_eq!(open.max_vus, 22, "as many users as there are rows left");
}

#[test]
fn the_command_line_overrides() {
    let text = "version: 1\ntarget: http://127.0.0.1:1\nvars: { n: 1 }\nsteps: [ get: \"/${vars.n}\" ]\nload: { rate: 100/s, for: 30s }\n";
    let overrides = Overrides {
        vars: vec![("n".to_owned(), "7".to_owned())],
        target: Some("http://127.0.0.1:2/base/".to_owned()),
        seed: Some(3),
        load: LoadOverrides {
            vus: Some(4),
            duration: Some(std::time::Duration::from_secs(2)),
            rate: Some(loadgrid_common::units::Rate::per_second(5)),
        },
        ..Overrides::default()
    };
    let plan = load_with(text, &overrides).unwrap().plan;
    assert_eq!((plan.seed, plan.target.as_str()), (3, "http://127.0.0.1:2/base"));
    let view = plan.phases[0].loads[0].view(&plan.phases[0]).unwrap();
    assert_eq!((view.planned(), view.users()), (Some(10), 4));
    assert_eq!(plan.steps, ["GET /${vars.n}"]);
    let unknown = Overrides { vars: vec![("m".to_owned(), "7".to_owned())], ..Overrides::default() };
    assert!(load_with(text, &unknown).unwrap_err().contains("no such var"));
    let closed = text.replace("rate: 100/s", "vus: 3");
    assert!(load_with(&closed, &overrides).unwrap_err().contains("-r does not fit"));
}

#[test]
fn the_schema_agrees_with_the_parser() {
    let schema = scenario::schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let rich = to_json(RICH);
    assert!(
        validator.is_valid(&rich),
        "{:?}",
        validator.iter_errors(&rich).map(|e| format!("{e} at {}", e.instance_path)).collect::<Vec<_>>()
    );
    for (good, bad) in [
        ("redirects: 5", "redirect: 5"),
        ("duration: 1m }", "duration: soon }"),
        ("- head: /p", "- heads: /p"),
        ("arrivals: poisson", "arrivals: random"),
        ("weights: equal", "weights: heavy"),
        ("rows: 100", "rows: many"),
    ] {
        let text = RICH.replace(good, bad);
        assert_ne!(text, RICH);
        assert!(load(&text).is_err(), "{bad}");
        assert!(!validator.is_valid(&to_json(&text)), "the schema accepts `{bad}`");
    }
}

#[test]
fn problems_do_not_depend_on_one_another() {
    let text = "version: 1\ntarget: http://x\nsteps:\n  - get: { url: /a, expect: { statuss: 1 } }\n  - post: { jsn: {} }\nload: { vus: x, for: 1s, every: 2s }\n";
    let problems = load(text).unwrap_err();
    for word in ["`statuss`", "`jsn`", "`url` is missing", "`x` is not a whole number", "`every`"] {
        assert!(problems.contains(word), "{word}: {problems}");
    }
    insta::assert_snapshot!(problems);
}

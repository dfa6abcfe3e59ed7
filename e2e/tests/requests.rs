//! What requests carry, and what is made of answers: every key of a request, seen by an outside witness.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loadgrid_e2e::faulty::{Certificates, tls_server};
use loadgrid_e2e::{Answer, Finished, Seen, Witness, run_local, run_with_files};

fn once(witness: &Witness, http: &str, steps: &str) -> String {
    format!(
        "version: 1\ntarget: {}\n{http}\nusers:\n  u:\n    loop:\n{steps}\nphases: [ {{ name: main, load: [ per-vu-iterations: {{ vus: 1, iterations: 1 }} ] }} ]\n",
        witness.target
    )
}

fn passed(finished: &Finished) {
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.report["ledger"]["closes"], true, "{}", finished.stdout);
    assert_eq!(finished.number("/ledger/iterations/failed"), 0, "{}", finished.stdout);
}

fn one(witness: &Witness, request: &str) -> Seen {
    let mut seen = witness.seen_of(request);
    assert_eq!(seen.len(), 1, "{request}: {:?}", witness.seen());
    seen.remove(0)
}

#[test]
fn bodies_are_what_the_scenario_says() {
    let witness = Witness::start();
    let photo: Vec<u8> = (0..=255).collect();
    let steps = r#"
      - set: { name: "Ä b" }
      - post: { url: /json, json: { a: "${name}", n: 3, list: [ true, null ] } }
      - post: { url: /form, form: { a: "${name}", b: "x&y" }, query: { q: "1 2" } }
      - put: { url: /text, body: "raw ${name}" }
      - patch: { url: /file, body: { file: data/photo.bin, type: image/x-test } }
      - post:
          url: /parts
          multipart:
            note: "hello ${name}"
            photo: { from: data/photo.bin, type: image/x-test }
            other: { from: data/text.txt, name: renamed.txt }
      - options: /options
      - head: /head
      - delete: /delete
"#;
    let files: [(&str, &[u8]); 2] = [("data/photo.bin", &photo), ("data/text.txt", b"line\n")];
    passed(&run_with_files(&once(&witness, "", steps), &files, &[]));
    assert_eq!(one(&witness, "POST /json").body, "{\"a\":\"Ä b\",\"n\":3,\"list\":[true,null]}");
    assert_eq!(one(&witness, "POST /form?q=1+2").body, "a=%C3%84+b&b=x%26y");
    assert_eq!(one(&witness, "PUT /text").body, "raw Ä b");
    let file = one(&witness, "PATCH /file");
    assert_eq!(file.header("content-type"), "image/x-test");
    assert_eq!(file.header("content-length"), "256");
    let parts = one(&witness, "POST /parts");
    let boundary =
        parts.header("content-type").strip_prefix("multipart/form-data; boundary=").expect("a boundary");
    for part in [
        format!("--{boundary}\r\ncontent-disposition: form-data; name=\"note\"\r\n\r\nhello Ä b\r\n"),
        format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"photo\"; filename=\"photo.bin\"\r\ncontent-type: image/x-test\r\n\r\n"
        ),
        format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"other\"; filename=\"renamed.txt\"\r\ncontent-type: application/octet-stream\r\n\r\nline\n\r\n--{boundary}--\r\n"
        ),
    ] {
        assert!(parts.body.contains(&part), "{part}\nis not in\n{}", parts.body);
    }
    for request in ["OPTIONS /options", "HEAD /head", "DELETE /delete"] {
        one(&witness, request);
    }
}

#[test]
fn credentials_are_left_out_overridden_and_switched_off() {
    let witness = Witness::answering(|_| Answer::new(200, "{\"token\": \"t-1\"}"));
    let http = "http: { auth: { bearer: \"${token}\" } }";
    let steps = r#"
      - post: { url: /login, capture: { token: $.token } }
      - get: /default
      - get: { url: /basic, auth: { basic: { user: ada, password: "pw-${token}" } } }
      - get: { url: /none, auth: none }
      - get: { url: /header, headers: { authorization: mine } }
"#;
    passed(&run_local(&once(&witness, http, steps), &[]));
    let sent = |request| one(&witness, request).header("authorization").to_owned();
    assert_eq!(sent("POST /login"), "", "there is no token yet");
    assert_eq!(sent("GET /default"), "Bearer t-1");
    // RFC 7617: base64 of `ada:pw-t-1`.
    assert_eq!(sent("GET /basic"), "Basic YWRhOnB3LXQtMQ==");
    assert_eq!(sent("GET /none"), "");
    assert_eq!(sent("GET /header"), "mine");
}

#[test]
fn settings_of_all_requests_mean_each_type_s_own_variables() {
    let witness =
        Witness::answering(|seen| Answer::new(200, format!("{{\"token\": \"t{}\"}}", seen.request.len())));
    let text = format!(
        "version: 1
target: {}
http: {{ auth: {{ bearer: \"${{token}}\" }}, headers: {{ x-user: \"${{user.index}}\" }} }}
data:
  account: {{ inline: {{ rows: [ {{ mail: a@shop.test }} ], pick: random }} }}
  room: {{ inline: {{ rows: [ {{ id: lobby }} ], pick: random }} }}
setup: [ get: /setup ]
users:
  first: {{ data: [ account ], loop: [ post: {{ url: /in, capture: {{ token: $.token }} }}, get: \"/first?${{account.mail}}\" ] }}
  second: {{ data: [ account, room ], loop: [ get: \"/room?${{room.id}}\", post: {{ url: /enter, capture: {{ seat: $.token, token: $.token }} }}, get: \"/second?${{account.mail}}\" ] }}
  third: {{ loop: [ get: /third ] }}
phases:
  - name: main
    load:
      - per-vu-iterations: {{ vus: 1, iterations: 1, user: first }}
      - per-vu-iterations: {{ vus: 1, iterations: 1, user: second }}
      - per-vu-iterations: {{ vus: 1, iterations: 1, user: third }}
",
        witness.target
    );
    passed(&run_local(&text, &[]));
    let sent = |request| one(&witness, request).header("authorization").to_owned();
    assert_eq!(sent("GET /first?a@shop.test"), "Bearer t8", "what POST /in yielded");
    assert_eq!(sent("GET /second?a@shop.test"), "Bearer t11", "what POST /enter yielded");
    for request in ["GET /setup", "GET /third", "GET /room?lobby"] {
        assert_eq!(sent(request), "", "{request} has no token");
    }
}

#[test]
fn captures_find_what_stands_in_the_answer() {
    let page = r#"<html><form><input name="csrf" value="c-9"><a class=x href="/1">one</a><a class=x href="/2"> two </a></form></html>"#;
    let witness = Witness::answering(move |seen| match seen.request.as_str() {
        "GET /page" => Answer { headers: vec![("etag", "e-5".to_owned())], ..Answer::new(200, page) },
        "GET /json" => Answer::new(200, r#"{"items":[{"id":1},{"id":2},{"id":3}],"name":"n"}"#),
        _ => Answer::new(200, "{}"),
    });
    let steps = r#"
      - get:
          url: /page
          capture:
            csrf: { css: "input[name=csrf]", attr: value }
            links: { css: a.x, attr: href, pick: all }
            text: { css: "a:nth-of-type(2)" }
            first: { regex: 'href="([^"]+)"' }
            all: { regex: 'href="/\d"', pick: all }
            etag: { header: ETag }
            whole: { body: true }
            missing: { regex: nothing, optional: true }
      - get:
          url: /json
          capture:
            one: $.name
            ids: { json: "$.items[*].id", pick: all }
            some: { json: "$.items[*].id", pick: random }
      - post:
          url: /seen
          json: { csrf: "${csrf}", links: "${links}", text: "${text}", first: "${first}", all: "${all}", etag: "${etag}", size: "${whole | length}", none: "${missing is defined}", one: "${one}", ids: "${ids}", some: "${some}" }
"#;
    passed(&run_local(&once(&witness, "", steps), &[]));
    let body = one(&witness, "POST /seen").body;
    let seen: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let expected = serde_json::json!({
        "csrf": "c-9", "links": ["/1", "/2"], "text": "two", "first": "/1", "all": ["href=\"/1\"", "href=\"/2\""],
        "etag": "e-5", "size": page.chars().count(), "none": false, "one": "n", "ids": [1, 2, 3], "some": seen["some"],
    });
    assert_eq!(seen, expected);
    assert!((1..=3).contains(&seen["some"].as_u64().unwrap_or(0)));
}

#[test]
fn checks_pass_and_fail_and_are_listed() {
    let witness = Witness::answering(|_| Answer {
        headers: vec![("x-kind", "shop".to_owned())],
        ..Answer::new(200, r#"{"list":[1,2],"text":"abc","none":null}"#)
    });
    let steps = r#"
      - get:
          url: /good
          expect:
            status: [ 200, 3xx ]
            not_status: 5xx
            within: 5s
            headers: { x-kind: shop, x-none: { exists: false }, content-type: { contains: text } }
            body: { contains: abc, matches: '"list":\[', length: { min: 10, max: 100 } }
            json: { $.list: { count: 2 }, "$.list[*]": { count: { min: 2 } }, $.text: { type: string }, $.none: { type: "null" }, "$.list[0]": 1 }
      - get:
          url: /bad
          expect:
            not_status: [ 200 ]
            headers: { x-kind: { matches: "^a" } }
            body: nothing
            json: { $.list: { count: { max: 1 } }, $.text: { type: number } }
"#;
    let finished = run_local(&once(&witness, "", steps), &[]);
    let checks = finished.report["checks"].as_array().cloned().unwrap_or_default();
    let of = |step: &str, key: &str| {
        let own =
            checks.iter().filter(|check| check["check"].as_str().is_some_and(|name| name.starts_with(step)));
        own.map(|check| check[key].as_u64().unwrap_or(0)).collect::<Vec<_>>()
    };
    assert_eq!(of("GET /good", "passed"), [1; 14], "{checks:?}");
    assert_eq!(of("GET /good", "failed"), [0; 14]);
    assert_eq!((of("GET /bad", "passed"), of("GET /bad", "failed")), (vec![0; 5], vec![1; 5]));
    // Both those that passed and those that failed are listed for people.
    for words in ["GET /good: header x-kind is shop", "GET /bad: $.text is of type number"] {
        assert!(finished.stdout.contains(words), "{words}: {}", finished.stdout);
    }
    assert_eq!(finished.number("/ledger/exchanges/failed"), 1);
}

#[test]
fn what_fails_is_tried_again_as_often_as_asked() {
    let asked = AtomicU64::new(0);
    let witness = Witness::answering(move |seen| {
        let n = if seen.request == "GET /x" { asked.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Answer::new(
            if seen.request == "GET /never" || seen.request == "GET /x" && n < 2 { 503 } else { 200 },
            "{}",
        )
    });
    let steps = "
      - get: { url: /x, headers: { idempotency-key: '${uuid()}' }, retry: { when: [ 503, connect ], max: 3, backoff: 100ms } }
      - get: { url: /never, retry: { when: [ 5xx ], max: 1 } }
      - get: { url: /never, name: other, retry: { when: [ 404 ], max: 5 } }
";
    let finished = run_local(&once(&witness, "", steps), &[]);
    let tried = witness.seen_of("GET /x");
    let keys: BTreeSet<&str> = tried.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 1, "it is the same request again: {keys:?}");
    let at: Vec<Duration> = tried.iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 3);
    assert!(
        at[1] - at[0] >= Duration::from_millis(100) && at[2] - at[1] >= Duration::from_millis(200),
        "{at:?}"
    );
    assert_eq!(witness.seen_of("GET /never").len(), 2 + 1);
    let steps = &finished.report["phases"][0]["steps"];
    assert_eq!((steps[0]["retries"].as_u64(), steps[0]["exchanges"].as_u64()), (Some(2), Some(3)));
    assert_eq!((steps[0]["failed"].as_u64(), steps[1]["retries"].as_u64()), (Some(2), Some(1)));
    assert_eq!(finished.number("/ledger/exchanges/sent"), 6, "every attempt is an exchange of its own");
}

#[test]
fn groups_labels_and_observed_values_are_measured() {
    let witness = Witness::answering(|_| Answer::new(200, "{}").after(Duration::from_millis(20)));
    let text = format!(
        r#"version: 1
target: {}
labels: {{ service: shop, build: "${{1 + 1}}" }}
users:
  u:
    loop:
      - group:
          name: checkout
          do:
            - get: {{ url: /a, labels: {{ area: money }} }}
            - get: /b
      - get: /b
      - observe: {{ basket: "${{iteration * 1.5}}" }}
      - count: {{ spent: 2.5 }}
phases: [ {{ name: main, load: [ per-vu-iterations: {{ vus: 2, iterations: 5 }} ] }} ]
thresholds:
  - "min(group_time, group=checkout) >= 40ms"
  - "count(exchanges, group=checkout) == 20"
  - "count(exchanges, step=GET /b, group=checkout) == 10"
  - "count(exchanges, step=GET /b) == 20"
  - "count(exchanges, label=area:money) == 10"
  - "max(basket) == 6"
  - "p50(basket) <= 3"
  - "sum(spent) == 25"
  - "rate(session_ok) == 100%"
  - "count(session_time) == 2"
"#,
        witness.target
    );
    let finished = run_local(&text, &[]);
    passed(&finished);
    assert_eq!(finished.report["run"]["labels"], serde_json::json!({ "service": "shop", "build": "2" }));
    assert_eq!(finished.report["phases"][0]["groups"][0]["ok"], 10);
    assert_eq!(finished.report["observed"]["basket"]["max"], 6.0);
    // Two lives of five iterations each.
    let spent = &finished.report["lives"][0]["counters"]["spent"];
    assert_eq!((spent["count"].as_u64(), spent["min"].as_f64()), (Some(2), Some(12.5)), "{spent}");
}

#[test]
fn connections_are_whose_the_scenario_says() {
    let peers = |http: &str| {
        let witness = Witness::start();
        let text = format!(
            "version: 1\ntarget: {}\nhttp: {{ {http} }}\nusers: {{ u: {{ loop: [ get: /x ] }} }}\nphases: [ {{ name: main, load: [ per-vu-iterations: {{ vus: 10, iterations: 6 }} ] }} ]\n",
            witness.target
        );
        passed(&run_local(&text, &["--workers", "1", "--threads", "1"]));
        let seen = witness.seen();
        assert_eq!(seen.len(), 60);
        seen.iter().map(|seen| seen.peer.port()).collect::<BTreeSet<u16>>().len()
    };
    assert_eq!(peers("connections: per-user"), 10);
    assert_eq!(peers("connections: new"), 60);
    assert_eq!(peers("connections: { mode: { shared: { size: 3 } }, idle: 30s }"), 3);
}

#[test]
fn versions_of_http_are_those_asked_for() {
    // The witness speaks both on one port, so what comes is what was asked for.
    for (version, pseudo) in [("http1", "HTTP/1.1"), ("http2", "HTTP/2.0")] {
        let witness = Witness::start();
        passed(&run_local(
            &once(&witness, &format!("http: {{ version: {version} }}"), "      - get: /x"),
            &[],
        ));
        assert_eq!(witness.seen()[0].version, pseudo);
    }
}

#[test]
fn tls_is_verified_as_the_scenario_says() {
    let certificates = Certificates::new();
    let handshakes = Arc::new(Mutex::new(Vec::new()));
    let noting = handshakes.clone();
    let server = tls_server(&certificates, true, move |name, shown| {
        noting.lock().expect("no panic").push((name, shown))
    });
    let scenario = |target: &str, http: &str| {
        format!(
            "version: 1\ntarget: {target}\nhttp: {{ timeout: {{ connect: 1s }}, {http} }}\nusers: {{ u: {{ loop: [ get: /x ] }} }}\nphases: [ {{ name: main, load: [ per-vu-iterations: {{ vus: 1, iterations: 2 }} ] }} ]\nthresholds: [ \"rate(failed) < 1%\" ]\n"
        )
    };
    let files: [(&str, &[u8]); 3] = [
        ("ca.pem", certificates.ca.as_bytes()),
        ("me.pem", certificates.client.0.as_bytes()),
        ("me.key", certificates.client.1.as_bytes()),
    ];
    let run = |target: &str, http: &str| run_with_files(&scenario(target, http), &files, &[]);
    let named = format!("https://shop.test:{}", server.port());
    let by_address = format!("https://127.0.0.1:{}", server.port());
    let client = "client: { cert: me.pem, key: me.key }";

    let good = run(&named, &format!("hosts: {{ shop.test: 127.0.0.1 }}, tls: {{ ca: ca.pem, {client} }}"));
    passed(&good);
    assert!(
        handshakes.lock().expect("no panic").iter().all(|seen| *seen == (Some("shop.test".to_owned()), true))
    );
    assert!(good.number("/phases/0/steps/0/tls_time/count") == 1, "one handshake for two requests");

    passed(&run(&by_address, &format!("tls: {{ ca: ca.pem, {client}, sni: shop.test }}")));

    let unknown = run(&named, &format!("hosts: {{ shop.test: 127.0.0.1 }}, tls: {{ {client} }}"));
    assert!(unknown.code == 99 && unknown.stdout.contains("tls_certificate"), "{}", unknown.stdout);
    let wrong_name = run(&by_address, &format!("tls: {{ ca: ca.pem, {client} }}"));
    assert!(wrong_name.stdout.contains("tls_certificate"), "{}", wrong_name.stdout);

    let unverified = run(&by_address, &format!("tls: {{ verify: false, {client} }}"));
    passed(&unverified);
    for said in [&unverified.stdout, &unverified.stderr] {
        assert!(said.contains("certificates were not verified"), "it is said loudly: {said}");
    }
    let key = certificates.client.1.lines().nth(1).expect("a line of the key");
    assert!(![&good.stdout, &good.stderr].iter().any(|said| said.contains(key)));

    let nobody = run(&named, "hosts: { shop.test: 127.0.0.1 }, tls: { ca: ca.pem }");
    assert_eq!(nobody.code, 99, "the server wants to see a certificate: {}", nobody.stdout);
}

#[test]
fn a_target_that_comes_up_late_is_waited_for() {
    let asked = AtomicU64::new(0);
    let witness = Witness::answering(move |seen| {
        let is_down = seen.request == "GET /health" && asked.fetch_add(1, Ordering::Relaxed) < 2;
        Answer::new(if is_down { 503 } else { 200 }, "{}")
    });
    let text = once(&witness, "wait_for: { get: /health, within: 20s }", "      - get: /x");
    let finished = run_local(&text, &["--workers", "1"]);
    passed(&finished);
    assert_eq!(witness.seen_of("GET /health").len(), 3);
    assert_eq!(finished.number("/ledger/exchanges/sent"), 1, "asking is no part of the run");
    let never = once(&witness, "wait_for: { get: /health, within: 300ms }", "      - get: /x");
    let never = never.replace("get: /health", "get: \"http://127.0.0.1:1/\"");
    let finished = run_local(&never, &["--workers", "1"]);
    assert!(
        finished.code == 112 && finished.stdout.contains("wait_for"),
        "{}\n{}",
        finished.stdout,
        finished.stderr
    );
}

#[test]
fn targets_have_names() {
    let (shop, auth) = (Witness::start(), Witness::start());
    let targets = format!("targets: {{ auth: \"{}/base\" }}", auth.target);
    passed(&run_local(
        &once(&shop, &targets, "      - get: \"auth:/login?n=${iteration}\"\n      - get: /x"),
        &[],
    ));
    one(&auth, "GET /base/login?n=0");
    one(&shop, "GET /x");
}

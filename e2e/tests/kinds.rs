//! Every failure of a target has its kind, from the wire to the report: a server for each, made for it.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use loadgrid_e2e::faulty::{Certificates, answering, full, read_head, server, silent, tls_server};
use loadgrid_e2e::{Finished, Witness, run_local};

/// A step that must fail with the kind it is named after.
struct Step {
    kind: &'static str,
    url: String,
    more: &'static str,
}

fn step(kind: &'static str, url: impl Into<String>) -> Step {
    Step { kind, url: url.into(), more: "" }
}

fn scenario(target: &str, http: &str, steps: &[Step]) -> String {
    let mut text = format!(
        "version: 1\ntarget: {target}\nhttp: {{ timeout: {{ connect: 300ms, response: 500ms }}, max_body: 1KiB{http} }}\n\
         users:\n  u:\n    loop:\n      - set: {{ elsewhere: 127.0.0.77 }}\n"
    );
    for Step { kind, url, more } in steps {
        writeln!(text, "      - get: {{ url: \"{url}\", name: {kind}{more} }}").expect("a string");
    }
    text.push_str("phases: [ { name: main, load: [ per-vu-iterations: { vus: 1, iterations: 1 } ] } ]\n");
    text
}

/// Each step's last exchange failed with the kind of its name, and nothing else went wrong.
fn check(finished: &Finished, steps: &[Step]) {
    let seen = finished.report["phases"][0]["steps"].as_array().cloned().unwrap_or_default();
    for Step { kind, .. } in steps {
        let found = seen.iter().find(|step| step["step"] == *kind);
        let found = found.unwrap_or_else(|| panic!("{kind} was not carried out\n{}", finished.stderr));
        assert_eq!(found["errors"], serde_json::json!({ *kind: 1 }), "{kind}: {found:#}");
        assert_eq!(found["generator_errors"], serde_json::json!({}), "{kind}");
    }
}

fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

fn repeated(head: &str, line: &str, times: usize) -> Vec<u8> {
    format!("{head}{}\r\n", line.repeat(times)).into_bytes()
}

#[test]
fn twenty_two_kinds_are_named_right() {
    let witness = Witness::start();
    let (full, _held) = full();
    let certificates = Certificates::new();
    let tls = tls_server(&certificates, false, |_, _| ());
    let no_tls = server(|mut stream| {
        let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _rest = stream.read(&mut [0; 1_024]);
    });
    let stops_in_the_body = server(|mut stream| {
        if read_head(&mut stream) {
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort");
            std::thread::sleep(Duration::from_secs(3));
        }
    });
    let resets = server(|stream| {
        // Unread bytes at the close make the system send a reset.
        let _first = (&stream).read(&mut [0; 1]);
    });
    let hangs_up = server(|mut stream| {
        read_head(&mut stream);
        let _closed = stream.shutdown(Shutdown::Both);
    });
    let once = server(|mut stream| {
        if read_head(&mut stream) {
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
        // The next request is read, and answered with a close.
        read_head(&mut stream);
    });
    let round =
        answering("HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let nowhere = answering("HTTP/1.1 302 Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let ok = "HTTP/1.1 200 OK\r\n";
    let large = [repeated("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n", "", 0), vec![b'x'; 5_000]].concat();
    let steps = [
        step("dns", "http://nobody.invalid/"),
        step("connect_refused", format!("http://{}/", closed())),
        step("connect_timeout", format!("http://{full}/")),
        step("tls_certificate", format!("https://localhost:{}/", tls.port())),
        step("tls", format!("https://{no_tls}/")),
        step("tls_timeout", format!("https://{}/", silent())),
        step("timeout", format!("http://{}/", silent())),
        step("body_timeout", format!("http://{stops_in_the_body}/")),
        step("reset", format!("http://{resets}/")),
        step("eof", format!("http://{hangs_up}/")),
        Step { kind: "first", url: format!("http://{once}/"), more: "" },
        step("eof_on_reused", format!("http://{once}/")),
        step("body_eof", format!("http://{}/", answering(format!("{ok}content-length: 10\r\n\r\nshort")))),
        step("protocol", format!("http://{}/", answering("BONJOUR\r\n\r\n"))),
        step("head_too_large", format!("http://{}/", answering(repeated(ok, "a: b\r\n", 300)))),
        step(
            "body_framing",
            format!("http://{}/", answering(format!("{ok}transfer-encoding: chunked\r\n\r\nzz\r\n"))),
        ),
        step("status", format!("http://{}/", answering("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"))),
        Step {
            kind: "check",
            url: "/".to_owned(),
            more: ", expect: { json: { $.there: { exists: true } } }",
        },
        Step { kind: "capture", url: "/".to_owned(), more: ", capture: { value: $.there }" },
        step("body_too_large", format!("http://{}/", answering(large))),
        step("redirects", format!("http://{round}/")),
        step("redirect_address", format!("http://{nowhere}/")),
        step("target_not_allowed", "http://${elsewhere}:1/"),
    ];
    let finished = run_local(&scenario(&witness.target, "", &steps), &["--workers", "1"]);
    let named: Vec<Step> = steps.into_iter().filter(|step| step.kind != "first").collect();
    assert_eq!(named.len(), 22);
    check(&finished, &named);
    assert_eq!(finished.number("/ledger/exchanges/failed"), 22, "{}", finished.stdout);
    // The redirect that leads nowhere: the first answer, and three redirects that were followed.
    assert_eq!(finished.number("/ledger/exchanges/sent"), 23 + 3);
    assert!(finished.report["ledger"]["closes"] == true, "{}", finished.stdout);
}

#[test]
fn a_stream_that_the_target_resets_is_http2() {
    let witness = Witness::start();
    let resets = server(|mut stream| {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        // SETTINGS, then RST_STREAM of stream 1 with INTERNAL_ERROR (RFC 9113, sections 6.4 and 6.5).
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        let _settings = stream.write_all(&settings);
        // Its own SETTINGS and the request come; no frame of them is looked at.
        std::thread::sleep(Duration::from_millis(50));
        let _reset = stream.write_all(&reset);
        let _rest = stream.read_to_end(&mut Vec::new());
    });
    let steps = [step("http2", format!("http://{resets}/"))];
    let finished = run_local(&scenario(&witness.target, ", version: http2", &steps), &["--workers", "1"]);
    check(&finished, &steps);
}

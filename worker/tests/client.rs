//! The HTTP client against servers that misbehave on purpose: every failure has its kind.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use loadgrid_common::stats::ErrorKind;
use loadgrid_common::targets::AllowedTargets;
use loadgrid_worker::client::{
    ClientOptions, ClientSettings, Exchange, HttpClient as _, Request, ReqwestClient,
};

/// A server that does one thing with every connection.
fn server(behave: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || listener.incoming().filter_map(Result::ok).for_each(&behave));
    address
}

/// Reads a request's head.
fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

fn answer(text: &'static str) -> SocketAddr {
    server(move |mut stream| {
        if read_head(&mut stream) {
            let _sent = stream.write_all(text.as_bytes());
        }
    })
}

fn client(allowed: &[&str]) -> ReqwestClient {
    let options = ClientOptions { connect_timeout: Duration::from_millis(500), ..ClientOptions::default() };
    let settings = ClientSettings::new(&options, AllowedTargets::new(allowed)).expect("settings");
    ReqwestClient::new(&settings).expect("a client")
}

fn exchange(client: &mut ReqwestClient, url: &str) -> Exchange {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(send(client, url))
}

async fn send(client: &mut ReqwestClient, url: &str) -> Exchange {
    let url = url::Url::parse(url).expect("an address");
    let request = Request { method: http::Method::GET, url, headers: http::HeaderMap::new(), body: None };
    client.exchange(request, Duration::from_millis(700), 1_000).await
}

fn kind_of(url: &str) -> ErrorKind {
    let exchange = exchange(&mut client(&["loopback", "nobody.invalid"]), url);
    exchange.outcome.expect_err("the server misbehaves")
}

#[test]
fn every_failure_has_its_kind() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let silent = server(|mut stream| {
        read_head(&mut stream);
        std::thread::sleep(Duration::from_secs(3));
    });
    let hangs_up = server(|mut stream| {
        read_head(&mut stream);
        let _closed = stream.shutdown(Shutdown::Both);
    });
    let resets = server(|stream| {
        // Unread bytes at the close make the system send a reset.
        let mut byte = [0; 1];
        let _first = (&stream).read(&mut byte);
        drop(stream);
    });
    let not_tls = answer("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    let garbage = server(|mut stream| {
        let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        std::thread::sleep(Duration::from_secs(1));
    });
    for (url, kind) in [
        (format!("https://{garbage}/"), ErrorKind::Tls),
        (format!("http://{closed}/"), ErrorKind::ConnectRefused),
        ("http://nobody.invalid/".to_owned(), ErrorKind::Dns),
        ("http://192.0.2.1/".to_owned(), ErrorKind::NotAllowed),
        ("http://169.254.169.254/".to_owned(), ErrorKind::NotAllowed),
        (format!("http://{silent}/"), ErrorKind::Timeout),
        (format!("http://{hangs_up}/"), ErrorKind::Eof),
        (format!("http://{resets}/"), ErrorKind::Reset),
        (format!("https://{not_tls}/"), ErrorKind::TlsTimeout),
        (format!("http://{}/", answer("BONJOUR\r\n\r\n")), ErrorKind::Protocol),
        (
            format!("http://{}/", answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")),
            ErrorKind::BodyFraming,
        ),
        (
            format!("http://{}/", answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort")),
            ErrorKind::BodyEof,
        ),
        (format!("http://{}/", answer("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n")), ErrorKind::BodyEof),
    ] {
        assert_eq!(kind_of(&url), kind, "{url}");
    }
}

#[test]
fn a_body_beyond_the_limit_is_cut_off() {
    let large = server(|mut stream| {
        read_head(&mut stream);
        let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
        let piece = [b'x'; 4096];
        while stream.write_all(&piece).is_ok() {}
    });
    assert_eq!(kind_of(&format!("http://{large}/")), ErrorKind::BodyTooLarge);
}

#[test]
fn a_reused_connection_that_is_closed_under_the_request_is_told_apart() {
    let once = server(|mut stream| {
        if read_head(&mut stream) {
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
        // The next request is read, and answered with a close.
        read_head(&mut stream);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = client(&["loopback"]);
        let first = send(&mut client, &format!("http://{once}/")).await;
        assert!(first.connect.is_some() && first.outcome.is_ok(), "the first opens a connection");
        let second = send(&mut client, &format!("http://{once}/")).await;
        assert!(second.connect.is_none(), "the second uses it");
        assert_eq!(second.outcome.expect_err("it was closed"), ErrorKind::EofOnReused);
    });
}

#[test]
fn times_and_sizes_are_those_of_the_wire() {
    let slow = server(|mut stream| {
        read_head(&mut stream);
        std::thread::sleep(Duration::from_millis(60));
        let _head = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no");
        std::thread::sleep(Duration::from_millis(60));
        let _rest = stream.write_all(b"k");
    });
    let exchange = exchange(&mut client(&["loopback"]), &format!("http://{slow}/path"));
    let answer = exchange.outcome.expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    let first = exchange.first_byte.expect("a first byte").since(exchange.sent);
    let whole = exchange.done.since(exchange.sent);
    assert!(
        first >= Duration::from_millis(55) && whole >= first + Duration::from_millis(50),
        "{first:?} {whole:?}"
    );
    assert!(
        exchange.connect.is_some_and(|connect| connect < Duration::from_millis(50)) && exchange.tls.is_none()
    );
    // HTTP/1.1 200 OK, content-length: 2, an empty line, two bytes.
    assert_eq!(exchange.bytes_received, 17 + 19 + 2 + 2);
}

//! Servers that misbehave on purpose, each in one way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A server that does one thing with every connection, each on a thread of its own; gives its address.
///
/// # Panics
/// Where it cannot listen.
#[must_use]
pub fn server(behave: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let behave = Arc::new(behave);
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let behave = behave.clone();
            std::thread::spawn(move || behave(stream));
        }
    });
    address
}

/// Reads a request's head; false where none came.
pub fn read_head(stream: &mut TcpStream) -> bool {
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

/// A server that answers every request with these bytes and closes.
#[must_use]
pub fn answering(text: impl Into<Vec<u8>>) -> SocketAddr {
    let text = text.into();
    server(move |mut stream| {
        if read_head(&mut stream) {
            let _sent = stream.write_all(&text);
            let _closed = stream.shutdown(Shutdown::Write);
            // The client closes first, so that nothing is lost to a reset.
            let _rest = stream.read(&mut [0; 1]);
        }
    })
}

/// A server that accepts, and says nothing for as long as any test waits.
#[must_use]
pub fn silent() -> SocketAddr {
    server(|mut stream| {
        let _limited = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let mut scratch = [0; 1_024];
        while stream.read(&mut scratch).is_ok_and(|read| read > 0) {}
    })
}

/// An address at which connections are never completed: its queue is full, and nobody accepts.
///
/// # Panics
/// Where it cannot listen.
#[must_use]
pub fn full() -> (SocketAddr, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    listener.listen(0).expect("listening");
    let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let mut held = vec![listener];
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not wait");
        // Most of them hang: that is what they are for.
        let _begun = socket.connect(&address.into());
        held.push(socket);
    }
    (address, held)
}

/// Certificates made for a test, as PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: String,
    /// For a server called `shop.test`, with its key.
    pub server: (String, String),
    /// For a client, with its key.
    pub client: (String, String),
}

impl Certificates {
    /// Makes an authority, a server and a client.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn new() -> Self {
        let key = || rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = key();
        let ca = authority.self_signed(&ca_key).expect("a certificate");
        let issuer = rcgen::Issuer::new(authority, ca_key);
        let sign = |name: &str| {
            let own = key();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            let certificate = params.signed_by(&own, &issuer).expect("a certificate");
            (certificate.pem(), own.serialize_pem())
        };
        Self { ca: ca.pem(), server: sign("shop.test"), client: sign("client.test") }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

/// A server that speaks TLS and answers everything with `body`; it asks for a client's certificate where told to.
/// What it saw of each handshake (the name asked for, whether a certificate was shown) goes to `saw`.
///
/// # Panics
/// Where the certificates cannot be used.
#[must_use]
pub fn tls_server(
    certificates: &Certificates,
    asks_for_certificate: bool,
    saw: impl Fn(Option<String>, bool) + Send + Sync + 'static,
) -> SocketAddr {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = if asks_for_certificate {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(read(&certificates.ca)).expect("a root");
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .expect("a verifier");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_slice(certificates.server.1.as_bytes()).expect("a key");
    let config = builder.with_single_cert(vec![read(&certificates.server.0)], key).expect("a configuration");
    let config = Arc::new(config);
    server(move |mut stream| {
        let mut session = rustls::ServerConnection::new(config.clone()).expect("a session");
        let mut tls = rustls::Stream::new(&mut session, &mut stream);
        let mut head = Vec::new();
        let mut byte = [0; 1];
        loop {
            while !head.ends_with(b"\r\n\r\n") {
                match tls.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            head.clear();
            saw(tls.conn.server_name().map(str::to_owned), tls.conn.peer_certificates().is_some());
            if tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").is_err() {
                return;
            }
        }
    })
}

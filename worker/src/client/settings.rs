//! What all clients of a run share: limits, names, TLS.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use loadgrid_common::plan;
use loadgrid_common::targets::AllowedTargets;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// How clients behave, as the plan says.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// Which version of HTTP.
    pub version: plan::HttpVersion,
    /// Whose connections they are.
    pub connections: plan::Connections,
    /// Connections of the whole grid, where they are shared.
    pub shared: u64,
    /// Names and the addresses that stand for them.
    pub hosts: HashMap<String, String>,
    /// How TLS is done.
    pub tls: TlsOptions,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle: Duration::from_secs(90),
            version: plan::HttpVersion::Auto,
            connections: plan::Connections::PerUser,
            shared: 0,
            hosts: HashMap::new(),
            tls: TlsOptions { verify: true, ..TlsOptions::default() },
        }
    }
}

/// How TLS is done.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// Whether the target's certificate is verified.
    pub verify: bool,
    /// PEM certificates to trust instead of the system's.
    pub ca: Option<Bytes>,
    /// The certificate that the users show, and its key; both PEM.
    pub identity: Option<(Bytes, String)>,
    /// The name to ask for and to verify.
    pub sni: Option<String>,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions")
            .field("verify", &self.verify)
            .field("sni", &self.sni)
            .finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// How clients behave.
    pub options: Arc<ClientOptions>,
    /// Hosts that may be sent load.
    pub allowed: Arc<AllowedTargets>,
    pub(super) hosts: Arc<HashMap<String, IpAddr>>,
    pub(super) tls: Arc<rustls::ClientConfig>,
}

/// Why clients cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// A certificate or key cannot be read.
    #[error("the {what} of `tls` cannot be read: {reason}")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Http(#[from] reqwest::Error),
}

impl ClientSettings {
    /// Settings for a run. Reads the system's certificates, so make them once.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(options: &ClientOptions, allowed: AllowedTargets) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if options.tls.verify {
            builder.with_root_certificates(roots(options.tls.ca.as_ref())?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        };
        let mut tls = match &options.tls.identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                let certificates = certificates_of(certificates, "client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|error| ClientError::Pem { what: "client key", reason: error.to_string() })?;
                builder.with_client_auth_cert(certificates, key)?
            }
        };
        tls.alpn_protocols = match options.version {
            plan::HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            plan::HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
            plan::HttpVersion::Http2 => vec![b"h2".to_vec()],
        };
        let hosts = options.hosts.iter().filter_map(|(name, address)| {
            Some((name.to_ascii_lowercase(), address.trim_matches(['[', ']']).parse().ok()?))
        });
        Ok(Self {
            options: Arc::new(options.clone()),
            allowed: Arc::new(allowed),
            hosts: Arc::new(hosts.collect()),
            tls: Arc::new(tls),
        })
    }

    /// The address that stands for a name, where the plan says one.
    #[must_use]
    pub fn address_of(&self, host: &str) -> Option<IpAddr> {
        self.hosts.get(&host.to_ascii_lowercase()).copied()
    }
}

fn certificates_of(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let fail = |reason: String| ClientError::Pem { what, reason };
    match read {
        Ok(certificates) if certificates.is_empty() => Err(fail("it holds no certificate".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(fail(error.to_string())),
    }
}

fn roots(ca: Option<&Bytes>) -> Result<rustls::RootCertStore, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates_of(ca, "CA")? {
            roots.add(certificate)?;
        }
        return Ok(roots);
    }
    for certificate in rustls_native_certs::load_native_certs().certs {
        // A certificate of the system that cannot be read is not one we could trust.
        if let Err(error) = roots.add(certificate) {
            tracing::debug!(%error, "a system certificate cannot be read");
        }
    }
    Ok(roots)
}

/// Takes any certificate, as `verify: false` asks; signatures are still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

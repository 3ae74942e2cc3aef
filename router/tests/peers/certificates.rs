//! Certificates made for one test: a self-signed one for 127.0.0.1 and localhost, and TLS on both sides with it.
use super::PATIENCE;
use super::http::{Client, Duplex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A certificate and its key.
pub(crate) struct Certificate {
    cert: CertificateDer<'static>,
    key: Vec<u8>,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Certificate {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self::of(&["localhost", "127.0.0.1"])
    }

    /// A new one for these names.
    pub(crate) fn of(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self { cert: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    /// Writes `cert.pem` and `key.pem` into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), pem("CERTIFICATE", &self.cert)).unwrap();
        std::fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &self.key)).unwrap();
    }

    /// The server's side of TLS with it.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.cert.clone()], key)
            .unwrap();
        Arc::new(config)
    }

    /// The client's side, that trusts it and nothing else.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// Connects to a gateway that has it.
    pub(crate) fn connect(&self, address: SocketAddr) -> (Box<dyn Duplex>, TcpStream) {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(self.client(), name).unwrap();
        (Box::new(StreamOwned::new(tls, tcp.try_clone().unwrap())), tcp)
    }

    /// An HTTP client over TLS.
    pub(crate) fn http(&self, address: SocketAddr) -> Client {
        let (stream, tcp) = self.connect(address);
        Client::over(stream, tcp, &format!("localhost:{}", address.port()))
    }
}

/// The server's side of TLS with one certificate, until the word is given, and then with another.
pub(crate) fn changing(
    first: &Certificate,
    then: &Certificate,
    changed: Arc<AtomicBool>,
) -> Arc<ServerConfig> {
    let key = |certificate: &Certificate| {
        let key = PrivateKeyDer::try_from(certificate.key.clone()).unwrap();
        let key = provider().key_provider.load_private_key(key).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.cert.clone()], key))
    };
    let changing = Changing { keys: [key(first), key(then)], changed };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(changing));
    // A session that is resumed shows no certificate.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

#[derive(Debug)]
struct Changing {
    keys: [Arc<CertifiedKey>; 2],
    changed: Arc<AtomicBool>,
}

impl ResolvesServerCert for Changing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.keys[usize::from(self.changed.load(Ordering::Acquire))].clone())
    }
}

/// The server's end of an accepted connection.
pub(crate) fn accept(config: &Arc<ServerConfig>, tcp: TcpStream) -> Box<dyn Duplex> {
    Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp))
}

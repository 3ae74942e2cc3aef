//! TLS on buffers: rustls driven by hand, so that it shares the loop's reads and writes. No I/O here.
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Bytes of ciphertext that rustls may hold back before it is asked to give them out.
const SEAL_CHUNK: usize = 16 * 1024;

/// The peer broke TLS, or does not trust us, or we do not trust it.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// The server's side of one connection; empty once the connection moved away.
#[derive(Debug)]
pub(crate) struct ServerTls(Option<ServerConnection>);

impl ServerTls {
    /// # Errors
    /// The configuration does not fit.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        ServerConnection::new(config).map(|tls| Self(Some(tls)))
    }

    /// What stays behind when a connection moves.
    pub(crate) fn spent() -> Box<Self> {
        Box::new(Self(None))
    }

    /// Ciphertext in, plaintext and what must be answered out.
    pub(crate) fn open(&mut self, raw: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let Some(tls) = &mut self.0 else { return Ok(()) };
        open(tls, raw, plain, out)
    }

    /// Plaintext in, ciphertext out.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if let Some(tls) = &mut self.0 {
            seal(tls, plain, out);
        }
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(tls) = &mut self.0 {
            tls.send_close_notify();
            drain(tls, out);
        }
    }
}

/// The client's side of one connection.
#[derive(Debug)]
pub(crate) struct ClientTls(ClientConnection);

impl ClientTls {
    /// # Errors
    /// The name is none that a certificate can have.
    pub(crate) fn new(config: Arc<ClientConfig>, host: &str) -> Result<Self, Broken> {
        let name = ServerName::try_from(host.to_owned()).map_err(|bad| Broken(bad.to_string()))?;
        ClientConnection::new(config, name).map(Self).map_err(|bad| Broken(bad.to_string()))
    }

    /// Is the handshake still under way?
    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// As the server's.
    pub(crate) fn open(&mut self, raw: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Broken> {
        open(&mut self.0, raw, plain, out)
    }

    /// As the server's; with nothing to seal it gives out the handshake's own bytes.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        seal(&mut self.0, plain, out);
    }
}

fn open<D>(
    tls: &mut rustls::ConnectionCommon<D>,
    mut raw: &[u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    while !raw.is_empty() {
        // Reading from a slice fails only when rustls holds too much plaintext, which is taken out each time.
        tls.read_tls(&mut raw).map_err(|bad| Broken(bad.to_string()))?;
        let state = tls.process_new_packets();
        // An alert that says why must leave even if the handshake failed.
        drain(tls, out);
        let state = state.map_err(|bad| Broken(bad.to_string()))?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        match tls.reader().read_exact(&mut plain[start..]) {
            Ok(()) => {}
            Err(bad) if bad.kind() == io::ErrorKind::WouldBlock => plain.truncate(start),
            Err(bad) => return Err(Broken(bad.to_string())),
        }
        if state.peer_has_closed() {
            break;
        }
    }
    Ok(())
}

fn seal<D>(tls: &mut rustls::ConnectionCommon<D>, plain: &[u8], out: &mut Vec<u8>) {
    if plain.is_empty() {
        drain(tls, out);
    }
    for chunk in plain.chunks(SEAL_CHUNK) {
        // The buffer is drained after each chunk, so that it takes all of the next.
        let _ = tls.writer().write_all(chunk);
        drain(tls, out);
    }
}

fn drain<D>(tls: &mut rustls::ConnectionCommon<D>, out: &mut Vec<u8>) {
    while tls.wants_write() {
        if tls.write_tls(out).is_err() {
            return;
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What our listeners speak.
///
/// # Errors
/// The files cannot be read, or do not fit together; says which.
pub(crate) fn server_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let bad = |what: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", what.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| bad(cert, &why))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|why| bad(key, &why))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|why| bad(cert, &why))?;
    // Only HTTP/1.1 is spoken: it removes a class of attacks, and every load balancer speaks it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What we speak to upstreams: the public roots, or only those in `ca`.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let certs =
                CertificateDer::pem_file_iter(file).map_err(|why| format!("{}: {why}", file.display()))?;
            for cert in certs {
                let cert = cert.map_err(|why| format!("{}: {why}", file.display()))?;
                roots.add(cert).map_err(|why| format!("{}: {why}", file.display()))?;
            }
            if roots.is_empty() {
                return Err(format!("{}: no certificate in it", file.display()));
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Trusts the holder of this one certificate, whatever names stand in it.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What the command line speaks to the gateway whose certificate lies here.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn pinned_config(cert: &Path) -> Result<Arc<ClientConfig>, String> {
    let certificate =
        CertificateDer::from_pem_file(cert).map_err(|why| format!("{}: {why}", cert.display()))?;
    let verifier = Pinned { certificate, provider: provider() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

//! One connection of a client that lives shortly: plain, or in TLS. Owns the socket and what TLS keeps; what is said is its
//! owner's.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::driver::{self, Socket};
use crate::run::CONNECT_TIMEOUT;

/// Whom a client trusts, and by which name the gateway has to be known.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl Trust {
    /// The certificates of a PEM file, for a gateway of this authority (`host:port`).
    ///
    /// # Errors
    /// What is wrong with the file or the name, in words.
    pub fn read(file: &Path, authority: &str) -> Result<Self, String> {
        let bad = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let pem = fs::read(file).map_err(|error| bad(&error))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
        }
        if roots.is_empty() {
            return Err(bad(&"no certificate is in it; it has to be PEM"));
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), name })
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    sealed: Vec<u8>,
}

impl Wire {
    /// Opens one; with trust, the handshake of TLS is over when it is there.
    pub(crate) async fn open(target: SocketAddr, trust: Option<&Trust>) -> io::Result<Self> {
        let socket = driver::within(CONNECT_TIMEOUT, Socket::connect(target)).await?;
        let mut wire = Self { socket, tls: None, sealed: Vec::new() };
        if let Some(Trust { config, name }) = trust {
            let tls = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
            wire.tls = Some(Box::new(tls));
            while wire.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                wire.send_sealed().await?;
                if wire.tls.as_ref().is_some_and(|tls| tls.is_handshaking() && tls.wants_read()) {
                    driver::within(CONNECT_TIMEOUT, wire.socket.readable()).await?;
                    // What came behind the handshake is kept by TLS until it is asked for.
                    if wire.receive_sealed()? == Some(0) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
            wire.send_sealed().await?;
        }
        Ok(wire)
    }

    /// A socket without TLS, as it is.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Sends all of it.
    pub(crate) async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.send_all(bytes).await,
            Some(tls) => {
                tls.writer().write_all(bytes)?;
                self.send_sealed().await
            }
        }
    }

    /// Waits for bytes, for so long at most, and appends them. No bytes: the peer has closed its side.
    pub(crate) async fn receive(
        &mut self,
        input: &mut Vec<u8>,
        limit: std::time::Duration,
    ) -> io::Result<usize> {
        let before = input.len();
        loop {
            if let Some(tls) = &mut self.tls {
                take_plain(tls, input)?;
                if before < input.len() {
                    return Ok(input.len() - before);
                }
            }
            driver::within(limit, self.socket.readable()).await?;
            if self.tls.is_some() {
                if self.receive_sealed()? == Some(0) {
                    return Ok(0);
                }
                self.send_sealed().await?;
                continue;
            }
            let mut chunk = [0; 2048];
            if let Some(count) = self.socket.receive(&mut chunk)? {
                input.extend_from_slice(&chunk[..count]);
                return Ok(count);
            }
        }
    }

    /// Takes what the peer sent, as far as TLS understands it. `None`: there was nothing.
    fn receive_sealed(&mut self) -> io::Result<Option<usize>> {
        let mut chunk = [0; 4096];
        let Some(count) = self.socket.receive(&mut chunk)? else { return Ok(None) };
        let Some(tls) = &mut self.tls else { return Ok(Some(count)) };
        let mut came = &chunk[..count];
        while !came.is_empty() {
            tls.read_tls(&mut came)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        Ok(Some(count))
    }

    async fn send_sealed(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        self.sealed.clear();
        while tls.wants_write() {
            tls.write_tls(&mut self.sealed)?;
        }
        self.socket.send_all(&self.sealed).await
    }
}

fn take_plain(tls: &mut ClientConnection, input: &mut Vec<u8>) -> io::Result<()> {
    let state = tls.process_new_packets().map_err(io::Error::other)?;
    let from = input.len();
    input.resize(from + state.plaintext_bytes_to_read(), 0);
    tls.reader().read_exact(&mut input[from..])
}

//! TLS in front of a provider, with a certificate that nobody has reason to trust: made on the spot and signed by itself.
//!
//! What comes in is decrypted and passed to the provider over a connection of its own, and what it says is passed back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

use crate::driver::{self, First, Listener, Socket};

/// How the listener behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The name in the certificate; `localhost` if empty.
    pub name: String,
    /// How long the handshake is kept waiting: a connect that is slow.
    pub handshake_ns: u64,
}

/// Listens on the calling thread, for as long as it runs, in front of a provider. Tells where it listens.
///
/// # Errors
/// The system's, if nothing can listen there; or no certificate can be made.
pub fn serve(address: SocketAddr, provider: SocketAddr, settings: TlsSettings) -> io::Result<SocketAddr> {
    serve_trusted(address, provider, settings).map(|(address, _)| address)
}

/// As [`serve`], and tells the certificate, in PEM, to whoever wants to trust it.
///
/// # Errors
/// See [`serve`].
pub fn serve_trusted(
    address: SocketAddr,
    provider: SocketAddr,
    settings: TlsSettings,
) -> io::Result<(SocketAddr, String)> {
    let (config, certificate) = config(&settings.name).map_err(io::Error::other)?;
    let listener = Listener::bind(address)?;
    let address = listener.address()?;
    driver::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    let (config, settings) = (Arc::clone(&config), settings.clone());
                    driver::spawn(async move {
                        // However it ends, that connection is over, and nobody else's.
                        relay(socket, provider, config, &settings).await.ok();
                    });
                }
                Err(_) => driver::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    Ok((address, certificate))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn config(name: &str) -> Result<(Arc<ServerConfig>, String), Failure> {
    let name = if name.is_empty() { "localhost" } else { name };
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let lines: Vec<String> = STANDARD
        .encode(made.cert.der())
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    Ok((Arc::new(config), pem))
}

async fn relay(
    outside: Socket,
    provider: SocketAddr,
    config: Arc<ServerConfig>,
    settings: &TlsSettings,
) -> io::Result<()> {
    if 0 < settings.handshake_ns {
        driver::sleep(Duration::from_nanos(settings.handshake_ns)).await;
    }
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let inside = Socket::connect(provider).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match driver::race(outside.readable(), inside.readable()).await {
            First::One(ready) => {
                ready?;
                match outside.receive(&mut buffer)? {
                    None => {}
                    Some(0) => return Ok(()),
                    Some(count) => {
                        let plain = decrypt(&mut tls, &buffer[..count])?;
                        inside.send_all(&plain).await?;
                    }
                }
            }
            First::Other(ready) => {
                ready?;
                match inside.receive(&mut buffer)? {
                    None => {}
                    Some(0) => {
                        tls.send_close_notify();
                        return send(&mut tls, &outside).await;
                    }
                    Some(count) => io::Write::write_all(&mut tls.writer(), &buffer[..count])?,
                }
            }
        }
        send(&mut tls, &outside).await?;
    }
}

fn decrypt(tls: &mut ServerConnection, mut came: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    while !came.is_empty() {
        tls.read_tls(&mut came)?;
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let from = plain.len();
        plain.resize(from + state.plaintext_bytes_to_read(), 0);
        io::Read::read_exact(&mut tls.reader(), &mut plain[from..])?;
    }
    Ok(plain)
}

/// Sends what TLS has to say.
async fn send(tls: &mut ServerConnection, outside: &Socket) -> io::Result<()> {
    let mut sealed = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut sealed)?;
    }
    outside.send_all(&sealed).await
}

//! Asking a running gateway: where it is, with which key, and one HTTP request at a time. Obeys `router/docs/cli.md`.
//!
//! It blocks, and is of the command line alone. What the gateway listens on may be TLS with a certificate for another
//! name than the one that it is reached by from here: if the address is the configuration's, so is the certificate, and
//! exactly that one is trusted.
use super::{REFUSED, complain};
use crate::config::{self, Config, Door, Overrides};
use crate::tls;
use clap::Args;
use clawgate_wire::http1::{BodyDecoder, HeadLimits, Length, parse_response, write_request_head};
use core::time::Duration;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// The exit code where the gateway could not be asked.
const UNREACHED: u8 = 4;
/// The exit code where it refused what was asked.
const DENIED: u8 = 5;
/// What names the gateway, if the command line does not.
const URL_VARIABLE: &str = "CLAWGATE_URL";
/// What holds the key, if the command line does not.
const KEY_VARIABLE: &str = "CLAWGATE_KEY";
/// Bytes of an answer: some hundred whole dead letters.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// To connect.
const CONNECT_AGE_MAX: Duration = Duration::from_secs(5);
const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 64 * 1024, headers_max: 64, target_bytes_max: 0 };

/// How a running gateway is asked.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Reach {
    /// The running gateway, as `http://host:port`; else CLAWGATE_URL, else where the configuration says that it listens
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A key with the scope `admin`; else CLAWGATE_KEY, else the first such key in the configuration. Others on this
    /// machine may see what stands on a command line
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// With an `https` URL: the certificates to trust in place of the public ones, PEM
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// How many seconds an answer may take
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    timeout: u16,
    /// For programs: one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The configuration is refused; it was said why.
    Config,
    /// It cannot be asked.
    Unreached(String),
    /// It said no.
    Denied { status: u16, code: String, text: String },
}

impl Trouble {
    /// Tells it, for people or for programs; the exit code.
    pub(super) fn tell(&self, as_json: bool) -> ExitCode {
        let (code, text, exit) = match self {
            Self::Config => return ExitCode::from(REFUSED),
            Self::Unreached(text) => ("UNREACHED", text.clone(), UNREACHED),
            Self::Denied { status: 401, .. } => {
                let text = format!(
                    "the gateway does not know this key (401): give one by --key or {KEY_VARIABLE}, with the scope `admin`"
                );
                ("UNAUTHENTICATED", text, DENIED)
            }
            Self::Denied { code, text, .. } => (code.as_str(), format!("{text} ({code})"), DENIED),
        };
        if as_json {
            super::print(&format!("{:#}\n", json!({ "error": { "code": code, "message": text } })));
        } else {
            // Nobody may be reading; there is nothing to be done about it.
            let _ = io::stderr().write_all(format!("error: {text}\n").as_bytes());
        }
        ExitCode::from(exit)
    }
}

/// One that refused several of many.
pub(super) fn some_denied() -> ExitCode {
    ExitCode::from(DENIED)
}

/// A way to a gateway.
pub(super) struct Client {
    addresses: Vec<SocketAddr>,
    /// As it stands in `Host`.
    authority: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    key: Option<String>,
    patience: Duration,
    /// How it is called in messages.
    shown: String,
}

impl Client {
    /// Finds the gateway and a key.
    pub(super) fn find(reach: &Reach, file: Option<&std::path::Path>) -> Result<Self, Trouble> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let url = reach.url.clone().or_else(|| variable(URL_VARIABLE));
        let key = reach.key.clone().or_else(|| variable(KEY_VARIABLE));
        // A configuration that is not there, or not right, matters only for what it is to say.
        let door = match (&url, &key) {
            (Some(_), Some(_)) => None,
            (url, _) => match config::door(file, &Overrides::default()) {
                Ok(door) => Some(door),
                Err(_) if url.is_some() => None,
                Err(problems) => {
                    complain(&problems);
                    return Err(Trouble::Config);
                }
            },
        };
        let key = key.or_else(|| Some(door.as_ref()?.key.as_ref()?.expose().to_owned()));
        if key.as_ref().is_some_and(|key| key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            let text = "a key is a word of visible ASCII characters, and the one given is none";
            return Err(Trouble::Unreached(text.to_owned()));
        }
        let patience = Duration::from_secs(u64::from(reach.timeout));
        match (url, door) {
            (Some(url), _) => Self::at_url(&url, reach.ca_file.as_deref(), key, patience),
            (None, Some(door)) => Self::at_door(&door, key, patience),
            (None, None) => Err(Trouble::Config),
        }
    }

    fn at_url(
        url: &str,
        ca_file: Option<&std::path::Path>,
        key: Option<String>,
        patience: Duration,
    ) -> Result<Self, Trouble> {
        let bad = |why: &str| Trouble::Unreached(format!("{url} is no address of a gateway: {why}"));
        let uri: http::Uri = url.parse().map_err(|why: http::uri::InvalidUri| bad(&why.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(bad("write http://host:port or https://host:port")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a key is given by --key"));
        }
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let found = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let addresses = found.map_err(|why| Trouble::Unreached(format!("{host} is not found: {why}")))?;
        let tls = match is_tls {
            false => None,
            true => {
                let config = tls::client_config(ca_file).map_err(Trouble::Unreached)?;
                let name = ServerName::try_from(host.to_owned()).map_err(|why| bad(&why.to_string()))?;
                Some((config, name))
            }
        };
        Ok(Self { addresses, authority: authority.to_string(), tls, key, patience, shown: url.to_owned() })
    }

    fn at_door(door: &Door, key: Option<String>, patience: Duration) -> Result<Self, Trouble> {
        let Some(listen) = door.listen.iter().find(|address| address.port() != 0) else {
            let text = "the configuration lets the system choose the port: name the gateway by --url";
            return Err(Trouble::Unreached(text.to_owned()));
        };
        let here = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let address = SocketAddr::new(here, listen.port());
        let tls = match &door.cert {
            None => None,
            Some(cert) => {
                let config = tls::pinned_config(cert).map_err(Trouble::Unreached)?;
                Some((config, ServerName::from(here)))
            }
        };
        let shown = format!("http{}://{address}", if tls.is_some() { "s" } else { "" });
        Ok(Self { addresses: vec![address], authority: address.to_string(), tls, key, patience, shown })
    }

    /// `data` of the answer to one request.
    pub(super) fn call(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        let (status, answer) = self.exchange(method, target, body).map_err(|why| {
            let is = |kinds: &[io::ErrorKind]| kinds.contains(&why.kind());
            let asked = if is(&[io::ErrorKind::ConnectionRefused]) {
                "nobody listens there; is the gateway running?".to_owned()
            } else if is(&[io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut]) {
                "it does not answer in time".to_owned()
            } else {
                why.to_string()
            };
            Trouble::Unreached(format!("the gateway at {} cannot be asked: {asked}", self.shown))
        })?;
        let said = serde_json::from_slice::<Value>(&answer).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match (said["success"].as_bool(), text(&said["error"]["code"])) {
            (Some(true), _) if (200..300).contains(&status) => Ok(said["data"].clone()),
            (_, Some(code)) => {
                let text = text(&said["error"]["message"]).unwrap_or_default();
                Err(Trouble::Denied { status, code, text })
            }
            _ => {
                let shown = &self.shown;
                let text = format!(
                    "what answers at {shown} is no Clawgate, or another version of it (HTTP {status})"
                );
                Err(Trouble::Unreached(text))
            }
        }
    }

    fn exchange(&self, method: &str, target: &str, body: Option<&Value>) -> io::Result<(u16, Vec<u8>)> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let bearer = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let mut headers = vec![("accept", "application/json")];
        let mut length = Length::None;
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
            length = Length::Exact(body.len() as u64);
        }
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        let mut request = Vec::new();
        write_request_head(&mut request, method, target, &self.authority, &headers, length, false);
        request.extend_from_slice(&body);
        let socket = self.connect()?;
        match &self.tls {
            None => ask(socket, &request),
            Some((config, name)) => {
                let tls = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
                ask(StreamOwned::new(tls, socket), &request)
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, CONNECT_AGE_MAX) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(self.patience))?;
                    socket.set_write_timeout(Some(self.patience))?;
                    return Ok(socket);
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }
}

/// Sends a request and reads the answer to its end.
fn ask(mut stream: impl Read + Write, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut raw = Vec::new();
    let mut stream = stream.take(ANSWER_BYTES_MAX as u64);
    match stream.read_to_end(&mut raw) {
        // Many end a connection without TLS's goodbye; the length of the body says whether all is there.
        Err(why) if why.kind() != io::ErrorKind::UnexpectedEof => return Err(why),
        Ok(_) | Err(_) => {}
    }
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer breaks off");
    let strange = |_| io::Error::new(io::ErrorKind::InvalidData, "what it answers is not HTTP");
    let head = parse_response(&raw, &HEAD_LIMITS, false).map_err(strange)?.ok_or_else(cut)?;
    let (status, mut rest) = (head.status, raw.get(head.bytes..).unwrap_or_default());
    let mut decoder = BodyDecoder::new(head.body, ANSWER_BYTES_MAX as u64);
    let mut body = Vec::new();
    loop {
        let piece = decoder.decode(rest).map_err(strange)?;
        body.extend_from_slice(piece.data);
        rest = rest.get(piece.consumed..).unwrap_or_default();
        if piece.done || (rest.is_empty() && decoder.may_close()) {
            return Ok((status, body));
        }
        if piece.consumed == 0 {
            return Err(cut());
        }
    }
}

/// The data directory that the configuration names.
pub(super) fn data_folder(file: Option<&std::path::Path>) -> Result<Option<PathBuf>, Trouble> {
    match Config::open(file, &Overrides::default()) {
        Ok(config) => Ok(config.data.folder),
        Err(problems) => {
            complain(&problems);
            Err(Trouble::Config)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Peer {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.says.read(into)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer(text: &str) -> io::Result<(u16, String)> {
        let peer = Peer { says: io::Cursor::new(text.as_bytes().to_vec()), heard: Vec::new() };
        ask(peer, b"GET").map(|(status, body)| (status, String::from_utf8(body).unwrap()))
    }

    #[test]
    fn answers_are_read_to_their_end_and_no_further() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", (200, "{}")),
            ("HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", (404, "{}")),
            ("HTTP/1.1 200 OK\r\n\r\nto the end", (200, "to the end")),
            ("HTTP/1.1 204 OK\r\n\r\n", (204, "")),
        ] {
            assert_eq!(answer(text).unwrap(), (expected.0, expected.1.to_owned()), "{text}");
        }
        for cut in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", "SSH-2.0-x\r\n\r\n"]
        {
            assert!(answer(cut).is_err(), "{cut}");
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        let at = |url: &str| Client::at_url(url, None, None, Duration::from_secs(1));
        let client = at("http://127.0.0.1:8787").map_err(|_| ()).unwrap();
        assert_eq!((client.authority.as_str(), client.tls.is_none()), ("127.0.0.1:8787", true));
        assert_eq!(at("http://[::1]:9").map_err(|_| ()).unwrap().addresses[0].port(), 9);
        for bad in ["127.0.0.1:8787", "ftp://127.0.0.1", "http://", "http://k@127.0.0.1", "\n"] {
            assert!(matches!(at(bad), Err(Trouble::Unreached(_))), "{bad:?}");
        }
    }
}

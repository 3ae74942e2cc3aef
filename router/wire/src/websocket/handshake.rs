//! The opening handshake, both sides. RFC 6455 section 4. Decides whether a request is a well-formed upgrade; who may
//! connect, from which origin and with which subprotocol is the caller's to say.

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::http1::{
    Headers, Length, RequestHead, ResponseHead, has_token, write_fields, write_target, write_visible,
};

/// RFC 6455 1.3: what is appended to the key before it is hashed.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client's request for a WebSocket, found in order.
#[derive(Clone, Debug)]
pub struct Upgrade<'b> {
    /// The key, as it came.
    pub key: &'b str,
    /// What proves to the client that we read it; for [`write_upgrade_response`].
    pub accept: [u8; 28],
    headers: Headers<'b>,
}

impl<'b> Upgrade<'b> {
    /// The subprotocols that the client offers, the one it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &'b str> + use<'_, 'b> {
        self.headers
            .values("sec-websocket-protocol")
            .filter_map(|list| core::str::from_utf8(list).ok())
            .flat_map(|list| list.split(','))
            .map(str::trim_ascii)
            .filter(|protocol| !protocol.is_empty())
    }
}

/// Why a request is no upgrade to a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpgradeRefusal {
    /// Not GET.
    Method,
    /// Not HTTP/1.1.
    Http10,
    /// `Upgrade` or `Connection` does not ask for it.
    NotUpgrade,
    /// It has a body, in which frames could hide.
    Body,
    /// Another version of the protocol than 13, or none.
    Version,
    /// No key, two keys, or one that is not 16 bytes of base64.
    Key,
}

impl UpgradeRefusal {
    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::Http10 | Self::Body | Self::Key => 400,
            Self::NotUpgrade | Self::Version => 426,
        }
    }

    /// A stable name for logs, metrics and answers.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Method => "WS_UPGRADE_METHOD",
            Self::Http10 => "WS_UPGRADE_HTTP10",
            Self::NotUpgrade => "WS_UPGRADE_MISSING",
            Self::Body => "WS_UPGRADE_BODY",
            Self::Version => "WS_UPGRADE_VERSION",
            Self::Key => "WS_UPGRADE_KEY",
        }
    }

    /// The fields that the answer must have beside the usual ones.
    #[must_use]
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("Allow", "GET")],
            Self::Http10 | Self::Body | Self::Key => &[],
            // RFC 9110 15.5.22: a 426 "MUST send an Upgrade header field", and 7.8 has it named in Connection.
            Self::NotUpgrade => &[("Upgrade", "websocket"), ("Connection", "Upgrade")],
            // RFC 6455 4.4: "the server MUST [...] include the Sec-WebSocket-Version header field(s)".
            Self::Version => {
                &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
            }
        }
    }
}

impl core::fmt::Display for UpgradeRefusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.code())
    }
}

impl core::error::Error for UpgradeRefusal {}

/// Checks a client's request (RFC 6455 4.2.1).
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_upgrade<'b>(head: &RequestHead<'b>) -> Result<Upgrade<'b>, UpgradeRefusal> {
    if head.method != "GET" {
        return Err(UpgradeRefusal::Method);
    }
    if head.minor != 1 {
        return Err(UpgradeRefusal::Http10);
    }
    if !head.upgrade_websocket {
        return Err(UpgradeRefusal::NotUpgrade);
    }
    if !matches!(head.body, Length::None | Length::Exact(0)) {
        return Err(UpgradeRefusal::Body);
    }
    if only(&head.headers, "sec-websocket-version") != Some("13") {
        return Err(UpgradeRefusal::Version);
    }
    // RFC 6455 4.2.1: "a base64-encoded [...] value that, when decoded, is 16 bytes in length".
    let key = only(&head.headers, "sec-websocket-key").ok_or(UpgradeRefusal::Key)?;
    let mut nonce = [0; 18];
    if STANDARD.decode_slice(key, &mut nonce) != Ok(16) {
        return Err(UpgradeRefusal::Key);
    }
    Ok(Upgrade { key, accept: accept_key(key), headers: head.headers.clone() })
}

/// The value of a field that occurs once.
fn only<'b>(headers: &Headers<'b>, name: &str) -> Option<&'b str> {
    let mut values = headers.values(name);
    let value = values.next()?;
    if values.next().is_some() { None } else { core::str::from_utf8(value).ok() }
}

/// RFC 6455 4.2.2: "concatenating the value of the key [...] with the string "258EAFA5-[...]", taking the SHA-1 hash of
/// this concatenated value to obtain a 20-byte value and base64-encoding this 20-byte hash". ASCII.
#[must_use]
pub fn accept_key(key: &str) -> [u8; 28] {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [b'='; 28];
    let written = STANDARD.encode_slice(hash, &mut accept);
    debug_assert!(written == Ok(28), "20 bytes are 28 of base64");
    accept
}

/// A client's key from 16 random bytes, chosen for this connection alone (RFC 6455 4.1).
#[must_use]
pub fn client_key(nonce: [u8; 16]) -> [u8; 24] {
    let mut key = [b'='; 24];
    let written = STANDARD.encode_slice(nonce, &mut key);
    debug_assert!(written == Ok(24), "16 bytes are 24 of base64");
    key
}

/// Writes the response that opens the connection. `protocol` is one that the client offered, if any.
pub fn write_upgrade_response(out: &mut Vec<u8>, accept: &[u8; 28], protocol: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept);
    out.extend_from_slice(b"\r\n");
    if let Some(protocol) = protocol {
        write_fields(out, &[("Sec-WebSocket-Protocol", protocol)]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the answer to a request that is no upgrade, without a body. The connection is to be closed after it.
pub fn write_upgrade_refusal(out: &mut Vec<u8>, refusal: UpgradeRefusal) {
    crate::http1::write_response_head(out, refusal.status(), refusal.headers(), Length::Exact(0), false);
}

/// Writes a client's request. Subprotocols and whatever the server authenticates by go into `headers`.
pub fn write_upgrade_request(
    out: &mut Vec<u8>,
    target: &str,
    host: &str,
    key: &str,
    headers: &[(&str, &str)],
) {
    out.extend_from_slice(b"GET ");
    write_target(out, target);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    write_visible(out, host);
    out.extend_from_slice(
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
    );
    write_visible(out, key);
    out.extend_from_slice(b"\r\n");
    write_fields(out, headers);
    out.extend_from_slice(b"\r\n");
}

/// Why a response does not open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpgradeFailure {
    /// Another status than 101; its head and body may say why.
    Status(u16),
    /// `Upgrade` or `Connection` is missing or says something else.
    NotWebsocket,
    /// `Sec-WebSocket-Accept` is not the answer to our key.
    Accept,
    /// An extension, which we never offer.
    Extension,
    /// More than one subprotocol.
    Protocol,
}

impl UpgradeFailure {
    /// A stable name for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Status(_) => "WS_UPGRADE_STATUS",
            Self::NotWebsocket => "WS_UPGRADE_NOT_WEBSOCKET",
            Self::Accept => "WS_UPGRADE_ACCEPT",
            Self::Extension => "WS_UPGRADE_EXTENSION",
            Self::Protocol => "WS_UPGRADE_PROTOCOL",
        }
    }
}

impl core::fmt::Display for UpgradeFailure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.code())
    }
}

impl core::error::Error for UpgradeFailure {}

/// Checks a server's response to [`write_upgrade_request`] (RFC 6455 4.1). Answers with the subprotocol that it chose;
/// that it is one of those offered is the caller's to check.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_upgrade_response<'b>(
    head: &ResponseHead<'b>,
    key: &str,
) -> Result<Option<&'b str>, UpgradeFailure> {
    if head.status != 101 {
        return Err(UpgradeFailure::Status(head.status));
    }
    let upgrade = only(&head.headers, "upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let connection = head.headers.values("connection").any(|value| has_token(value, b"upgrade"));
    if !upgrade || !connection || head.minor != 1 {
        return Err(UpgradeFailure::NotWebsocket);
    }
    if only(&head.headers, "sec-websocket-accept").map(str::as_bytes) != Some(&accept_key(key)) {
        return Err(UpgradeFailure::Accept);
    }
    if head.headers.count("sec-websocket-extensions") != 0 {
        return Err(UpgradeFailure::Extension);
    }
    match head.headers.count("sec-websocket-protocol") {
        0 => Ok(None),
        1 => only(&head.headers, "sec-websocket-protocol").map(Some).ok_or(UpgradeFailure::Protocol),
        _ => Err(UpgradeFailure::Protocol),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;

    use super::*;
    use crate::http1::{HeadLimits, parse_request, parse_response};

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 2048, headers_max: 16, target_bytes_max: 256 };
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn upgrade(first: &str, fields: &str) -> Result<Vec<String>, UpgradeRefusal> {
        let head = format!("{first}\r\nHost: a\r\n{fields}\r\n");
        let head = parse_request(head.as_bytes(), &LIMITS).unwrap().unwrap();
        check_upgrade(&head).map(|upgrade| upgrade.protocols().map(String::from).collect())
    }

    #[test]
    fn the_example_of_the_standard() {
        // RFC 6455 1.3.
        assert_eq!(&accept_key(KEY), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(&client_key(*b"the sample nonce"), KEY.as_bytes());
    }

    #[test]
    fn both_sides_agree() {
        let mut request = Vec::new();
        let fields = [("Sec-WebSocket-Protocol", "chat, superchat"), ("Authorization", "Bearer x")];
        write_upgrade_request(&mut request, "/ws?a=b", "a.example", KEY, &fields);
        let head = parse_request(&request, &LIMITS).unwrap().unwrap();
        assert_eq!((head.target, head.headers.get("authorization")), ("/ws?a=b", Some("Bearer x")));
        let upgrade = check_upgrade(&head).unwrap();
        assert_eq!((upgrade.key, upgrade.protocols().collect::<Vec<_>>()), (KEY, vec!["chat", "superchat"]));
        for protocol in [None, Some("superchat")] {
            let mut response = Vec::new();
            write_upgrade_response(&mut response, &upgrade.accept, protocol);
            let head = parse_response(&response, &LIMITS, false).unwrap().unwrap();
            assert_eq!(check_upgrade_response(&head, KEY), Ok(protocol));
            assert_eq!(
                check_upgrade_response(&head, "AAAAAAAAAAAAAAAAAAAAAA=="),
                Err(UpgradeFailure::Accept)
            );
        }
    }

    #[test]
    fn requests_that_are_no_upgrade() {
        use UpgradeRefusal::*;
        let get = "GET / HTTP/1.1";
        let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let version = "Sec-WebSocket-Version: 13\r\n";
        let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
        let whole = format!("{asks}{version}{key}");
        assert_eq!(upgrade(get, &whole), Ok(vec![]));
        let protocols = "Sec-WebSocket-Protocol: a,, b \r\nsec-websocket-protocol: c\r\n";
        assert_eq!(upgrade(get, &format!("{whole}{protocols}")).unwrap(), ["a", "b", "c"]);
        assert_eq!(upgrade(get, &format!("{whole}Content-Length: 0\r\n")), Ok(vec![]));
        let cases = [
            ("POST / HTTP/1.1", whole.clone(), Method),
            ("GET / HTTP/1.0", whole.clone(), Http10),
            (get, format!("{version}{key}"), NotUpgrade),
            (get, format!("{version}{key}Upgrade: websocket\r\n"), NotUpgrade),
            (get, format!("{version}{key}Connection: Upgrade\r\nUpgrade: h2c\r\n"), NotUpgrade),
            (get, format!("{whole}Content-Length: 1\r\n"), Body),
            (get, format!("{whole}Transfer-Encoding: chunked\r\n"), Body),
            (get, format!("{asks}{key}"), Version),
            (get, format!("{asks}{key}Sec-WebSocket-Version: 8\r\n"), Version),
            (get, format!("{asks}{key}Sec-WebSocket-Version: 13, 8\r\n"), Version),
            (get, format!("{whole}{version}"), Version),
            (get, format!("{asks}{version}"), Key),
            (get, format!("{whole}{key}"), Key),
            (get, format!("{asks}{version}Sec-WebSocket-Key: c2hvcnQ=\r\n"), Key),
            (get, format!("{asks}{version}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=\r\n"), Key),
            (get, format!("{asks}{version}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j$Q==\r\n"), Key),
        ];
        for (first, fields, expected) in cases {
            assert_eq!(upgrade(first, &fields), Err(expected), "{first} {fields}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_client_needs() {
        let mut out = Vec::new();
        write_upgrade_refusal(&mut out, UpgradeRefusal::Version);
        let head = parse_response(&out, &LIMITS, false).unwrap().unwrap();
        assert_eq!(
            (head.status, head.headers.get("sec-websocket-version"), head.keep_alive),
            (426, Some("13"), false)
        );
        assert_eq!(head.headers.get("upgrade"), Some("websocket"));
    }

    #[test]
    fn responses_that_open_nothing() {
        use UpgradeFailure::*;
        let whole = "Upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        let cases = [
            ("101", format!("{whole}Sec-WebSocket-Protocol: a\r\n"), Ok(Some("a"))),
            ("403", String::from(whole), Err(Status(403))),
            ("101", whole.replace("WebSocket\r", "h2c\r"), Err(NotWebsocket)),
            ("101", whole.replace(", upgrade", ""), Err(NotWebsocket)),
            ("101", whole.replace("xOo=", "xOO="), Err(Accept)),
            ("101", whole.replace("s3pP", "S3pP"), Err(Accept)),
            ("101", format!("{whole}Sec-WebSocket-Accept: x\r\n"), Err(Accept)),
            ("101", format!("{whole}Sec-WebSocket-Extensions: permessage-deflate\r\n"), Err(Extension)),
            (
                "101",
                format!("{whole}Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n"),
                Err(Protocol),
            ),
        ];
        let old = format!("HTTP/1.0 101 X\r\n{whole}\r\n");
        let head = parse_response(old.as_bytes(), &LIMITS, false).unwrap().unwrap();
        assert_eq!(check_upgrade_response(&head, KEY), Err(NotWebsocket));
        for (status, fields, expected) in cases {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            let head = parse_response(head.as_bytes(), &LIMITS, false).unwrap().unwrap();
            assert_eq!(check_upgrade_response(&head, KEY), expected, "{fields}");
        }
    }
}

//! Heads: request line or status line and fields, split by httparse, held to RFC 9112 here. httparse takes LF for a line
//! end and any number of empty lines first; what it is lenient about is refused before or after it. Nothing is decided
//! here about methods and targets but that they can be read in one way only.

use core::mem::MaybeUninit;

use httparse::{Error, Header, Status};
use memchr::{memchr2, memmem};

use super::headers::{HEAD_BYTES_MAX, HEADERS_MAX, Headers};
use super::{Length, Refusal, is_token_byte};

/// What a head may cost us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of a whole head, its empty line included. Above 65,535 it counts as 65,535.
    pub head_bytes_max: usize,
    /// Fields. Above [`HEADERS_MAX`] it counts as that.
    pub headers_max: usize,
    /// Bytes of a request's target.
    pub target_bytes_max: usize,
}

/// A request's head, borrowed from the buffer that it was read into.
#[derive(Clone, Debug)]
pub struct RequestHead<'b> {
    /// The method, as it came: methods are case-sensitive.
    pub method: &'b str,
    /// What is asked for: a path with an optional query, starting with `/`, or `*`. The authority of an absolute form
    /// is cut off, as it equals `Host`.
    pub target: &'b str,
    /// The fields.
    pub headers: Headers<'b>,
    /// How the body is delimited; never [`Length::UntilClose`].
    pub body: Length,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for [`CONTINUE`](super::CONTINUE) before it sends the body.
    pub expect_continue: bool,
    /// Whether `Upgrade` and `Connection` ask for a WebSocket.
    pub upgrade_websocket: bool,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    /// How much of the buffer the head takes; the body starts there.
    pub bytes: usize,
}

/// A response's head, borrowed from the buffer that it was read into.
#[derive(Clone, Debug)]
pub struct ResponseHead<'b> {
    /// 100 to 999. A head of 1xx is not the last one, but for 101.
    pub status: u16,
    /// The reason phrase; empty where there is none or it is not ASCII.
    pub reason: &'b str,
    /// The fields.
    pub headers: Headers<'b>,
    /// How the body is delimited.
    pub body: Length,
    /// Whether another request may be sent on this connection after the body.
    pub keep_alive: bool,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    /// How much of the buffer the head takes; the body starts there.
    pub bytes: usize,
}

/// The longest method that is worth an answer; the longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// Reads a request's head from the start of `buf`. `None` means that more bytes are needed; call again with all of them.
///
/// # Errors
/// Whatever is malformed, ambiguous or beyond `limits`, as early as it can be told.
pub fn parse_request<'b>(buf: &'b [u8], limits: &HeadLimits) -> Result<Option<RequestHead<'b>>, Refusal> {
    let window = buf.get(..limits.bytes_max()).unwrap_or(buf);
    // RFC 9112 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least one empty
    // line (CRLF) received prior to the request-line." One, for the clients that end a POST with it; not a stream.
    let start = if window.starts_with(b"\r\n") { 2 } else { 0 };
    let head = window.get(start..).unwrap_or(&[]);
    let mut fields = [const { MaybeUninit::<Header<'b>>::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let room = limits.headers_max.min(HEADERS_MAX);
    let fields = fields.get_mut(..room).unwrap_or(&mut []);
    let head = match request.parse_with_uninit_headers(worth_parsing(head), fields) {
        Ok(Status::Complete(bytes)) => head.get(..bytes).unwrap_or(&[]),
        Ok(Status::Partial) => {
            check_lines(head)?;
            check_request_start(head, limits)?;
            return if buf.len() < limits.bytes_max() { Ok(None) } else { Err(Refusal::HeadTooLong) };
        }
        Err(error) => return Err(diagnose(head, error)),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Refusal::Syntax);
    };
    // Filled in its place: half a kilobyte of fields is not moved about.
    let mut read = RequestHead {
        method,
        target,
        headers: Headers::new(head),
        body: Length::None,
        keep_alive: false,
        expect_continue: false,
        upgrade_websocket: false,
        minor,
        bytes: start + head.len(),
    };
    let framing = Framing::read(request.headers, &mut read.headers)?;
    check_line_ends(head, &read.headers)?;
    check_method(method)?;
    if limits.target_bytes_max < target.len() {
        return Err(Refusal::TargetTooLong);
    }
    read.target = check_target(method, target, framing.host(minor)?)?;
    read.body = framing.request_length(minor)?;
    read.keep_alive = framing.keep_alive(minor);
    // RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that
    // expectation."
    read.expect_continue = framing.expect_continue && minor == 1;
    read.upgrade_websocket = framing.upgrade_websocket && framing.connection_upgrade && minor == 1;
    Ok(Some(read))
}

/// Reads a response's head from the start of `buf`. `None` means that more bytes are needed; call again with all of
/// them. A head of 1xx comes with [`Length::None`], and the final head follows it (but for 101).
///
/// # Errors
/// Whatever is malformed, ambiguous or beyond `limits`, as early as it can be told.
pub fn parse_response<'b>(
    buf: &'b [u8],
    limits: &HeadLimits,
    method_was_head: bool,
) -> Result<Option<ResponseHead<'b>>, Refusal> {
    let head = buf.get(..limits.bytes_max()).unwrap_or(buf);
    let mut fields = [const { MaybeUninit::<Header<'b>>::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let room = limits.headers_max.min(HEADERS_MAX);
    let fields = fields.get_mut(..room).unwrap_or(&mut []);
    let parser = httparse::ParserConfig::default();
    let head = match parser.parse_response_with_uninit_headers(&mut response, worth_parsing(head), fields) {
        Ok(Status::Complete(bytes)) => head.get(..bytes).unwrap_or(&[]),
        Ok(Status::Partial) => {
            check_lines(head)?;
            check_response_start(head)?;
            return if buf.len() < limits.bytes_max() { Ok(None) } else { Err(Refusal::HeadTooLong) };
        }
        Err(error) => return Err(diagnose(head, error)),
    };
    let (Some(minor), Some(status)) = (response.version, response.code) else {
        return Err(Refusal::Syntax);
    };
    if status < 100 {
        return Err(Refusal::BadStatus);
    }
    let mut read = ResponseHead {
        status,
        reason: response.reason.unwrap_or(""),
        headers: Headers::new(head),
        body: Length::None,
        keep_alive: false,
        minor,
        bytes: head.len(),
    };
    let framing = Framing::read(response.headers, &mut read.headers)?;
    check_line_ends(head, &read.headers)?;
    read.body = framing.response_length(minor, status, method_was_head)?;
    // A status that has no body and announced one: what comes next is anybody's guess.
    let clear = framing.has_no_length() || !is_bodiless(status);
    read.keep_alive = framing.keep_alive(minor) && read.body != Length::UntilClose && clear;
    Ok(Some(read))
}

impl HeadLimits {
    /// The longest head.
    #[inline]
    fn bytes_max(&self) -> usize {
        self.head_bytes_max.min(HEAD_BYTES_MAX)
    }
}

/// What httparse is asked about. It starts anew with each read, so a long head that comes byte by byte would cost the
/// square of its length: beyond the size of an ordinary head, the end is looked for first, at a tenth of the price, and
/// until it is there only the start is parsed.
#[inline]
fn worth_parsing(head: &[u8]) -> &[u8] {
    const ORDINARY_BYTES: usize = 2048;
    match head.get(..ORDINARY_BYTES) {
        Some(start) if memmem::find(head, b"\r\n\r\n").is_none() => start,
        Some(_) | None => head,
    }
}

/// Refuses a head that httparse took although an empty line comes first or some line is ended by LF alone: a peer behind
/// us that does not would read another message than we do. No line has a CR elsewhere, so the byte before the LF tells; a
/// line ends where the next field's name starts.
#[inline]
fn check_line_ends(head: &[u8], headers: &Headers<'_>) -> Result<(), Refusal> {
    let ended = |start: usize| head.get(start.wrapping_sub(2)) == Some(&b'\r');
    match head.first() {
        Some(b'\r') => Err(Refusal::Syntax),
        Some(b'\n') => Err(Refusal::BareLf),
        _ if head.ends_with(b"\r\n\r\n") && headers.line_starts().all(ended) => Ok(()),
        _ => Err(Refusal::BareLf),
    }
}

/// Refuses the first line, finished or not, that CRLF does not end or that continues the one before.
#[cold]
fn check_lines(head: &[u8]) -> Result<(), Refusal> {
    let mut line = 0;
    loop {
        let rest = head.get(line..).unwrap_or(&[]);
        // RFC 9112 5.2: "A server that receives an obs-fold in a request message [...] MUST either reject the message
        // [...] or replace". The same byte before the first field is refused by 2.2.
        if matches!(rest.first(), Some(b' ' | b'\t')) {
            return Err(if line == 0 { Refusal::Syntax } else { Refusal::ObsFold });
        }
        match memchr2(b'\r', b'\n', rest).and_then(|end| rest.get(end..)) {
            None | Some([b'\r']) => return Ok(()),
            Some([b'\r', b'\n', after @ ..]) if rest.len() == after.len() + 2 => {
                return if line == 0 { Err(Refusal::Syntax) } else { Ok(()) };
            }
            Some([b'\r', b'\n', after @ ..]) => line = head.len() - after.len(),
            Some([b'\r', ..]) => return Err(Refusal::BareCr),
            Some(_) => return Err(Refusal::BareLf),
        }
    }
}

/// Refuses an unfinished request whose first line can already be told to be none: TLS on a clear port, a target
/// without end.
#[cold]
fn check_request_start(head: &[u8], limits: &HeadLimits) -> Result<(), Refusal> {
    let method_bytes = head.iter().take_while(|byte| is_token_byte(**byte)).count();
    if METHOD_BYTES_MAX < method_bytes {
        return Err(Refusal::BadMethod);
    }
    let target = head.get(method_bytes + 1..).unwrap_or(&[]);
    let target_bytes = target.iter().take_while(|byte| b' ' < **byte).count();
    if limits.target_bytes_max < target_bytes { Err(Refusal::TargetTooLong) } else { Ok(()) }
}

/// Refuses what starts as no response does.
#[cold]
fn check_response_start(head: &[u8]) -> Result<(), Refusal> {
    let known = head.len().min(7);
    if head.get(..known) == b"HTTP/1.".get(..known) {
        Ok(())
    } else if head.starts_with(b"HTTP/") {
        Err(diagnose_version(head))
    } else {
        Err(Refusal::Syntax)
    }
}

/// Tells why httparse refused a head, whole or not.
#[cold]
fn diagnose(head: &[u8], error: Error) -> Refusal {
    if let Err(refusal) = check_lines(head) {
        return refusal;
    }
    match error {
        Error::HeaderName => diagnose_name(head),
        Error::HeaderValue => Refusal::ControlByte,
        Error::TooManyHeaders => Refusal::TooManyHeaders,
        Error::Version => diagnose_version(head),
        Error::NewLine | Error::Status | Error::Token => Refusal::Syntax,
    }
}

/// The first field whose name is no token is the one that httparse stopped at.
fn diagnose_name(head: &[u8]) -> Refusal {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let name_bytes = line.iter().take_while(|byte| is_token_byte(**byte)).count();
        match line.get(name_bytes) {
            Some(b':') if name_bytes > 0 => {}
            Some(b' ' | b'\t') if name_bytes > 0 && line.contains(&b':') => return Refusal::SpaceBeforeColon,
            _ => return Refusal::BadName,
        }
    }
    Refusal::BadName
}

/// A version that is not ours, or a space in the target that made the rest look like a version.
fn diagnose_version(head: &[u8]) -> Refusal {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let version =
        if line.starts_with(b"HTTP/") { line } else { line.splitn(3, |b| *b == b' ').nth(2).unwrap_or(&[]) };
    let number = version.strip_prefix(b"HTTP/").and_then(|rest| rest.split(|byte| *byte == b' ').next());
    match number {
        Some(number)
            if !number.is_empty() && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') =>
        {
            Refusal::Version
        }
        Some(_) | None => Refusal::Syntax,
    }
}

/// What `Transfer-Encoding` says, over all its fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Absent,
    /// `chunked` and nothing else.
    Chunked,
    /// Others, and `chunked` last.
    UnderChunked,
    /// Others only, so far.
    Other,
    Malformed,
}

/// The fields that decide how a message is framed and who it is for.
struct Framing<'b> {
    content_length: Option<u64>,
    coding: Coding,
    host: Option<&'b [u8]>,
    two_hosts: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade_websocket: bool,
    expect_continue: bool,
}

impl<'b> Framing<'b> {
    /// One pass over the fields: keeps their places in `headers`, and reads those that frame the message.
    #[inline]
    fn read(fields: &[Header<'b>], headers: &mut Headers<'b>) -> Result<Self, Refusal> {
        let mut framing = Self {
            content_length: None,
            coding: Coding::Absent,
            host: None,
            two_hosts: false,
            close: false,
            keep_alive: false,
            connection_upgrade: false,
            upgrade_websocket: false,
            expect_continue: false,
        };
        for field in fields {
            headers.push(field.name, field.value);
            // A length and a letter: nearly every other field is told apart without comparing its name.
            let letter = field.name.as_bytes().first().map_or(0, u8::to_ascii_lowercase);
            let named = |name: &str| field.name.eq_ignore_ascii_case(name);
            match (field.name.len(), letter) {
                (4, b'h') if named("host") => {
                    framing.two_hosts |= framing.host.is_some();
                    framing.host = Some(field.value);
                }
                (6, b'e') if named("expect") => {
                    framing.expect_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
                }
                (7, b'u') if named("upgrade") => {
                    framing.upgrade_websocket |= has_token(field.value, b"websocket");
                }
                (10, b'c') if named("connection") => framing.on_connection(field.value),
                (14, b'c') if named("content-length") => framing.on_length(field.value)?,
                (17, b't') if named("transfer-encoding") => framing.on_coding(field.value),
                _ => {}
            }
        }
        Ok(framing)
    }

    fn on_connection(&mut self, value: &[u8]) {
        for token in tokens(value) {
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            self.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// RFC 9110 8.6: "Content-Length = 1*DIGIT". A list of equal lengths may be taken for one; that is how two
    /// parsers come to differ, so it is refused.
    fn on_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.content_length.is_some() || value.contains(&b',') {
            return Err(Refusal::TwoLengths);
        }
        let mut length = 0_u64;
        for byte in value {
            let digit = byte.wrapping_sub(b'0');
            if 9 < digit {
                return Err(Refusal::BadLength);
            }
            length = length
                .checked_mul(10)
                .and_then(|tens| tens.checked_add(u64::from(digit)))
                .ok_or(Refusal::BadLength)?;
        }
        if value.is_empty() {
            return Err(Refusal::BadLength);
        }
        self.content_length = Some(length);
        Ok(())
    }

    /// RFC 9112 6.1: "A sender MUST NOT apply the chunked transfer coding more than once to a message body", and it
    /// is the last one applied. RFC 9112 7 has transfer codings "case-insensitive".
    fn on_coding(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let chunked = token.eq_ignore_ascii_case(b"chunked");
            self.coding = match self.coding {
                _ if token.is_empty() => Coding::Malformed,
                Coding::Absent if chunked => Coding::Chunked,
                Coding::Other if chunked => Coding::UnderChunked,
                Coding::Absent | Coding::Other => Coding::Other,
                Coding::Chunked | Coding::UnderChunked | Coding::Malformed => Coding::Malformed,
            };
        }
    }

    /// What both sides refuse of a length, and whether the body is chunked.
    #[inline]
    fn is_chunked(&self, minor: u8) -> Result<bool, Refusal> {
        if self.coding == Coding::Absent {
            return Ok(false);
        }
        // RFC 9112 6.3: such a message "might indicate an attempt to perform request smuggling [...] and ought to be
        // handled as an error."
        if self.content_length.is_some() {
            return Err(Refusal::BothLengths);
        }
        // RFC 9112 6.1: "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header
        // field MUST treat the message as if the framing is faulty".
        if minor == 0 {
            return Err(Refusal::CodingInHttp10);
        }
        match self.coding {
            Coding::Chunked => Ok(true),
            Coding::UnderChunked => Err(Refusal::UnknownCoding),
            Coding::Absent | Coding::Other | Coding::Malformed => Err(Refusal::BadCoding),
        }
    }

    #[inline]
    fn request_length(&self, minor: u8) -> Result<Length, Refusal> {
        if self.is_chunked(minor)? {
            return Ok(Length::Chunked);
        }
        // RFC 9112 6.3: "If this is a request message and none of the above are true, then the message body length is
        // zero".
        Ok(self.content_length.map_or(Length::None, Length::Exact))
    }

    fn response_length(&self, minor: u8, status: u16, method_was_head: bool) -> Result<Length, Refusal> {
        // RFC 9112 6.3: "Any response to a HEAD request and any response with a 1xx (Informational), 204 (No Content),
        // or 304 (Not Modified) status code is always terminated by the first empty line after the header fields,
        // regardless of the header fields present in the message".
        if method_was_head || status == 304 || is_bodiless(status) {
            return Ok(Length::None);
        }
        if self.is_chunked(minor)? {
            return Ok(Length::Chunked);
        }
        Ok(self.content_length.map_or(Length::UntilClose, Length::Exact))
    }

    #[inline]
    fn has_no_length(&self) -> bool {
        self.coding == Coding::Absent && self.content_length.unwrap_or(0) == 0
    }

    /// RFC 9112 9.3: `close` wins; HTTP/1.1 persists by default, HTTP/1.0 where `keep-alive` says so.
    #[inline]
    const fn keep_alive(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep_alive)
    }

    /// RFC 9112 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    /// lacks a Host header field and to any request message that contains more than one Host header field line or a
    /// Host header field with an invalid field value."
    #[inline]
    fn host(&self, minor: u8) -> Result<&'b [u8], Refusal> {
        if self.two_hosts {
            return Err(Refusal::TwoHosts);
        }
        match self.host {
            Some(host) if is_host(host) => Ok(host),
            Some(_) => Err(Refusal::BadHost),
            None if minor == 0 => Ok(&[]),
            None => Err(Refusal::NoHost),
        }
    }
}

/// Statuses that never have a body and whose sender must not announce one (RFC 9110 8.6, RFC 9112 6.1). 304 may.
const fn is_bodiless(status: u16) -> bool {
    status < 200 || status == 204
}

/// RFC 9110 5.6.1: the elements of a list, empty ones left out.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a list has this element, whatever its case.
pub(crate) fn has_token(value: &[u8], wanted: &[u8]) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// RFC 9110 7.2: `Host = uri-host [ ":" port ]`. Empty is allowed: it is what a target without authority has.
#[inline]
fn is_host(host: &[u8]) -> bool {
    let name_bytes = host.iter().take_while(|byte| HOST_BYTES[usize::from(**byte)]).count();
    match host.get(name_bytes..).unwrap_or(&[]) {
        [] => true,
        // A port without a name is no host.
        [b':', port @ ..] if name_bytes > 0 => is_port(port),
        [b'[', literal @ ..] if name_bytes == 0 => is_address_literal(literal),
        _ => false,
    }
}

/// RFC 3986 3.2.2 reg-name, less the comma: two hosts in one field are the list that a proxy joined.
static HOST_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0_u8;
    loop {
        let is_mark = matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(')
            || matches!(byte, b')' | b'*' | b'+' | b';' | b'=');
        allowed[byte as usize] = byte.is_ascii_alphanumeric() || is_mark;
        if byte == 0xFF {
            break allowed;
        }
        byte += 1;
    }
};

#[inline]
fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// What follows the `[` of an IPv6 address.
fn is_address_literal(literal: &[u8]) -> bool {
    let is_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let address_bytes = literal.iter().take_while(|byte| is_address(byte)).count();
    match literal.get(address_bytes..) {
        Some([b']']) => 0 < address_bytes,
        Some([b']', b':', port @ ..]) => 0 < address_bytes && is_port(port),
        Some(_) | None => false,
    }
}

#[inline]
fn check_method(method: &str) -> Result<(), Refusal> {
    // RFC 9110 9.3.6: an origin server that is no tunnel has no use for CONNECT, and its target names an authority.
    if METHOD_BYTES_MAX < method.len() || method == "CONNECT" { Err(Refusal::BadMethod) } else { Ok(()) }
}

/// RFC 9112 3.2: origin-form, absolute-form for our own authority, and `*` for OPTIONS.
#[inline]
fn check_target<'b>(method: &str, target: &'b str, host: &[u8]) -> Result<&'b str, Refusal> {
    // A fragment is never sent, and bytes outside of ASCII are sent escaped.
    // Every byte is looked at, whatever the ones before it, which the compiler turns into vector code.
    if !target.bytes().fold(true, |all, byte| all & matches!(byte, 0x21..=0x7E) & (byte != b'#')) {
        return Err(Refusal::BadTarget);
    }
    if target.starts_with('/') {
        return Ok(target);
    }
    if target == "*" {
        return if method == "OPTIONS" { Ok(target) } else { Err(Refusal::BadTarget) };
    }
    check_absolute(method, target, host)
}

#[cold]
fn check_absolute<'b>(method: &str, target: &'b str, host: &[u8]) -> Result<&'b str, Refusal> {
    let Some((scheme, rest)) = target.split_once("://") else { return Err(Refusal::BadTarget) };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::BadTarget);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !is_host(authority.as_bytes()) {
        return Err(Refusal::BadTarget);
    }
    // RFC 9112 3.2.2 has the target win over Host; where they differ, whoever routed the request here may have
    // looked at the other one.
    if !authority.as_bytes().eq_ignore_ascii_case(host) {
        return Err(Refusal::HostMismatch);
    }
    match path {
        // RFC 9112 3.2.4: an OPTIONS request with an empty path is one for "*".
        "" if method == "OPTIONS" => Ok("*"),
        "" => Ok("/"),
        // The slash that RFC 9110 4.2.3 has before the query would not be the buffer's.
        _ if path.starts_with('?') => Err(Refusal::BadTarget),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::format;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    use super::*;

    /// Small enough that every limit is reached.
    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 512, headers_max: 4, target_bytes_max: 40 };

    fn request(head: &str) -> Result<RequestHead<'_>, Refusal> {
        parse_request(head.as_bytes(), &LIMITS).map(|head| head.expect("a whole head"))
    }

    fn response(head: &str) -> Result<ResponseHead<'_>, Refusal> {
        parse_response(head.as_bytes(), &LIMITS, false).map(|head| head.expect("a whole head"))
    }

    fn check_request(head: &str, expected: Refusal) {
        assert_eq!(request(head).map(|head| head.bytes), Err(expected), "{head:?}");
    }

    fn check_response(head: &str, expected: Refusal) {
        assert_eq!(response(head).map(|head| head.bytes), Err(expected), "{head:?}");
    }

    #[test]
    fn a_request_is_read() {
        let buf = "POST /api/chat?x=1 HTTP/1.1\r\nHost: a.example:80\r\nCONTENT-length: 12\r\nX-A:\t \tb c \r\n\r\n{}";
        let head = request(buf).unwrap();
        assert_eq!((head.method, head.target, head.minor), ("POST", "/api/chat?x=1", 1));
        assert_eq!((head.body, head.keep_alive, head.bytes), (Length::Exact(12), true, buf.len() - 2));
        assert_eq!(head.headers.get("host"), Some("a.example:80"));
        assert_eq!(head.headers.get("X-a"), Some("b c"));
        assert_eq!(head.headers.get("x-b"), None);
        assert!(!head.expect_continue && !head.upgrade_websocket);
        let all: Vec<(&str, &[u8])> = head.headers.iter().collect();
        assert_eq!(all, [("Host", &b"a.example:80"[..]), ("CONTENT-length", b"12"), ("X-A", b"b c")]);
        assert_eq!((head.headers.len(), head.headers.is_empty()), (3, false));
    }

    #[test]
    fn values_that_are_not_utf8_are_kept_as_bytes() {
        let buf = b"GET / HTTP/1.1\r\nHost: a\r\nX: \xFF\xFE\r\nY: \xC3\xA9\r\n\r\n";
        let head = parse_request(buf, &LIMITS).unwrap().unwrap();
        assert_eq!((head.headers.get("x"), head.headers.get_bytes("x")), (None, Some(&b"\xFF\xFE"[..])));
        assert_eq!(head.headers.get("y"), Some("é"));
    }

    #[test]
    fn values_do_not_reach_a_log() {
        let head = request("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\n\r\n").unwrap();
        assert!(!format!("{head:?}").contains("secret"));
    }

    /// RFC 9112 2.2 wants one empty line before a request to be ignored; a second one is refused.
    #[test]
    fn one_empty_line_may_come_before_a_request() {
        let head = request("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((head.method, head.bytes, head.headers.get("host")), ("GET", 29, Some("a")));
        check_request("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Syntax);
        check_response("\r\nHTTP/1.1 200 OK\r\n\r\n", Refusal::Syntax);
    }

    /// What two parsers could read in two ways, and why each is refused.
    #[test]
    fn ambiguous_requests_are_refused() {
        use Refusal::*;
        let line_and_fields = [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLf),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", BareCr),
            ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", BareCr),
            ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", BareCr),
            ("GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", BareCr),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", ObsFold),
            ("GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n", ObsFold),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", ObsFold),
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", SpaceBeforeColon),
            ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", SpaceBeforeColon),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", SpaceBeforeColon),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", BadName),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", BadName),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", BadName),
            ("GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n", BadName),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n", BadName),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", ControlByte),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \x0b\r\n\r\n", ControlByte),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", ControlByte),
        ];
        let start = [
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Syntax),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET /\r\nHost: a\r\n\r\n", Syntax),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Syntax),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Version),
            ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Version),
            ("PRI * HTTP/2.0\r\n\r\n", Version),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", BadMethod),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n", BadMethod),
        ];
        for (head, expected) in line_and_fields.into_iter().chain(start) {
            check_request(head, expected);
        }
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        use Refusal::*;
        let cases = [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BothLengths),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", BothLengths),
            ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", BothLengths),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", TwoLengths),
            ("Content-Length: 5\r\ncontent-length: 5\r\n", TwoLengths),
            ("Content-Length: 5, 5\r\n", TwoLengths),
            ("Content-Length: 5,6\r\n", TwoLengths),
            ("Content-Length: ,5\r\n", TwoLengths),
            ("Content-Length: +5\r\n", BadLength),
            ("Content-Length: -5\r\n", BadLength),
            ("Content-Length: 5 5\r\n", BadLength),
            ("Content-Length: 0x5\r\n", BadLength),
            ("Content-Length: 5a\r\n", BadLength),
            ("Content-Length: \r\n", BadLength),
            ("Content-Length: \u{665}\r\n", BadLength),
            ("Content-Length: 18446744073709551616\r\n", BadLength),
            ("Content-Length: 99999999999999999999999\r\n", BadLength),
            ("Transfer-Encoding: gzip, chunked\r\n", UnknownCoding),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", UnknownCoding),
            ("Transfer-Encoding: chunked, gzip\r\n", BadCoding),
            ("Transfer-Encoding: chunked, chunked\r\n", BadCoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BadCoding),
            ("Transfer-Encoding: gzip\r\n", BadCoding),
            ("Transfer-Encoding: identity\r\n", BadCoding),
            ("Transfer-Encoding: xchunked\r\n", BadCoding),
            ("Transfer-Encoding: chunked;q=1\r\n", BadCoding),
            ("Transfer-Encoding: \"chunked\"\r\n", BadCoding),
            ("Transfer-Encoding: ,chunked\r\n", BadCoding),
            ("Transfer-Encoding: chunked,\r\n", BadCoding),
            ("Transfer-Encoding:\r\n", BadCoding),
        ];
        for (fields, expected) in cases {
            check_request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), expected);
            check_response(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), expected);
        }
        check_request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", CodingInHttp10);
        check_response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CodingInHttp10);
    }

    #[test]
    fn lengths_are_read() {
        let cases = [
            ("", Length::None),
            ("Content-Length: 0\r\n", Length::Exact(0)),
            ("Content-Length: 007\r\n", Length::Exact(7)),
            ("Content-Length:  18446744073709551615 \r\n", Length::Exact(u64::MAX)),
            ("Transfer-Encoding: chunked\r\n", Length::Chunked),
            ("transfer-encoding: \tCHUNKED \r\n", Length::Chunked),
        ];
        for (fields, expected) in cases {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(request(&head).unwrap().body, expected, "{fields:?}");
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let expected = if expected == Length::None { Length::UntilClose } else { expected };
            assert_eq!(response(&head).unwrap().body, expected, "{fields:?}");
        }
    }

    #[test]
    fn a_host_is_one_host() {
        for host in [
            "",
            "a",
            "A-b.example",
            "a:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:443",
            "[::ffff:1.2.3.4]:1",
            "a_b",
        ] {
            assert!(request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_ok(), "{host}");
        }
        let bad = [
            "a, b", "a,b", "a b", "u@a", "a/", "a?x", "a#x", "a\\b", "a:b", "a:80:80", "a:-1", ":80", "[::1",
            "[::1]x", "[]", "[g]", "::1", "a:999999", "\"a\"", "<a>", "\u{e9}", "http://a", "[::1]80", "a]",
        ];
        for host in bad {
            check_request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Refusal::BadHost);
        }
        check_request("GET / HTTP/1.1\r\n\r\n", Refusal::NoHost);
        check_request("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::TwoHosts);
        check_request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::TwoHosts);
        assert_eq!(request("GET / HTTP/1.0\r\n\r\n").unwrap().minor, 0);
    }

    #[test]
    fn a_target_has_one_form() {
        let cases = [
            ("GET", "/", Ok("/")),
            ("GET", "//x", Ok("//x")),
            ("GET", "/a{b}|c\"", Ok("/a{b}|c\"")),
            ("OPTIONS", "*", Ok("*")),
            ("GET", "*", Err(Refusal::BadTarget)),
            ("GET", "http://h:1", Ok("/")),
            ("GET", "http://h:1/x?y", Ok("/x?y")),
            ("GET", "HTTPS://H:1/x", Ok("/x")),
            ("OPTIONS", "http://h:1", Ok("*")),
            ("GET", "http://h:1?x", Err(Refusal::BadTarget)),
            ("GET", "http://h/x", Err(Refusal::HostMismatch)),
            ("GET", "http://u@h:1/x", Err(Refusal::BadTarget)),
            ("GET", "http:///x", Err(Refusal::BadTarget)),
            ("GET", "ftp://h:1/x", Err(Refusal::BadTarget)),
            ("GET", "h:1", Err(Refusal::BadTarget)),
            ("GET", "x", Err(Refusal::BadTarget)),
            ("GET", "?x", Err(Refusal::BadTarget)),
            ("GET", "/x#y", Err(Refusal::BadTarget)),
            ("GET", "/\u{e9}", Err(Refusal::BadTarget)),
        ];
        for (method, target, expected) in cases {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: h:1\r\n\r\n");
            assert_eq!(
                request(&head).map(|head| head.target.to_string()),
                expected.map(str::to_string),
                "{target}"
            );
        }
    }

    #[test]
    fn connections_persist_as_the_version_and_the_fields_say() {
        let cases = [
            (1, "", true),
            (1, "Connection: close\r\n", false),
            (1, "Connection: Keep-Alive, CLOSE\r\n", false),
            (1, "Connection: x\r\nConnection: close\r\n", false),
            (1, "Connection: closed\r\n", true),
            (0, "", false),
            (0, "Connection: keep-alive\r\n", true),
            (0, "Connection: keep-alive, close\r\n", false),
        ];
        for (minor, fields, expected) in cases {
            let head = format!("GET / HTTP/1.{minor}\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(request(&head).unwrap().keep_alive, expected, "{head:?}");
            let head = format!("HTTP/1.{minor} 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
            assert_eq!(response(&head).unwrap().keep_alive, expected, "{head:?}");
        }
    }

    #[test]
    fn expectations_and_upgrades_need_http_1_1() {
        let fields = "Expect: 100-Continue\r\nUpgrade: h2c, WebSocket\r\nConnection: keep-alive, Upgrade\r\n";
        let modern = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let old = format!("GET / HTTP/1.0\r\nHost: a\r\n{fields}\r\n");
        let (modern, old) = (request(&modern).unwrap(), request(&old).unwrap());
        assert!(modern.expect_continue && modern.upgrade_websocket);
        assert!(!old.expect_continue && !old.upgrade_websocket);
        // RFC 9110 7.8: a sender of Upgrade "MUST also send an Upgrade connection option".
        let alone = request("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nExpect: x\r\n\r\n").unwrap();
        assert!(!alone.expect_continue && !alone.upgrade_websocket);
    }

    #[test]
    fn limits_are_kept_before_the_head_is_whole() {
        let long = "x".repeat(600);
        let check = |buf: &str, expected| {
            assert_eq!(
                parse_request(buf.as_bytes(), &LIMITS).map(|head| head.is_some()),
                expected,
                "{buf:?}"
            );
        };
        check(&format!("GET / HTTP/1.1\r\nHost: {long}"), Err(Refusal::HeadTooLong));
        check(&format!("GET / HTTP/1.1\r\nHost: {}", &long[..400]), Ok(false));
        check(&format!("GET /{}", &long[..39]), Ok(false));
        check(&format!("GET /{}", &long[..40]), Err(Refusal::TargetTooLong));
        check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[..39]), Ok(true));
        check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[..40]), Err(Refusal::TargetTooLong));
        check("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n", Ok(true));
        check(
            "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n",
            Err(Refusal::TooManyHeaders),
        );
        // A head that ends at the limit is within it.
        let exact = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", &long[..bytes - 32]);
        assert_eq!(exact(512).len(), 512);
        check(&exact(512), Ok(true));
        check(&exact(513), Err(Refusal::HeadTooLong));
        // One that has not ended there can only be too long.
        check(&exact(600)[..511], Ok(false));
        check(&exact(600)[..512], Err(Refusal::HeadTooLong));
        let response = format!("HTTP/1.1 200 OK\r\nX: {long}");
        let check = |end, expected| {
            let found = parse_response(&response.as_bytes()[..end], &LIMITS, false);
            assert_eq!(found.map(|head| head.is_some()), expected);
        };
        check(511, Ok(false));
        check(512, Err(Refusal::HeadTooLong));
    }

    #[test]
    fn what_is_no_http_is_told_early() {
        let check =
            |buf: &[u8], expected| assert_eq!(parse_request(buf, &LIMITS).map(|h| h.is_some()), expected);
        // TLS on a clear port.
        check(b"\x16\x03\x01\x02\x00", Err(Refusal::Syntax));
        check(b"\r", Ok(false));
        check(b"\rG", Err(Refusal::BareCr));
        check(b"", Ok(false));
        check(b"GET", Ok(false));
        check(&[b'A'; 32], Ok(false));
        check(&[b'A'; 33], Err(Refusal::BadMethod));
        check(&[&[b'A'; 32][..], b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), Ok(true));
        check(b" ", Err(Refusal::Syntax));
        let check = |buf: &[u8], expected| {
            assert_eq!(parse_response(buf, &LIMITS, false).map(|h| h.is_some()), expected);
        };
        check(b"HTTP/1.", Ok(false));
        check(b"HTTP/1.1 20", Ok(false));
        check(b"HTTP/2 200", Err(Refusal::Version));
        check(b"SSH-2.0-x", Err(Refusal::Syntax));
    }

    #[test]
    fn a_response_is_read() {
        let buf = "HTTP/1.1 503 Slow Down\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n{}";
        let head = response(buf).unwrap();
        assert_eq!((head.status, head.reason, head.minor), (503, "Slow Down", 1));
        assert_eq!((head.body, head.keep_alive, head.bytes), (Length::Exact(2), true, buf.len() - 2));
        assert_eq!(head.headers.get("retry-after"), Some("3"));
        assert_eq!(response("HTTP/1.1 200\r\n\r\n").unwrap().reason, "");
        assert_eq!(response("HTTP/1.1 200 \r\n\r\n").unwrap().reason, "");
        check_response("HTTP/1.1 099 X\r\n\r\n", Refusal::BadStatus);
        check_response("HTTP/1.1  200 OK\r\n\r\n", Refusal::Syntax);
        check_response("HTTP/1.1 20 OK\r\n\r\n", Refusal::Syntax);
        check_response("HTTP/1.1 200 O\0K\r\n\r\n", Refusal::Syntax);
        check_response("HTTP/1.1 200 OK\nX: y\r\n\r\n", Refusal::BareLf);
        check_response("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", Refusal::ObsFold);
        check_response("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", Refusal::SpaceBeforeColon);
        check_response("HTTP/2.0 200 OK\r\n\r\n", Refusal::Version);
    }

    /// RFC 9112 6.3: what decides whether a response has a body comes before its fields.
    #[test]
    fn responses_without_a_body_have_none_whatever_they_say() {
        let cases = [
            (100, "", Length::None, true),
            (101, "", Length::None, true),
            (103, "Link: x\r\n", Length::None, true),
            (204, "", Length::None, true),
            (204, "Content-Length: 0\r\n", Length::None, true),
            (204, "Content-Length: 5\r\n", Length::None, false),
            (204, "Transfer-Encoding: chunked\r\n", Length::None, false),
            (304, "Content-Length: 5\r\n", Length::None, true),
            (200, "", Length::UntilClose, false),
            (205, "Content-Length: 0\r\n", Length::Exact(0), true),
        ];
        for (status, fields, body, keep_alive) in cases {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            let head = response(&head).unwrap();
            assert_eq!((head.status, head.body, head.keep_alive), (status, body, keep_alive));
        }
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let head = parse_response(head, &LIMITS, true).unwrap().unwrap();
        assert_eq!((head.body, head.keep_alive), (Length::None, true));
    }

    /// A head that is refused at some prefix stays refused, and one that is accepted was never refused before.
    #[test]
    fn every_prefix_agrees_with_the_whole() {
        let heads = [
            "\r\nPOST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: y\r\n\r\n",
            "GET http://a:1/x HTTP/1.1\r\nhost: A:1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \rb\r\n\r\n",
        ];
        for head in heads {
            let whole = request(head).map(|head| head.bytes);
            for end in 0..head.len() {
                match parse_request(&head.as_bytes()[..end], &LIMITS) {
                    Ok(head) => assert!(head.is_none()),
                    Err(refusal) => assert_eq!(whole, Err(refusal), "{head:?} to {end}"),
                }
            }
            // Bytes after a head change nothing about it.
            let longer = [head, "GET \0\n"].concat();
            assert_eq!(request(&longer).map(|head| head.bytes), whole);
        }
    }

    #[test]
    fn the_limits_of_the_type_hold_whatever_the_caller_allows() {
        let limits =
            HeadLimits { head_bytes_max: usize::MAX, headers_max: usize::MAX, target_bytes_max: usize::MAX };
        let fields =
            |count: usize| -> String { (0..count).map(|field| format!("F{field}: v\r\n")).collect() };
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(63));
        assert_eq!(parse_request(head.as_bytes(), &limits).unwrap().unwrap().headers.len(), 64);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(64));
        assert_eq!(parse_request(head.as_bytes(), &limits).err(), Some(Refusal::TooManyHeaders));
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(65_535 - 32));
        let parsed = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
        assert_eq!((parsed.bytes, parsed.headers.get("x").unwrap().len()), (65_535, 65_535 - 32));
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(65_536 - 32));
        assert_eq!(parse_request(head.as_bytes(), &limits).err(), Some(Refusal::HeadTooLong));
    }
}

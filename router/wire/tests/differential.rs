//! What we make of bytes, against what others make of them: httparse for heads, tungstenite for frames and handshakes,
//! serde_json for strings, and a plain reading of the WHATWG text for events. Where we differ we are the stricter or the
//! earlier one, and each such difference is named here.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Error, ErrorKind, Read, Write};

use clawgate_wire::http1::{HeadLimits, parse_request, parse_response};
use clawgate_wire::websocket::{
    Opcode, Role, Violation, accept_key, begin_frame, check_upgrade, check_upgrade_response, client_key,
    end_frame, write_close, write_frame, write_upgrade_request, write_upgrade_response,
};
use clawgate_wire::{json, sse};
use support::{Rng, Said, read_websocket, rounds};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
use tungstenite::{HandshakeError, Message};

/// A connection whose other end is this test: reads what it was given, keeps what is written.
#[derive(Debug)]
struct Pipe {
    input: Vec<u8>,
    at: usize,
    output: Vec<u8>,
    /// Whether the peer has gone, or is only slow.
    closed: bool,
}

impl Pipe {
    fn new(input: &[u8], closed: bool) -> Self {
        Self { input: input.to_vec(), at: 0, output: Vec::new(), closed }
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let rest = &self.input[self.at..];
        if rest.is_empty() && !self.closed {
            return Err(ErrorKind::WouldBlock.into());
        }
        let bytes = rest.len().min(buf.len());
        buf[..bytes].copy_from_slice(&rest[..bytes]);
        self.at += bytes;
        Ok(bytes)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Error> {
        self.output.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, headers_max: 32, target_bytes_max: 1024 };

/// A head that is mostly in order, so that most of them are accepted.
fn head(rng: &mut Rng, first: &[&str]) -> Vec<u8> {
    let mut head = rng.pick(first).as_bytes().to_vec();
    head.extend_from_slice(b"\r\n");
    let fields = [
        "Host: h:80",
        "Content-Length: 12",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "X-Empty:",
        "X-Tab: \ta\tb\t ",
        "Accept: */*",
        "Cookie: a=b; c=\"d\"",
        "Upgrade: websocket",
        "Expect: 100-continue",
        "x: \u{e9}",
        "Content-Length: 0",
    ];
    if !first[0].starts_with("HTTP") {
        head.extend_from_slice(b"Host: h:80\r\n");
    }
    for _ in 0..rng.below(6) {
        head.extend_from_slice(rng.pick(&fields).as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    for _ in 0..rng.below(3) {
        let at = rng.below(head.len());
        match rng.below(3) {
            0 => head[at] = *rng.pick(b"\r\n\t :\0,ax\xFF/"),
            1 => head.insert(at, *rng.pick(b"\r\n\t :\0,ax\xFF/")),
            _ => {
                head.remove(at);
            }
        }
    }
    if rng.one_in(8) {
        head.insert(0, b'\r');
        head.insert(1, b'\n');
    }
    head
}

/// All that we accept httparse accepts, and reads the same from it. It is httparse that splits our heads, so what this
/// holds is our part: the end of the head, the limits, the places of the fields, the cut of an absolute target.
#[test]
fn accepted_heads_are_read_as_httparse_reads_them() {
    let lines = [
        "GET / HTTP/1.1",
        "POST /a?b=%20 HTTP/1.1",
        "GET http://h:80/x?y HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "PUT /x HTTP/1.0",
    ];
    let (mut accepted, mut stricter) = (0, 0);
    for seed in rounds(60_000) {
        let rng = &mut Rng::new(seed);
        let buf = head(rng, &lines);
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut theirs = httparse::Request::new(&mut fields);
        let status = theirs.parse(&buf);
        let Ok(Some(ours)) = parse_request(&buf, &LIMITS) else {
            stricter += usize::from(matches!(status, Ok(httparse::Status::Complete(_))));
            continue;
        };
        accepted += 1;
        assert_eq!(status, Ok(httparse::Status::Complete(ours.bytes)), "seed {seed}");
        assert_eq!((theirs.method, theirs.version), (Some(ours.method), Some(ours.minor)), "seed {seed}");
        // The authority is cut off a target in absolute form, once it is known to be Host's.
        let target = theirs.path.unwrap();
        let authority = target.find("://").filter(|_| !target.starts_with('/')).map_or(0, |scheme_bytes| {
            let start = scheme_bytes + 3;
            let host = ours.headers.get("host").unwrap();
            assert!(target[start..start + host.len()].eq_ignore_ascii_case(host), "seed {seed}");
            start + host.len()
        });
        let path = if target.len() == authority { "/" } else { &target[authority..] };
        assert_eq!(path, ours.target, "seed {seed}");
        let fields: Vec<(&str, &[u8])> =
            theirs.headers.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(ours.headers.iter().collect::<Vec<_>>(), fields, "seed {seed}");
        for (name, _) in &fields {
            let first = fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).unwrap().1;
            assert_eq!(ours.headers.get_bytes(&name.to_uppercase()), Some(first), "seed {seed}");
        }
    }
    assert!(10_000 < accepted && 10_000 < stricter, "{accepted} {stricter}");
}

#[test]
fn accepted_responses_are_read_as_httparse_reads_them() {
    let lines = [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 204",
        "HTTP/1.0 301 ",
        "HTTP/1.1 500 \u{e9}",
        "HTTP/1.1 101 X Y",
    ];
    let mut accepted = 0;
    for seed in rounds(60_000) {
        let rng = &mut Rng::new(seed);
        let buf = head(rng, &lines);
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut theirs = httparse::Response::new(&mut fields);
        let status = theirs.parse(&buf);
        let Ok(Some(ours)) = parse_response(&buf, &LIMITS, false) else { continue };
        accepted += 1;
        assert_eq!(status, Ok(httparse::Status::Complete(ours.bytes)), "seed {seed}");
        assert_eq!((theirs.code, theirs.version), (Some(ours.status), Some(ours.minor)), "seed {seed}");
        assert_eq!(theirs.reason, Some(ours.reason), "seed {seed}");
        let fields: Vec<(&str, &[u8])> =
            theirs.headers.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(ours.headers.iter().collect::<Vec<_>>(), fields, "seed {seed}");
    }
    assert!(10_000 < accepted, "{accepted}");
}

/// How tungstenite's reading of a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Theirs {
    /// It would read on.
    More,
    /// A close frame.
    Closed,
    /// It refused.
    Refused,
}

const MESSAGE_BYTES_MAX: usize = 4000;

/// Everything that tungstenite makes of a stream, up to the close frame.
fn read_theirs(role: TheirRole, wire: &[u8]) -> (Vec<Said>, Theirs) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(4096);
    let mut socket = WebSocket::from_raw_socket(Pipe::new(wire, false), role, Some(config));
    let mut said = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => said.push(Said::Text(text.as_str().as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => said.push(Said::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => said.push(Said::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => said.push(Said::Pong(bytes.to_vec())),
            Ok(Message::Close(close)) => {
                said.push(Said::Close(
                    close.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())),
                ));
                return (said, Theirs::Closed);
            }
            Ok(Message::Frame(_)) => unreachable!("raw frames are never read"),
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return (said, Theirs::More);
            }
            Err(_) => return (said, Theirs::Refused),
        }
    }
}

/// Writes a conversation with our functions, as the given role, and says what it is.
fn write_ours(rng: &mut Rng, role: Role) -> (Vec<u8>, Vec<Said>) {
    let (mut wire, mut said) = (Vec::new(), Vec::new());
    let mask = |rng: &mut Rng| (role == Role::Client).then(|| (rng.next() as u32).to_ne_bytes());
    for _ in 0..1 + rng.below(6) {
        let characters = *rng.pick(&[0, 1, 20, 70, 125, 126, 300, 900]);
        let text = rng.text(characters);
        let payload = text.as_bytes().to_vec();
        let control = payload[..payload.len().min(125)].to_vec();
        match rng.below(6) {
            0 if role == Role::Server => {
                let start = begin_frame(&mut wire);
                wire.extend_from_slice(&payload);
                end_frame(&mut wire, start, Opcode::Text);
                said.push(Said::Text(payload));
            }
            0 | 1 => {
                write_frame(&mut wire, Opcode::Text, true, mask(rng), &payload);
                said.push(Said::Text(payload));
            }
            2 => {
                write_frame(&mut wire, Opcode::Binary, true, mask(rng), &payload);
                said.push(Said::Binary(payload));
            }
            3 => {
                write_frame(&mut wire, Opcode::Ping, true, mask(rng), &control);
                said.push(Said::Ping(control));
            }
            4 => {
                write_frame(&mut wire, Opcode::Pong, true, mask(rng), &control);
                said.push(Said::Pong(control));
            }
            _ => {
                let (first, second) = (rng.below(payload.len() + 1), rng.below(payload.len() + 1));
                let (first, second) = (first.min(second), first.max(second));
                let binary = rng.one_in(2);
                let opcode = if binary { Opcode::Binary } else { Opcode::Text };
                write_frame(&mut wire, opcode, false, mask(rng), &payload[..first]);
                if rng.one_in(2) {
                    write_frame(&mut wire, Opcode::Ping, true, mask(rng), b"?");
                    said.push(Said::Ping(b"?".to_vec()));
                }
                write_frame(&mut wire, Opcode::Continuation, false, mask(rng), &payload[first..second]);
                write_frame(&mut wire, Opcode::Continuation, true, mask(rng), &payload[second..]);
                said.push(if binary { Said::Binary(payload) } else { Said::Text(payload) });
            }
        }
    }
    if rng.one_in(3) {
        let code = *rng.pick(&[1000, 1001, 1011, 1013, 3000, 4999]);
        write_close(&mut wire, mask(rng), code, "bye é");
        said.push(Said::Close(Some((code, "bye é".to_owned()))));
    }
    (wire, said)
}

/// The other side of a role, as tungstenite names it, and as we do.
fn peer(role: Role) -> (TheirRole, Role) {
    match role {
        Role::Server => (TheirRole::Client, Role::Client),
        Role::Client => (TheirRole::Server, Role::Server),
    }
}

#[test]
fn tungstenite_reads_what_we_write() {
    for seed in rounds(4_000) {
        let rng = &mut Rng::new(seed);
        let role = *rng.pick(&[Role::Server, Role::Client]);
        let (wire, said) = write_ours(rng, role);
        let (theirs, ours) = peer(role);
        let (found, _) = read_theirs(theirs, &wire);
        assert_eq!(found, said, "seed {seed}");
        let cuts = rng.cuts(wire.len());
        assert_eq!(read_websocket(ours, MESSAGE_BYTES_MAX, &wire, &cuts), (said, None), "seed {seed}");
    }
}

#[test]
fn we_read_what_tungstenite_writes() {
    for seed in rounds(4_000) {
        let rng = &mut Rng::new(seed);
        let role = *rng.pick(&[Role::Server, Role::Client]);
        let (theirs, ours) = peer(role);
        // `theirs` is the role of the one that writes here.
        let reader = if theirs == TheirRole::Client { Role::Server } else { Role::Client };
        assert_ne!(reader, ours);
        let mut socket = WebSocket::from_raw_socket(Pipe::new(b"", false), theirs, None);
        let mut said = Vec::new();
        for _ in 0..1 + rng.below(6) {
            let characters = *rng.pick(&[0, 1, 20, 125, 126, 300, 900, 20_000]);
            let text = rng.text(characters);
            let bytes = text.as_bytes().to_vec();
            let control = bytes[..bytes.len().min(125)].to_vec();
            let message = match rng.below(5) {
                0 => Message::Text(text.into()),
                1 => Message::Binary(bytes.clone().into()),
                2 => Message::Ping(control.clone().into()),
                3 => Message::Pong(control.clone().into()),
                _ => Message::Frame(Frame::message(bytes.clone(), OpCode::Data(Data::Binary), false)),
            };
            match &message {
                Message::Text(_) => said.push(Said::Text(bytes)),
                Message::Binary(_) => said.push(Said::Binary(bytes)),
                Message::Ping(_) => said.push(Said::Ping(control)),
                Message::Pong(_) => said.push(Said::Pong(control)),
                Message::Frame(_) | Message::Close(_) => {
                    said.push(Said::Binary([&bytes[..], b"end"].concat()))
                }
            }
            let fragmented = matches!(message, Message::Frame(_));
            socket.send(message).unwrap();
            if fragmented {
                let rest = Frame::message(&b"end"[..], OpCode::Data(Data::Continue), true);
                socket.send(Message::Frame(rest)).unwrap();
            }
        }
        if rng.one_in(2) {
            let close = CloseFrame { code: CloseCode::Away, reason: "später".into() };
            socket.close(Some(close)).unwrap();
            said.push(Said::Close(Some((1001, "später".to_owned()))));
        }
        let wire = &socket.get_ref().output;
        let cuts = rng.cuts(wire.len());
        assert_eq!(read_websocket(reader, 1 << 20, wire, &cuts), (said, None), "seed {seed}");
    }
}

/// Streams that were in order until a few bits of them changed, and streams that never were.
fn broken(rng: &mut Rng, role: Role) -> Vec<u8> {
    let (mut wire, _) = write_ours(rng, role);
    wire.truncate(2_000);
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(wire.len().min(40));
        match rng.below(3) {
            0 => wire[at] = rng.next() as u8,
            1 => wire[at] ^= 1 << rng.below(8),
            _ => {
                let start = *rng.pick(&[0x00, 0x01, 0x80, 0x81, 0x88, 0x89, 0x82]);
                let bytes = rng.below(5);
                let mask = if role == Role::Client { 0x80 } else { 0 };
                let tail = rng.bytes(10);
                wire.splice(at..at, [start, mask | bytes as u8].into_iter().chain(tail));
            }
        }
    }
    wire
}

/// On broken streams the two say the same up to the break, and then:
/// - both refuse, both want more, or both have the close frame; or
/// - we refuse and tungstenite wants more: it looks at a frame once it is whole, we at its header and first bytes; or
/// - we refuse and tungstenite goes on: a length that is not minimal (RFC 6455 5.2 says MUST, it does not check; in a
///   control frame the form alone makes it too long for us), or a close code that must not be sent (it reports 1002 as
///   if the peer had sent that).
///
/// Never do we go on where tungstenite refuses.
#[test]
fn broken_streams_are_refused_by_both() {
    let (mut refused, mut earlier, mut stricter) = (0, 0, std::collections::HashSet::new());
    for seed in rounds(60_000) {
        let rng = &mut Rng::new(seed);
        let role = *rng.pick(&[Role::Server, Role::Client]);
        let wire = broken(rng, role);
        let (theirs, ours) = peer(role);
        let (mut said, mut violation) = read_websocket(ours, MESSAGE_BYTES_MAX, &wire, &[]);
        let (their_said, end) = read_theirs(theirs, &wire);
        // 1014 is in the registry, and tungstenite does not know it.
        if let Some(Said::Close(Some(close))) = said.last_mut().filter(|_| end == Theirs::Closed)
            && close.0 == 1014
        {
            *close = (1002, "Protocol violation".to_owned());
        }
        // tungstenite was asked no further than the close frame.
        let closed = said.iter().position(|said| matches!(said, Said::Close(_)));
        if let Some(at) = closed {
            said.truncate(at + 1);
            violation = violation.filter(|violation| *violation != Violation::DataAfterClose);
        }
        match (violation, &end) {
            (None, Theirs::More | Theirs::Closed) => {
                assert_eq!(said, their_said, "seed {seed}");
                assert_eq!(closed.is_some(), end == Theirs::Closed, "seed {seed}");
            }
            (Some(violation), _) if said != their_said => {
                stricter.insert(violation);
                assert!(their_said.starts_with(&said), "seed {seed}");
            }
            (Some(_), Theirs::Refused) => refused += 1,
            (Some(_), Theirs::More | Theirs::Closed) => earlier += 1,
            (None, Theirs::Refused) => panic!("seed {seed}: we go on where tungstenite refuses: {wire:x?}"),
        }
    }
    assert!(10_000 < refused && 1_000 < earlier, "{refused} {earlier}");
    let known = [Violation::LengthNotMinimal, Violation::ControlTooLong, Violation::BadCloseCode];
    assert_eq!(stricter, known.into(), "the differences are these, and all of them are met");
}

#[test]
fn tungstenite_accepts_our_client() {
    for seed in rounds(200) {
        let rng = &mut Rng::new(seed);
        let key = client_key(rng.bytes(16).try_into().unwrap());
        let key = std::str::from_utf8(&key).unwrap();
        let mut request = Vec::new();
        write_upgrade_request(&mut request, "/ws?a=b", "h:80", key, &[("Authorization", "Bearer x")]);
        let socket = tungstenite::accept(Pipe::new(&request, true)).unwrap();
        let response = &socket.get_ref().output;
        let head = parse_response(response, &LIMITS, false).unwrap().unwrap();
        assert_eq!(check_upgrade_response(&head, key), Ok(None));
        assert_eq!(
            accept_key(key).as_slice(),
            tungstenite::handshake::derive_accept_key(key.as_bytes()).as_bytes()
        );
        assert_eq!(head.bytes, response.len());
    }
}

#[test]
fn our_server_accepts_tungstenite() {
    let Err(HandshakeError::Interrupted(mut handshake)) =
        tungstenite::client("ws://h:80/ws?a=b", Pipe::new(b"", false))
    else {
        panic!("a response was not awaited");
    };
    let pipe = handshake.get_mut().get_mut();
    let head = parse_request(&pipe.output, &LIMITS).unwrap().unwrap();
    assert_eq!((head.target, head.bytes), ("/ws?a=b", pipe.output.len()));
    let upgrade = check_upgrade(&head).unwrap();
    let mut response = Vec::new();
    write_upgrade_response(&mut response, &upgrade.accept, None);
    // The first frame may come with the response.
    write_frame(&mut response, Opcode::Text, true, None, b"hello");
    pipe.input = response;
    let (mut socket, response) = handshake.handshake().unwrap();
    assert_eq!(response.status().as_u16(), 101);
    assert_eq!(socket.read().unwrap(), Message::text("hello"));
}

#[test]
fn strings_are_written_as_serde_json_writes_them() {
    let mut out = Vec::new();
    let mut check = |text: &str| {
        out.clear();
        json::write_str(&mut out, text);
        assert_eq!(out, serde_json::to_vec(text).unwrap(), "{text:?}");
    };
    // All that could be special, and every seventh of the rest.
    for code in (0..=0x2FF).chain((0x300..=0x10_FFFF).step_by(7)) {
        if let Some(character) = char::from_u32(code) {
            check(character.encode_utf8(&mut [0; 4]));
        }
    }
    for seed in rounds(20_000) {
        let rng = &mut Rng::new(seed);
        let characters = rng.below(80);
        check(&rng.text(characters));
    }
}

/// The algorithm of WHATWG HTML 9.2.6 as it is written, over a whole stream at once: events as type, id, data.
fn read_by_the_book(stream: &str) -> Vec<(String, Option<String>, String)> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut event, mut id, mut data) = (Vec::new(), String::new(), None, String::new());
    // What comes after the last line end is no line yet.
    let lines = stream.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for line in lines.split('\n').take(if stream.contains('\n') { usize::MAX } else { 0 }) {
        if line.is_empty() {
            let id = id.take();
            let (event, mut data) = (std::mem::take(&mut event), std::mem::take(&mut data));
            if data.is_empty() {
                continue;
            }
            data.pop();
            events.push((if event.is_empty() { "message".to_owned() } else { event }, id, data));
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => id = Some(value.to_owned()),
            _ => {}
        }
    }
    events
}

#[test]
fn events_are_those_of_the_standard() {
    let pieces = [
        "data: ",
        "data:",
        "data",
        "data: one\n",
        "data:two\r\n",
        "event: e\n",
        "event:",
        "event: long-name-of-an-event\r",
        "id: 1\n",
        "id",
        "id:\0",
        "\n",
        "\n",
        "\n\n",
        "\r",
        "\r\n",
        "\r\r",
        ":",
        ": c\n",
        " ",
        "\u{feff}",
        "x",
        "é",
        "retry: 1\n",
    ];
    let mut count = 0;
    for seed in rounds(60_000) {
        let rng = &mut Rng::new(seed);
        let stream: String = (0..rng.below(30)).map(|_| *rng.pick(&pieces)).collect();
        let (mut decoder, mut found) = (sse::Decoder::new(1000), Vec::new());
        let mut buf = stream.clone().into_bytes();
        loop {
            let consumed = match decoder.decode(&mut buf).unwrap() {
                sse::Step::NeedMore => break,
                sse::Step::Event { consumed, event, id, data } => {
                    let data = std::str::from_utf8(data).unwrap().to_owned();
                    found.push((event.to_owned(), id.map(str::to_owned), data));
                    consumed
                }
                sse::Step::Id { consumed, .. }
                | sse::Step::Comment { consumed }
                | sse::Step::Skip { consumed } => consumed,
            };
            buf.drain(..consumed);
        }
        count += found.len();
        assert_eq!(found, read_by_the_book(&stream), "seed {seed}: {stream:?}");
    }
    assert!(30_000 < count, "{count}");
}

//! The gateway's client protocol from a client's side: requests as templates with holes of a fixed width, answers by the
//! few fields that matter. Owns no connection; the gateway's own code is not used, so that both cannot be wrong together.

use std::borrow::Cow;
use std::ops::Range;

use clawgate_wire::http1::{Length, write_request_head};
use clawgate_wire::json;

use crate::run::Seal;
use crate::scan::{self, Value};
use crate::stamp::{self, Stamp};

/// Who sends what where, as far as the requests say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// The number of this run: in ids and in texts.
    pub run: u32,
    /// Bytes of a message's text, at least [`stamp::STAMP_BYTES`].
    pub payload_bytes: usize,
    /// What session ids start with.
    pub session_prefix: String,
    /// The value of `channel`.
    pub channel: String,
    /// The authority of the gateway, for `Host`.
    pub host: String,
    /// The key, for `Authorization`; empty for none.
    pub key: String,
}

impl Addressing {
    /// The addressing of one part of a mixed scenario: its messages and sessions have names of their own, because a gateway
    /// takes a repeated id for a repeated message, over whichever door it comes.
    #[must_use]
    pub fn for_part(&self, part: u8) -> Self {
        if part == 0 {
            return self.clone();
        }
        Self {
            run: self.run.wrapping_add(u32::from(part)),
            session_prefix: format!("{}{part}-", self.session_prefix),
            ..self.clone()
        }
    }
}

/// What fills a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    /// The session, eight hexadecimal digits.
    Session,
    /// The place in the session, eight hexadecimal digits.
    Seq,
    /// The number of the message in the run, added to a base: sixteen digits.
    Update(u64),
    /// The chat: ten digits.
    Chat,
    /// The message's number in its chat: ten digits.
    ChatMessage,
}

/// Digits of a signature: the base64 of 32 bytes.
const SIGNATURE_DIGITS: usize = 44;

/// Telegram chats are numbered from here, so that their ids have ten digits.
pub const CHAT_BASE: u64 = 5_000_000_000;

/// Where update ids of a run may start: sixteen digits, below 2^53.
const UPDATE_BASE: u64 = 1_000_000_000_000_000;
/// Updates that one run may have before it runs into the ids of another.
const UPDATES_PER_RUN: u64 = 1_000_000_000;

/// The first update id of a run: other runs use others, because a gateway remembers ids for days.
#[must_use]
pub const fn update_base(run: u32) -> u64 {
    UPDATE_BASE + (run % 4_000_000) as u64 * UPDATES_PER_RUN
}

/// A request that is the same for every message but for its holes.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    run: u32,
    text: Range<usize>,
    holes: Vec<(Range<usize>, Hole)>,
    seal: Seal,
}

impl Template {
    /// The `message` of the WebSocket protocol: the JSON alone, without its frame. With a receipt it can be sent again.
    #[must_use]
    pub fn websocket(to: &Addressing, stream: bool, receipt: bool) -> Self {
        let mut template = Self::empty(to);
        template.raw(r#"{"type":"message","id":""#);
        template.message_id();
        template.raw(r#"","channel":"#);
        json::write_str(&mut template.bytes, &to.channel);
        template.raw(r#","content":""#);
        template.text(to.payload_bytes);
        template.raw(r#"","sessionId":""#);
        template.session_id(to);
        template.raw(r#"","stream":"#);
        json::write_bool(&mut template.bytes, stream);
        template.raw(if receipt { r#","receipt":true}"# } else { "}" });
        template
    }

    /// `POST /api/chat`, head and body.
    #[must_use]
    pub fn chat(to: &Addressing, stream: bool) -> Self {
        let mut template = Self::empty(to);
        template.raw(r#"{"channel":"#);
        json::write_str(&mut template.bytes, &to.channel);
        template.raw(r#","message":""#);
        template.text(to.payload_bytes);
        template.raw(r#"","sessionId":""#);
        template.session_id(to);
        template.raw(r#"","stream":"#);
        json::write_bool(&mut template.bytes, stream);
        template.raw(r#","id":""#);
        template.message_id();
        template.raw("\"}");
        let bearer = format!("Bearer {}", to.key);
        let accept = if stream { "text/event-stream" } else { "application/json" };
        let mut headers = vec![("Content-Type", "application/json"), ("Accept", accept)];
        if !to.key.is_empty() {
            headers.push(("Authorization", &bearer));
        }
        template.with_head("/api/chat", &to.host, &headers)
    }

    /// A Telegram update with a private message, as the platform posts it to a webhook.
    #[must_use]
    pub fn telegram(to: &Addressing, target: &str, secret: &str, unix_seconds: u64) -> Self {
        let mut template = Self::empty(to);
        template.raw(r#"{"update_id":"#);
        template.hole(Hole::Update(update_base(to.run)), 16);
        template.raw(r#","message":{"message_id":"#);
        template.hole(Hole::ChatMessage, 10);
        template.raw(r#","from":{"id":"#);
        template.hole(Hole::Chat, 10);
        template.raw(
            r#","is_bot":false,"first_name":"Ana","username":"ana","language_code":"en"},"chat":{"id":"#,
        );
        template.hole(Hole::Chat, 10);
        template.raw(r#","first_name":"Ana","username":"ana","type":"private"},"date":"#);
        json::write_u64(&mut template.bytes, unix_seconds);
        template.raw(r#","text":""#);
        template.text(to.payload_bytes);
        template.raw("\"}}");
        let headers = [("Content-Type", "application/json"), ("X-Telegram-Bot-Api-Secret-Token", secret)];
        let mut template = template.with_head(target, &to.host, &headers);
        template.seal.signature = template.header("X-Telegram-Bot-Api-Secret-Token");
        template
    }

    /// A message of any program, as Standard Webhooks have it posted. Its moment and signature are to be filled in.
    #[must_use]
    pub fn signed(to: &Addressing, target: &str) -> Self {
        let mut template = Self::empty(to);
        template.raw(r#"{"event_id":""#);
        let id = template.bytes.len();
        template.message_id();
        let id = String::from_utf8_lossy(&template.bytes[id..]).into_owned();
        template.raw(r#"","sender":"u"#);
        template.hole(Hole::Chat, 10);
        template.raw(r#"","text":""#);
        template.text(to.payload_bytes);
        template.raw("\"}");
        let signature = "v1,".to_owned() + &"A".repeat(SIGNATURE_DIGITS);
        let headers = [
            ("Content-Type", "application/json"),
            ("webhook-id", id.as_str()),
            ("webhook-timestamp", "0000000000"),
            ("webhook-signature", signature.as_str()),
        ];
        let mut template = template.with_head(target, &to.host, &headers);
        let id = template.header("webhook-id");
        template.holes.push((id.start + 9..id.start + 17, Hole::Session));
        template.holes.push((id.start + 18..id.start + 26, Hole::Seq));
        template.seal.time = template.header("webhook-timestamp");
        template.seal.signature = template.header("webhook-signature");
        template.seal.id = id;
        template
    }

    fn empty(to: &Addressing) -> Self {
        Self { bytes: Vec::new(), run: to.run, text: 0..0, holes: Vec::new(), seal: Seal::default() }
    }

    /// Where the value of a header stands; nowhere if there is none.
    fn header(&self, name: &str) -> Range<usize> {
        let line = format!("\r\n{name}: ");
        let start = memchr::memmem::find(&self.bytes, line.as_bytes()).map_or(0, |at| at + line.len());
        let length = memchr::memmem::find(&self.bytes[start..], b"\r\n").unwrap_or(0);
        start..start + length
    }

    /// The request that was filled last, and where in it its signature goes.
    pub(crate) fn sealed(&mut self) -> (&mut [u8], &Seal) {
        (&mut self.bytes, &self.seal)
    }

    fn raw(&mut self, json: &str) {
        self.bytes.extend_from_slice(json.as_bytes());
    }

    fn hole(&mut self, hole: Hole, digits: usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + digits, b'0');
        self.holes.push((start..start + digits, hole));
    }

    fn text(&mut self, bytes: usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + bytes, b'.');
        self.text = start..start + bytes;
    }

    fn message_id(&mut self) {
        let mut run = [0; 8];
        stamp::write_hex(&mut run, u64::from(self.run));
        self.bytes.extend_from_slice(&run);
        self.raw("-");
        self.hole(Hole::Session, 8);
        self.raw("-");
        self.hole(Hole::Seq, 8);
    }

    fn session_id(&mut self, to: &Addressing) {
        json::write_str_body(&mut self.bytes, &to.session_prefix);
        self.hole(Hole::Session, 8);
    }

    /// Puts a request's head before the body that was written so far.
    fn with_head(self, target: &str, host: &str, headers: &[(&str, &str)]) -> Self {
        let mut bytes = Vec::new();
        write_request_head(
            &mut bytes,
            "POST",
            target,
            host,
            headers,
            Length::Exact(self.bytes.len() as u64),
            true,
        );
        let shift = |range: &Range<usize>| range.start + bytes.len()..range.end + bytes.len();
        let body = shift(&(0..self.bytes.len()));
        let text = shift(&self.text);
        let holes = self.holes.iter().map(|(range, hole)| (shift(range), *hole)).collect();
        bytes.extend_from_slice(&self.bytes);
        Self { bytes, run: self.run, text, holes, seal: Seal { body, ..Seal::default() } }
    }

    /// The request for one message; `index` is its number in the run.
    #[inline]
    pub fn fill(&mut self, session: u32, seq: u32, due_ns: u64, index: u64) -> &[u8] {
        for (range, hole) in &self.holes {
            let place = &mut self.bytes[range.clone()];
            match hole {
                Hole::Session => stamp::write_hex(place, u64::from(session)),
                Hole::Seq => stamp::write_hex(place, u64::from(seq)),
                Hole::Update(base) => write_decimal(place, base + index),
                Hole::Chat => write_decimal(place, CHAT_BASE + u64::from(session)),
                Hole::ChatMessage => write_decimal(place, 1_000_000_000 + u64::from(seq)),
            }
        }
        stamp::write(&mut self.bytes[self.text.clone()], &Stamp { run: self.run, session, seq, due_ns });
        &self.bytes
    }
}

/// Writes a number that has as many digits as there is room for.
#[inline]
fn write_decimal(place: &mut [u8], number: u64) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    debug_assert_eq!(digits.len(), place.len(), "a hole is of one width");
    let bytes = digits.len().min(place.len());
    place[..bytes].copy_from_slice(&digits[..bytes]);
}

/// The session and the place in it that a message's id names; `None` if it is none of this run's.
#[inline]
#[must_use]
pub fn read_message_id(id: &[u8], run: u32) -> Option<(u32, u32)> {
    if id.len() != 26 || id[8] != b'-' || id[17] != b'-' || stamp::read_hex(&id[..8])? != u64::from(run) {
        return None;
    }
    Some((stamp::read_hex(&id[9..17])? as u32, stamp::read_hex(&id[18..])? as u32))
}

/// Whether a session id is that of this session.
#[inline]
#[must_use]
pub fn is_session_id(id: &[u8], prefix: &str, session: u32) -> bool {
    let mut digits = [0; 8];
    stamp::write_hex(&mut digits, u64::from(session));
    id.strip_prefix(prefix.as_bytes()) == Some(&digits)
}

/// What a server's message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The key is good.
    AuthOk,
    /// A message is durable.
    Accepted,
    /// A whole answer.
    Message,
    /// A part of one.
    Chunk,
    /// The end of one.
    Done,
    /// The answer to a ping.
    Pong,
    /// A refusal or a failure.
    Error,
    /// Something else, which a client ignores.
    Other,
}

/// A server's message: one frame of the WebSocket, or the data of one server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// What it is.
    pub said: Said,
    /// Its text.
    pub content: Option<Cow<'a, [u8]>>,
    /// Its session.
    pub session_id: Option<Cow<'a, [u8]>>,
    /// Which message it answers.
    pub id: Option<Cow<'a, [u8]>>,
    /// Its code, if it is an error.
    pub code: Option<Cow<'a, [u8]>>,
    /// It says that its message was known already.
    pub duplicate: bool,
}

impl<'a> Incoming<'a> {
    /// Reads a server's message; `None` if it is no JSON object with a `type`.
    #[inline]
    #[must_use]
    pub fn read(json: &'a [u8]) -> Option<Self> {
        Self::scan(json).or_else(|| Self::parse(json))
    }

    /// The way of nearly all: without a copy.
    #[inline]
    fn scan(json: &'a [u8]) -> Option<Self> {
        let mut said = None;
        let mut incoming = Self {
            said: Said::Other,
            content: None,
            session_id: None,
            id: None,
            code: None,
            duplicate: false,
        };
        for field in scan::fields(json) {
            let (name, value) = field.ok()?;
            match name {
                b"type" => said = Some(kind(&value.text()?)),
                b"content" => incoming.content = value.text(),
                b"sessionId" => incoming.session_id = value.text(),
                b"id" => incoming.id = value.text(),
                b"code" => incoming.code = value.text(),
                b"duplicate" => incoming.duplicate = value == Value::Plain(b"true"),
                _ => {}
            }
        }
        incoming.said = said?;
        Some(incoming)
    }

    /// The way of a message that is written as nobody expects.
    #[cold]
    fn parse(json: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(json).ok()?;
        let text = |name| value.get(name)?.as_str().map(|text| Cow::Owned(text.as_bytes().to_vec()));
        Some(Self {
            said: kind(value.get("type")?.as_str()?.as_bytes()),
            content: text("content"),
            session_id: text("sessionId"),
            id: text("id"),
            code: text("code"),
            duplicate: value.get("duplicate").and_then(serde_json::Value::as_bool).unwrap_or(false),
        })
    }
}

#[inline]
fn kind(name: &[u8]) -> Said {
    match name {
        b"chunk" => Said::Chunk,
        b"done" => Said::Done,
        b"message" => Said::Message,
        b"accepted" => Said::Accepted,
        b"error" => Said::Error,
        b"auth_ok" => Said::AuthOk,
        b"pong" => Said::Pong,
        _ => Said::Other,
    }
}

/// What `POST /api/chat` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// `success` with its data.
    Success {
        /// The answer.
        message: Cow<'a, [u8]>,
        /// Its session.
        session_id: Option<Cow<'a, [u8]>>,
    },
    /// An error with its code.
    Error {
        /// The code.
        code: Cow<'a, [u8]>,
    },
}

impl<'a> Envelope<'a> {
    /// Reads an answer's body; `None` if it is no envelope.
    #[must_use]
    pub fn read(json: &'a [u8]) -> Option<Self> {
        for field in scan::fields(json) {
            match field.ok()? {
                (b"data", Value::Nested(data)) => return Self::read_data(data),
                (b"error", Value::Nested(error)) => {
                    let code = find(error, b"code")?.text()?;
                    return Some(Self::Error { code });
                }
                _ => {}
            }
        }
        None
    }

    fn read_data(data: &'a [u8]) -> Option<Self> {
        let message = find(data, b"message")?.text()?;
        let session_id = find(data, b"sessionId").and_then(|value| value.text());
        Some(Self::Success { message, session_id })
    }
}

/// One field of an object.
#[must_use]
pub fn find<'a>(json: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
    scan::fields(json).map_while(Result::ok).find(|(found, _)| *found == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_wire::http1::{HeadLimits, parse_request};

    fn addressing() -> Addressing {
        Addressing {
            run: 0x1234,
            payload_bytes: 100,
            session_prefix: "lg-\"quoted\"-".to_owned(),
            channel: "api".to_owned(),
            host: "127.0.0.1:8787".to_owned(),
            key: "secret".to_owned(),
        }
    }

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4096, headers_max: 32, target_bytes_max: 256 };

    fn body_of(request: &[u8]) -> (String, serde_json::Value) {
        let head = parse_request(request, &LIMITS).unwrap().unwrap();
        let body = &request[head.bytes..];
        assert_eq!(head.body, Length::Exact(body.len() as u64));
        assert!(head.keep_alive);
        (format!("{} {}", head.method, head.target), serde_json::from_slice(body).unwrap())
    }

    #[test]
    fn a_websocket_message_is_json_with_all_holes_filled() {
        let mut template = Template::websocket(&addressing(), true, false);
        let json: serde_json::Value = serde_json::from_slice(template.fill(7, 9, 11, 13)).unwrap();
        assert_eq!(json["type"], "message");
        assert_eq!(json["sessionId"], "lg-\"quoted\"-00000007");
        assert_eq!(json["stream"], true);
        assert_eq!(read_message_id(json["id"].as_str().unwrap().as_bytes(), 0x1234), Some((7, 9)));
        assert_eq!(read_message_id(json["id"].as_str().unwrap().as_bytes(), 0x1235), None);
        let text = stamp::read(json["content"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(text, Stamp { run: 0x1234, session: 7, seq: 9, due_ns: 11 });
        assert!(is_session_id(json["sessionId"].as_str().unwrap().as_bytes(), "lg-\"quoted\"-", 7));
        let again: serde_json::Value = serde_json::from_slice(template.fill(8, 0, 1, 2)).unwrap();
        assert_eq!(again["sessionId"], "lg-\"quoted\"-00000008");
    }

    #[test]
    fn a_chat_request_is_a_whole_http_request() {
        let mut template = Template::chat(&addressing(), false);
        let (line, json) = body_of(template.fill(1, 2, 3, 4));
        assert_eq!(line, "POST /api/chat");
        assert_eq!(json["channel"], "api");
        assert_eq!(json["stream"], false);
        assert!(stamp::read(json["message"].as_str().unwrap().as_bytes()).is_some());
        assert!(read_message_id(json["id"].as_str().unwrap().as_bytes(), 0x1234).is_some());
    }

    #[test]
    fn a_telegram_update_has_the_platforms_shape() {
        let mut template = Template::telegram(&addressing(), "/webhooks/tg", "s3cret", 1_710_000_000);
        let (line, json) = body_of(template.fill(1, 2, 3, 4));
        assert_eq!(line, "POST /webhooks/tg");
        assert_eq!(json["update_id"].as_u64(), Some(update_base(0x1234) + 4));
        assert_eq!(json["message"]["chat"]["id"].as_u64(), Some(CHAT_BASE + 1));
        assert_eq!(json["message"]["chat"]["type"], "private");
        assert!(json["message"]["text"].as_str().is_some_and(|text| stamp::read(text.as_bytes()).is_some()));
    }

    #[test]
    fn parts_of_a_mixture_share_neither_ids_nor_sessions() {
        let names = |part| {
            let mut template = Template::websocket(&addressing().for_part(part), false, false);
            let json: serde_json::Value = serde_json::from_slice(template.fill(1, 2, 3, 4)).unwrap();
            (json["id"].to_string(), json["sessionId"].to_string())
        };
        let all: Vec<_> = (0..4).map(names).collect();
        for (at, (id, session)) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|(other, of)| other != id && of != session), "{all:?}");
        }
    }

    #[test]
    fn update_ids_stay_exact_numbers_and_apart_between_runs() {
        assert!(update_base(u32::MAX) + UPDATES_PER_RUN < 1 << 53);
        assert!(update_base(3_999_999) < 10_000_000_000_000_000);
        assert_eq!(update_base(8) - update_base(7), UPDATES_PER_RUN);
    }

    #[test]
    fn a_servers_messages_are_read_in_any_field_order_and_with_escapes() {
        let chunk =
            Incoming::read(br#"{"type":"chunk","content":"partial","sessionId":"s1","id":"7","seq":1}"#);
        let chunk = chunk.unwrap();
        assert_eq!(chunk.said, Said::Chunk);
        assert_eq!(chunk.content.as_deref(), Some(&b"partial"[..]));
        assert_eq!(chunk.session_id.as_deref(), Some(&b"s1"[..]));
        let done = Incoming::read(br#"{"usage":{"totalTokens":3},"id":"7","type":"done"}"#).unwrap();
        assert_eq!((done.said, done.id.as_deref()), (Said::Done, Some(&b"7"[..])));
        let error = Incoming::read(br#"{"type":"error","code":"BUSY","message":"\u0041"}"#).unwrap();
        assert_eq!((error.said, error.code.as_deref()), (Said::Error, Some(&b"BUSY"[..])));
        // An escape in a name is what the scanner does not read.
        let odd = Incoming::read(br#"{"t\u0079pe":"chunk","content":"a\nb"}"#).unwrap();
        assert_eq!((odd.said, odd.content.as_deref()), (Said::Chunk, Some(&b"a\nb"[..])));
        assert_eq!(Incoming::read(br#"{"content":"x"}"#), None);
        assert_eq!(Incoming::read(b"hello"), None);
    }

    #[test]
    fn an_envelope_is_a_success_or_an_error() {
        let good = br#"{"success":true,"data":{"message":"Hi","sessionId":"s","usage":{}},"timestamp":"x"}"#;
        assert_eq!(
            Envelope::read(good),
            Some(Envelope::Success { message: b"Hi".into(), session_id: Some(b"s".into()) })
        );
        let bad = br#"{"success":false,"error":{"code":"BUSY","message":"later"},"timestamp":"x"}"#;
        assert_eq!(Envelope::read(bad), Some(Envelope::Error { code: b"BUSY".into() }));
        assert_eq!(Envelope::read(b"<html>"), None);
    }
}

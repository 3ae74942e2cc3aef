//! What one connection of the load says and hears: the bytes of a message, and where its answer ends. Checks that the
//! answer is the right one. Owns no socket.
use super::ask::KEY;
use super::calls::Calls;
use crate::inputs::{TELEGRAM_ID, WEBHOOK_HEAD, client_message, filling_text, masked_frame, telegram_update};
use clawgate_wire::http1::{HeadLimits, Length, parse_response};
use clawgate_wire::websocket::{Decoder, Item, Opcode, Role, Step, write_frame};
use memchr::memmem;

/// What frames are masked with.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// Bytes of one answer's frame; no server here sends longer ones.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Bounds of the heads that servers answer with.
pub const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 16 * 1024, headers_max: 64, target_bytes_max: 8 * 1024 };

/// What a connection speaks.
#[derive(Debug)]
pub enum Talk {
    /// Bytes that come back as they were, without any framing.
    Echo {
        /// What is said.
        said: Vec<u8>,
        /// Bytes of the next answer that came already.
        heard: usize,
    },
    /// WebSocket messages that come back as they were.
    EchoFrames {
        /// The message, framed.
        frame: Vec<u8>,
        /// The message.
        payload: Vec<u8>,
        /// The peer's frames.
        decoder: Decoder,
    },
    /// The client protocol of the gateway: a message, its chunks, its end.
    Chat(Box<Chat>),
    /// HTTP requests that differ in their numbers, Telegram's updates above all.
    Requests(Box<Requests>),
    /// Calls of a model.
    Calls(Box<Calls>),
}

/// The client protocol on one connection.
#[derive(Debug)]
pub struct Chat {
    payload: Vec<u8>,
    /// The payload, framed, where it is always the same; else what changes in it.
    frame: Vec<u8>,
    crowd: Option<Crowd>,
    /// The text as the answer must hold it.
    text: String,
    decoder: Decoder,
    /// Answers that have said their text and not ended; a session has one at a time.
    open: u32,
    open_max: u32,
    /// Pings of the server, which are answered.
    pub pings: u32,
}

/// Sessions that have their turns on one connection.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    /// Where the session's number is.
    number_at: usize,
    first: u64,
    count: u64,
    step: u64,
    place: u64,
}

/// HTTP requests on one connection.
#[derive(Debug)]
pub struct Requests {
    request: Vec<u8>,
    /// Where the request's own number is, and where its chat's are.
    number_at: usize,
    chats_at: Vec<usize>,
    first: u64,
    said: u64,
    chats: u64,
    /// Whether a server that is full may say so, and how often it has since this was asked.
    may_refuse: bool,
    refused: u32,
}

/// How many numbers a connection has; then it begins again, with numbers that every server has long forgotten.
const NUMBERS: u64 = 1_000_000;

/// So many connections can have numbers of their own.
pub const NUMBERED_MAX: usize = 899;

/// A prime, by which a [`Talk::crowd`] goes from session to session: each has its turn, and none is the neighbour of the one
/// before.
pub const FAR: u64 = 1_000_003;

impl Talk {
    /// What the epoll floor echoes: the frame that a WebSocket server gets.
    #[must_use]
    pub fn echo() -> Self {
        Self::Echo { said: masked_frame(&client_message("s0000", &filling_text(5))), heard: 0 }
    }

    /// A WebSocket message that an echo server says again.
    #[must_use]
    pub fn echo_frames() -> Self {
        let payload = client_message("s0000", &filling_text(5));
        let decoder = Decoder::new(Role::Client, FRAME_BYTES_MAX);
        Self::EchoFrames { frame: masked_frame(&payload), payload, decoder }
    }

    /// Messages of a session of the gateway, which the agent echoes.
    #[must_use]
    pub fn chat(session: &str) -> Self {
        Self::Chat(Box::new(Chat::of(session)))
    }

    /// The same, each in the session that is so many further: of `count` sessions from number `first` on.
    #[must_use]
    pub fn crowd(first: u64, count: u64, step: u64) -> Self {
        let mut chat = Chat::of(&crowd_session(0));
        let number_at = numbers_in(&chat.payload).first().copied().unwrap_or_default();
        chat.crowd = Some(Crowd { number_at, first: TELEGRAM_ID + first, count, step, place: 0 });
        chat.open_max = u32::MAX;
        Self::Chat(Box::new(chat))
    }

    /// Updates of Telegram in turns from so many chats; the number of the connection makes them its own. `kind` is
    /// `message`, or `edited_message` for what is acknowledged and not answered.
    #[must_use]
    pub fn webhook(connection: usize, chats: u64, kind: &str) -> Self {
        let body = with_kind(telegram_update(0, 0), kind);
        let first = connection as u64 * NUMBERS;
        Self::Requests(Box::new(Requests::of([WEBHOOK_HEAD, &body].concat(), first, chats)))
    }

    /// As [`Self::webhook`], of messages to the channel of this name; a gateway that is full may refuse some.
    #[must_use]
    pub fn webhook_to(channel: &str, connection: usize, chats: u64) -> Self {
        let head = String::from_utf8_lossy(WEBHOOK_HEAD);
        let head = head.replacen("/webhooks/telegram ", &format!("/webhooks/{channel} "), 1);
        let request = [head.as_bytes(), &telegram_update(0, 0)].concat();
        let may_refuse = true;
        let requests = Requests { may_refuse, ..Requests::of(request, connection as u64 * NUMBERS, chats) };
        Self::Requests(Box::new(requests))
    }

    /// An operation on each session of a crowd, one after the other from number `first` on.
    #[must_use]
    pub fn operate(user: &str, first: u64, operation: &str) -> Self {
        let request = format!(
            "POST /api/sessions/api:{user}:{} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{operation}",
            crowd_session(0),
            operation.len(),
        );
        Self::Requests(Box::new(Requests::of(request.into_bytes(), first, 1)))
    }

    /// Says one message.
    pub fn say(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Echo { said, .. } => out.extend_from_slice(said),
            Self::EchoFrames { frame, .. } => out.extend_from_slice(frame),
            Self::Chat(chat) => chat.say(out),
            Self::Requests(requests) => requests.say(out),
            Self::Calls(calls) => calls.say(out),
        }
    }

    /// How many of the messages that were answered since this was asked were refused.
    pub fn refused(&mut self) -> u32 {
        match self {
            Self::Requests(requests) => std::mem::take(&mut requests.refused),
            Self::Echo { .. } | Self::EchoFrames { .. } | Self::Chat(_) | Self::Calls(_) => 0,
        }
    }

    /// Hears what came: how many bytes are done with, and how many messages were answered in full. What a protocol
    /// wants answered at once goes to `out`.
    ///
    /// # Errors
    /// What was wrong with the answer.
    pub fn hear(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(usize, u32), String> {
        match self {
            Self::Echo { said, heard } => {
                let all = *heard + bytes.len();
                *heard = all % said.len();
                Ok((bytes.len(), u32::try_from(all / said.len()).unwrap_or(u32::MAX)))
            }
            Self::EchoFrames { payload, decoder, .. } => each_frame(decoder, bytes, |item| {
                let said = matches!(&item, Item::Text(text) if *text == payload.as_slice());
                if said { Ok(true) } else { Err(format!("that is no echo: {item:?}")) }
            }),
            Self::Chat(chat) => chat.hear(bytes, out),
            Self::Requests(requests) => requests.hear(bytes),
            Self::Calls(calls) => calls.hear(bytes),
        }
    }
}

/// The same update of another kind, of the same length.
fn with_kind(body: Vec<u8>, kind: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&body);
    let named = text.replacen("\"message\":", &format!("\"{kind}\":"), 1);
    let longer = named.len() - text.len();
    // The update ends with blanks before its last two brackets.
    named.replacen(&format!("{}}}}}", " ".repeat(longer)), "}}", 1).into_bytes()
}

impl Chat {
    fn of(session: &str) -> Self {
        let text = filling_text(session.len());
        let payload = client_message(session, &text);
        let (frame, decoder) = (masked_frame(&payload), Decoder::new(Role::Client, FRAME_BYTES_MAX));
        Self { payload, frame, crowd: None, text, decoder, open: 0, open_max: 1, pings: 0 }
    }

    fn say(&mut self, out: &mut Vec<u8>) {
        let Some(crowd) = &mut self.crowd else { return out.extend_from_slice(&self.frame) };
        write_digits(&mut self.payload[crowd.number_at..], crowd.first + crowd.place);
        crowd.place = (crowd.place + crowd.step) % crowd.count.max(1);
        write_frame(out, Opcode::Text, true, Some(MASK), &self.payload);
    }

    fn hear(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(usize, u32), String> {
        let Self { text, decoder, open, open_max, pings, .. } = self;
        each_frame(decoder, bytes, |item| match item {
            Item::Text(payload) if payload.starts_with(b"{\"type\":\"chunk\"") => {
                if *open_max <= *open || memmem::find(payload, text.as_bytes()).is_none() {
                    return Err(format!("that is no echo: {}", String::from_utf8_lossy(payload)));
                }
                *open += 1;
                Ok(false)
            }
            Item::Text(payload) if payload.starts_with(b"{\"type\":\"done\"") => {
                *open = open.checked_sub(1).ok_or("an answer ended before it said anything")?;
                Ok(true)
            }
            Item::Ping(payload) => {
                *pings += 1;
                write_frame(out, Opcode::Pong, true, Some(MASK), payload);
                Ok(false)
            }
            Item::Text(payload) => Err(format!("the gateway says {}", String::from_utf8_lossy(payload))),
            other @ (Item::Binary(_) | Item::Fragment { .. } | Item::Pong(_) | Item::Close { .. }) => {
                Err(format!("the gateway says {other:?}"))
            }
        })
    }
}

/// The name of a session of a crowd.
fn crowd_session(number: u64) -> String {
    format!("s{}", TELEGRAM_ID + number)
}

/// Where numbers are written.
fn numbers_in(bytes: &[u8]) -> Vec<usize> {
    memmem::find_iter(bytes, TELEGRAM_ID.to_string().as_bytes()).collect()
}

/// Hands over each whole frame; counts those that end an answer.
fn each_frame(
    decoder: &mut Decoder,
    bytes: &mut [u8],
    mut hear: impl FnMut(Item<'_>) -> Result<bool, String>,
) -> Result<(usize, u32), String> {
    let (mut at, mut answered) = (0, 0);
    loop {
        match decoder.decode(&mut bytes[at..]).map_err(|violation| violation.code().to_owned())? {
            Step::NeedMore(_) => return Ok((at, answered)),
            Step::Frame { consumed, item } => {
                answered += u32::from(hear(item)?);
                at += consumed;
            }
        }
    }
}

/// Where the first response ends, and its status, if it is whole.
///
/// # Errors
/// If it is no response, or one of a length that is not told ahead.
pub fn response_end(bytes: &[u8]) -> Result<Option<(usize, u16)>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let head = parse_response(bytes, &HEAD_LIMITS, false).map_err(|refusal| refusal.code().to_owned())?;
    let Some(head) = head else { return Ok(None) };
    let length = match head.body {
        Length::None => 0,
        Length::Exact(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Length::Chunked | Length::UntilClose => return Err("a response of unknown length".to_owned()),
    };
    let end = head.bytes.saturating_add(length);
    Ok((end <= bytes.len()).then_some((end, head.status)))
}

impl Requests {
    /// The first number in it is the request's own, the others are its chat's.
    fn of(request: Vec<u8>, first: u64, chats: u64) -> Self {
        let mut places = numbers_in(&request).into_iter();
        let number_at = places.next().unwrap_or_default();
        let (chats_at, first) = (places.collect(), TELEGRAM_ID + first);
        Self { request, number_at, chats_at, first, said: 0, chats, may_refuse: false, refused: 0 }
    }

    fn say(&mut self, out: &mut Vec<u8>) {
        write_digits(&mut self.request[self.number_at..], self.first + self.said % NUMBERS);
        let chat = self.first + self.said % self.chats;
        self.chats_at.iter().for_each(|at| write_digits(&mut self.request[*at..], chat));
        self.said += 1;
        out.extend_from_slice(&self.request);
    }

    /// Counts the whole responses, which must be 200.
    fn hear(&mut self, bytes: &[u8]) -> Result<(usize, u32), String> {
        let (mut at, mut answered) = (0, 0);
        loop {
            let rest = &bytes[at..];
            let Some((end, status)) = response_end(rest)? else { return Ok((at, answered)) };
            match status {
                200 => {}
                503 if self.may_refuse => self.refused += 1,
                _ => {
                    return Err(format!(
                        "a request was answered with {}",
                        String::from_utf8_lossy(&rest[..end])
                    ));
                }
            }
            at += end;
            answered += 1;
        }
    }
}

/// Over the nine digits at the front.
fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits[..9].iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a server says, in two parts cut anywhere: it is heard once, and wholly.
    fn hears(talk: impl Fn() -> Talk, said: &[u8], answers: u32) {
        for cut in 0..=said.len() {
            let (mut talk, mut out) = (talk(), Vec::new());
            let (done, first) = talk.hear(&mut said[..cut].to_vec(), &mut out).unwrap();
            let (rest, second) = talk.hear(&mut said[done..].to_vec(), &mut out).unwrap();
            assert_eq!((done + rest, first + second), (said.len(), answers), "cut at {cut}");
        }
    }

    fn framed(payloads: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        payloads.iter().for_each(|text| write_frame(&mut out, Opcode::Text, true, None, text.as_bytes()));
        out
    }

    #[test]
    fn answers_are_counted_wherever_a_read_ends() {
        let mut said = Vec::new();
        Talk::echo().say(&mut said);
        hears(Talk::echo, &said.repeat(3), 3);
        let payload = String::from_utf8(client_message("s0000", &filling_text(5))).unwrap();
        hears(Talk::echo_frames, &framed(&[&payload, &payload]), 2);
        let chunk = format!("{{\"type\":\"chunk\",\"content\":\"{}\",\"seq\":1}}", filling_text(5));
        hears(
            || Talk::chat("s0001"),
            &framed(&[&chunk, "{\"type\":\"done\"}", &chunk, "{\"type\":\"done\"}"]),
            2,
        );
        let response =
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        hears(|| Talk::webhook(0, 4, "message"), response, 2);
    }

    #[test]
    fn wrong_answers_are_found() {
        let wrong =
            |talk: fn() -> Talk, said: &[u8]| talk().hear(&mut said.to_vec(), &mut Vec::new()).unwrap_err();
        let chat = || Talk::chat("s0001");
        assert!(wrong(chat, &framed(&["{\"type\":\"chunk\",\"content\":\"?\"}"])).contains("no echo"));
        assert!(wrong(chat, &framed(&["{\"type\":\"done\"}"])).contains("before"));
        assert!(wrong(chat, &framed(&["{\"type\":\"error\"}"])).contains("error"));
        assert!(wrong(Talk::echo_frames, &framed(&["?"])).contains("no echo"));
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert!(wrong(|| Talk::webhook(0, 4, "message"), refused).contains("503"));
    }

    #[test]
    fn a_crowd_goes_through_all_its_sessions_and_hears_them_in_any_order() {
        for step in [1, FAR] {
            let mut talk = Talk::crowd(40, 7, step);
            let mut decoder = Decoder::new(Role::Server, FRAME_BYTES_MAX);
            let mut sessions = std::collections::BTreeSet::new();
            for _ in 0..7 {
                let mut said = Vec::new();
                talk.say(&mut said);
                let Ok(Step::Frame { item: Item::Text(payload), .. }) = decoder.decode(&mut said) else {
                    panic!("that is no message");
                };
                let message: serde_json::Value = serde_json::from_slice(payload).unwrap();
                sessions.insert(message["sessionId"].as_str().unwrap().to_owned());
            }
            assert_eq!(sessions.len(), 7, "step {step}");
            assert!(sessions.contains("s100000040") && sessions.contains("s100000046"));
        }
        let chunk = format!("{{\"type\":\"chunk\",\"content\":\"{}\",\"seq\":1}}", filling_text(10));
        let done = "{\"type\":\"done\"}";
        hears(|| Talk::crowd(0, 9, 1), &framed(&[&chunk, &chunk, done, &chunk, done, done]), 3);
    }

    #[test]
    fn who_may_be_refused_counts_it() {
        let mut talk = Talk::webhook_to("held", 0, 4);
        let mut said = Vec::new();
        talk.say(&mut said);
        assert!(said.starts_with(b"POST /webhooks/held HTTP/1.1\r\n"));
        let mut heard = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec();
        assert_eq!(talk.hear(&mut heard, &mut Vec::new()).unwrap(), (heard.len(), 1));
        assert_eq!((talk.refused(), talk.refused()), (1, 0));
    }

    #[test]
    fn an_operation_names_the_session_of_its_turn() {
        let mut talk = Talk::operate("root", 5, r#"{"action":"reset"}"#);
        let mut said = Vec::new();
        (0..2).for_each(|_| talk.say(&mut said));
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("POST /api/sessions/api:root:s100000005 HTTP/1.1\r\n"), "{said}");
        assert!(said.contains("POST /api/sessions/api:root:s100000006 HTTP/1.1\r\n"), "{said}");
        assert!(said.contains("Content-Length: 18\r\n\r\n{\"action\""), "{said}");
    }

    #[test]
    fn updates_have_numbers_of_their_own_and_chats_take_turns() {
        let mut talk = Talk::webhook(3, 2, "edited_message");
        let mut said = Vec::new();
        (0..3).for_each(|_| talk.say(&mut said));
        let length = said.len() / 3;
        let bodies: Vec<serde_json::Value> = said
            .chunks(length)
            .map(|request| serde_json::from_slice(&request[WEBHOOK_HEAD.len()..]).unwrap())
            .collect();
        let ids: Vec<u64> = bodies.iter().map(|body| body["update_id"].as_u64().unwrap()).collect();
        assert_eq!(ids, [103_000_000, 103_000_001, 103_000_002]);
        let chats: Vec<u64> =
            bodies.iter().map(|body| body["edited_message"]["chat"]["id"].as_u64().unwrap()).collect();
        assert_eq!(chats, [103_000_000, 103_000_001, 103_000_000]);
        assert_eq!(bodies[0]["edited_message"]["from"]["id"], 103_000_000);
    }
}

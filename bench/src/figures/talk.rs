//! What one connection of the load says and hears: the bytes of a message, and where its answer ends. Checks that the
//! answer is the right one. Owns no socket.
use crate::inputs::{TELEGRAM_ID, WEBHOOK_HEAD, client_message, filling_text, masked_frame, telegram_update};
use clawgate_wire::http1::{HeadLimits, Length, parse_response};
use clawgate_wire::websocket::{Decoder, Item, Opcode, Role, Step, write_frame};
use memchr::memmem;

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
    /// Telegram's updates.
    Webhook(Box<Webhook>),
}

/// The client protocol on one connection.
#[derive(Debug)]
pub struct Chat {
    frame: Vec<u8>,
    /// The text as the answer must hold it.
    text: String,
    decoder: Decoder,
    /// The answer that is under way has said its text.
    said: bool,
    /// Pings of the server, which are answered.
    pub pings: u32,
}

/// Telegram's side of a webhook on one connection.
#[derive(Debug)]
pub struct Webhook {
    request: Vec<u8>,
    /// Where the update's number is, and where its chat's are.
    update_at: usize,
    chats_at: Vec<usize>,
    updates: Numbers,
    chats: u64,
}

/// Numbers of nine digits, of which each connection has its own.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    first: u64,
    said: u64,
}

/// How many numbers a connection has; then it begins again, with numbers that every server has long forgotten.
const NUMBERS: u64 = 1_000_000;

/// So many connections can have numbers of their own.
pub const NUMBERED_MAX: usize = 899;

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
        let text = filling_text(session.len());
        let frame = masked_frame(&client_message(session, &text));
        let decoder = Decoder::new(Role::Client, FRAME_BYTES_MAX);
        Self::Chat(Box::new(Chat { frame, text, decoder, said: false, pings: 0 }))
    }

    /// Updates of Telegram in turns from so many chats; the number of the connection makes them its own. `kind` is
    /// `message`, or `edited_message` for what is acknowledged and not answered.
    #[must_use]
    pub fn webhook(connection: usize, chats: u64, kind: &str) -> Self {
        let body = telegram_update(0, 0);
        let body = with_kind(body, kind);
        let request = [WEBHOOK_HEAD, &body].concat();
        let places: Vec<usize> = memmem::find_iter(&request, TELEGRAM_ID.to_string().as_bytes()).collect();
        let (update_at, chats_at) = (places[0], places[1..].to_vec());
        let updates = Numbers { first: TELEGRAM_ID + connection as u64 * NUMBERS, said: 0 };
        Self::Webhook(Box::new(Webhook { request, update_at, chats_at, updates, chats }))
    }

    /// Says one message.
    pub fn say(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Echo { said, .. } => out.extend_from_slice(said),
            Self::EchoFrames { frame, .. } => out.extend_from_slice(frame),
            Self::Chat(chat) => out.extend_from_slice(&chat.frame),
            Self::Webhook(webhook) => webhook.say(out),
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
            Self::Webhook(_) => each_response(bytes),
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
    fn hear(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(usize, u32), String> {
        let Self { text, decoder, said, pings, .. } = self;
        each_frame(decoder, bytes, |item| match item {
            Item::Text(payload) if payload.starts_with(b"{\"type\":\"chunk\"") => {
                if *said || memmem::find(payload, text.as_bytes()).is_none() {
                    return Err(format!("that is no echo: {}", String::from_utf8_lossy(payload)));
                }
                *said = true;
                Ok(false)
            }
            Item::Text(payload) if payload.starts_with(b"{\"type\":\"done\"") => {
                if !std::mem::take(said) {
                    return Err("an answer ended before it said anything".to_owned());
                }
                Ok(true)
            }
            Item::Ping(payload) => {
                *pings += 1;
                write_frame(out, Opcode::Pong, true, Some([1, 2, 3, 4]), payload);
                Ok(false)
            }
            Item::Text(payload) => Err(format!("the gateway says {}", String::from_utf8_lossy(payload))),
            other @ (Item::Binary(_) | Item::Fragment { .. } | Item::Pong(_) | Item::Close { .. }) => {
                Err(format!("the gateway says {other:?}"))
            }
        })
    }
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

/// Counts the whole responses, which must all be 200.
fn each_response(bytes: &[u8]) -> Result<(usize, u32), String> {
    let (mut at, mut answered) = (0, 0);
    loop {
        let rest = &bytes[at..];
        let Some((end, status)) = response_end(rest)? else { return Ok((at, answered)) };
        if status != 200 {
            return Err(format!("a webhook was answered with {}", String::from_utf8_lossy(&rest[..end])));
        }
        at += end;
        answered += 1;
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

impl Webhook {
    fn say(&mut self, out: &mut Vec<u8>) {
        let Numbers { first, said } = &mut self.updates;
        write_digits(&mut self.request[self.update_at..], *first + *said % NUMBERS);
        let chat = *first + *said % self.chats;
        self.chats_at.iter().for_each(|at| write_digits(&mut self.request[*at..], chat));
        *said += 1;
        out.extend_from_slice(&self.request);
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

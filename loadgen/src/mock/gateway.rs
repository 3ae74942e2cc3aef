//! A gateway that echoes, for the generator's own tests: the client protocol and the Telegram webhook, one thread, no
//! routing, no policy. Its faults are planted on purpose; what the generator reports of them is what is tested.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{
    HeadLimits, Length, RequestHead, begin_chunk, end_chunk, parse_response, write_last_chunk,
    write_request_head, write_response_head,
};
use clawgate_wire::websocket::{
    Decoder, Item, Opcode, Role, Step, begin_frame, check_upgrade, end_frame, write_close, write_frame,
    write_upgrade_refusal, write_upgrade_response,
};
use clawgate_wire::{json, sse};

use crate::driver::{self, Socket};
use crate::mock::peer::{self, Peer, write_json};
use crate::pipe::{Pipe, Read, Scratch};
use crate::protocol::find;
use crate::run::{key_of, signature};
use crate::scan::{self, Value};

const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Answers of a session that are told.
const HISTORY_MAX: usize = 1000;

/// Ids that are remembered before all are forgotten.
const SEEN_MAX: usize = 2_000_000;

/// What goes wrong on purpose. A count of `n` hits every `n`th message; 0 hits none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The whole gateway stands still for so long when it takes this message, counted from 1.
    pub stall: Option<(u64, Duration)>,
    /// Not answered.
    pub lose_every: u64,
    /// Answered twice.
    pub double_every: u64,
    /// Answered after the next message of its connection.
    pub swap_every: u64,
    /// Answered with one byte changed.
    pub corrupt_every: u64,
    /// Answered with an error.
    pub refuse_every: u64,
    /// The connection is closed instead.
    pub hang_up_every: u64,
    /// The connection is closed before the message is taken, as by a gateway that is restarted.
    pub leave_every: u64,
    /// A client that is owed more bytes than this is given up, without a word; 0 for any number.
    pub owed_max: usize,
}

/// How the simulated gateway behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The key that it takes.
    pub key: String,
    /// Bytes of a chunk of a streamed answer; 0 for the whole answer in one.
    pub chunk_bytes: usize,
    /// Whether a message whose id was seen before is refused, as a gateway does that answers each once.
    pub remembers: bool,
    /// What goes wrong.
    pub faults: Faults,
    /// The Telegram channel, if it has one.
    pub telegram: Option<ChannelSettings>,
    /// The signed webhook, if it has one.
    pub signed: Option<WebhookSettings>,
}

/// A signed webhook of the simulated gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// The channel's name.
    pub name: String,
    /// What both sides sign with.
    pub secret: String,
    /// Where answers go.
    pub replies: SocketAddr,
}

/// A Telegram channel of the simulated gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSettings {
    /// The channel's name.
    pub name: String,
    /// The webhook's secret.
    pub secret: String,
    /// The bot's token.
    pub token: String,
    /// The Bot API.
    pub api_root: SocketAddr,
    /// Whether updates that were seen are answered again: a fault.
    pub forgets: bool,
    /// Whether an answer is shown while it is written: its first half is sent, and edited into the whole.
    pub previews: bool,
}

/// What is to be said to a platform.
#[derive(Clone, Debug)]
struct Post {
    /// Chat and text, as they were quoted.
    chat: Vec<u8>,
    text: Vec<u8>,
    manner: Manner,
}

/// How it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As a message of the bot.
    Send,
    /// In the place of the text before it.
    Edit,
    /// As an answer of the signed webhook, with its number.
    Signed(u64),
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    Lose,
    Double,
    Swap,
    Corrupt,
    Refuse,
    HangUp,
}

#[derive(Debug)]
struct Gateway {
    settings: GatewaySettings,
    taken: Cell<u64>,
    offered: Cell<u64>,
    scratch: Rc<Scratch>,
    seen_updates: RefCell<HashSet<u64>>,
    seen_ids: RefCell<HashSet<Vec<u8>>>,
    /// The answers of each session to messages with a receipt, as they were quoted.
    histories: RefCell<HashMap<Vec<u8>, Vec<Vec<u8>>>>,
    /// Answers for platforms.
    deliveries: RefCell<VecDeque<Post>>,
}

/// Serves an address on the calling thread, for as long as it runs. Tells where it listens.
///
/// # Errors
/// The system's, if nothing can listen there.
pub fn serve(address: SocketAddr, settings: GatewaySettings) -> io::Result<SocketAddr> {
    let has_channel = settings.telegram.is_some() || settings.signed.is_some();
    let gateway = Rc::new(Gateway {
        settings,
        taken: Cell::new(0),
        offered: Cell::new(0),
        scratch: Rc::default(),
        seen_updates: RefCell::default(),
        seen_ids: RefCell::default(),
        histories: RefCell::default(),
        deliveries: RefCell::default(),
    });
    if has_channel {
        driver::spawn(Rc::clone(&gateway).deliver());
    }
    peer::listen(address, move |peer| Rc::clone(&gateway).serve_peer(peer))
}

/// What an HTTP request leads to.
enum Next {
    Http,
    WebSocket,
    HangUp,
}

impl Gateway {
    async fn serve_peer(self: Rc<Self>, mut peer: Peer) {
        loop {
            let next = peer.next(|head, body, out| self.on_request(head, body, out)).await;
            match next {
                Ok(Some(Next::Http)) => {}
                Ok(Some(Next::WebSocket)) => break,
                Ok(Some(Next::HangUp) | None) | Err(_) => {
                    // What was written so far leaves first; a client that is gone already needs none of it.
                    peer.flush().await.ok();
                    return;
                }
            }
        }
        if peer.flush().await.is_ok() {
            let (socket, rest) = peer.into_parts();
            self.serve_websocket(socket, rest).await;
        }
    }

    /// Counts a message, stands still if it is the one, and tells what becomes of it.
    #[inline]
    fn next_fate(&self) -> Fate {
        let number = self.taken.get() + 1;
        self.taken.set(number);
        let faults = &self.settings.faults;
        if let Some((at, duration)) = faults.stall
            && at == number
        {
            stand_still(duration);
        }
        let hit = |every: u64| every != 0 && number.is_multiple_of(every);
        match () {
            () if hit(faults.lose_every) => Fate::Lose,
            () if hit(faults.double_every) => Fate::Double,
            () if hit(faults.swap_every) => Fate::Swap,
            () if hit(faults.corrupt_every) => Fate::Corrupt,
            () if hit(faults.refuse_every) => Fate::Refuse,
            () if hit(faults.hang_up_every) => Fate::HangUp,
            () => Fate::Answer,
        }
    }

    /// Whether it leaves instead of taking this message.
    fn leaves(&self) -> bool {
        let every = self.settings.faults.leave_every;
        self.offered.set(self.offered.get() + 1);
        every != 0 && self.offered.get().is_multiple_of(every)
    }

    /// Whether a message with this id came before.
    fn is_repeated(&self, id: Option<&[u8]>) -> bool {
        let Some(id) = id.filter(|_| self.settings.remembers) else { return false };
        let mut seen = self.seen_ids.borrow_mut();
        if SEEN_MAX <= seen.len() {
            seen.clear();
        }
        !seen.insert(id.to_vec())
    }

    fn on_request(&self, head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>) -> Next {
        let path = head.target.split('?').next().unwrap_or_default();
        match (head.method, path) {
            ("GET", "/ws") => match check_upgrade(head) {
                Ok(upgrade) => {
                    write_upgrade_response(out, &upgrade.accept, None);
                    return Next::WebSocket;
                }
                Err(refusal) => write_upgrade_refusal(out, refusal),
            },
            ("GET", "/health") => write_json(out, 200, br#"{"status":"ok"}"#),
            ("GET", _) if path.starts_with("/api/sessions/") => self.on_session(path, out),
            ("POST", "/api/chat") => return self.on_chat(head, body, out),
            ("POST", _) if path.starts_with("/webhooks/") => self.on_webhook(head, path, body, out),
            _ => write_error(out, 404, "NOT_FOUND"),
        }
        Next::Http
    }

    /// What a session was answered, the last [`HISTORY_MAX`] texts.
    fn on_session(&self, path: &str, out: &mut Vec<u8>) {
        let name = path.strip_prefix("/api/sessions/").unwrap_or_default();
        let mut quoted = Vec::new();
        json::write_str(&mut quoted, name);
        let histories = self.histories.borrow();
        let Some(texts) = histories.get(&quoted) else { return write_error(out, 404, "NOT_FOUND") };
        let entries: Vec<String> = texts
            .iter()
            .rev()
            .take(HISTORY_MAX)
            .rev()
            .map(|text| format!(r#"{{"role":"assistant","content":{}}}"#, String::from_utf8_lossy(text)))
            .collect();
        let body = format!(r#"{{"success":true,"data":{{"history":[{}]}}}}"#, entries.join(","));
        write_json(out, 200, body.as_bytes());
    }

    /// Tells that a message is admitted, or was before.
    fn write_receipt(&self, out: &mut Vec<u8>, ask: &Ask<'_>, is_known: bool) {
        let start = begin_frame(out);
        out.extend_from_slice(br#"{"type":"accepted","duplicate":"#);
        json::write_bool(out, is_known);
        for (name, value) in [(&br#","id":"#[..], ask.id), (br#","sessionId":"#, ask.session)] {
            if let Some(value) = value {
                out.extend_from_slice(name);
                out.extend_from_slice(value);
            }
        }
        out.push(b'}');
        end_frame(out, start, Opcode::Text);
    }

    fn on_chat(&self, head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>) -> Next {
        let key = head.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if key.unwrap_or_default() != self.settings.key {
            write_error(out, 401, "UNAUTHENTICATED");
            return Next::Http;
        }
        let (Some(Value::Text { quoted: text, .. }), Some(Value::Text { quoted: session, .. })) =
            (find(body, b"message"), find(body, b"sessionId"))
        else {
            write_error(out, 400, "MISSING_FIELD");
            return Next::Http;
        };
        if self.leaves() {
            return Next::HangUp;
        }
        if let Some(Value::Text { quoted: id, .. }) = find(body, b"id")
            && self.is_repeated(Some(id))
        {
            write_error(out, 409, "DUPLICATE");
            return Next::Http;
        }
        let mut text = text.to_vec();
        match self.next_fate() {
            // The one answer to a request can be neither doubled nor swapped.
            Fate::Answer | Fate::Double | Fate::Swap => {}
            Fate::Corrupt => corrupt(&mut text),
            Fate::Refuse => {
                write_error(out, 503, "AGENT_BUSY");
                return Next::Http;
            }
            Fate::Lose | Fate::HangUp => return Next::HangUp,
        }
        if find(body, b"stream") == Some(Value::Plain(b"true")) {
            self.write_events(out, &text, session);
        } else {
            let mut answer = br#"{"success":true,"data":{"message":"#.to_vec();
            answer.extend_from_slice(&text);
            answer.extend_from_slice(br#","sessionId":"#);
            answer.extend_from_slice(session);
            answer.extend_from_slice(
                br#","model":"echo","usage":{"promptTokens":0,"completionTokens":0,"totalTokens":0}},"timestamp":"2026-03-10T08:30:00Z"}"#,
            );
            write_json(out, 200, &answer);
        }
        Next::Http
    }

    /// An answer as server-sent events, an HTTP chunk each.
    fn write_events(&self, out: &mut Vec<u8>, text: &[u8], session: &[u8]) {
        let headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache, no-transform")];
        write_response_head(out, 200, &headers, Length::Chunked, true);
        let mut seq = 0;
        for piece in self.pieces(text) {
            let start = begin_chunk(out);
            sse::begin_data(out, Some("message"), Some(seq));
            write_answer(out, "chunk", Some(piece), session, None, seq);
            sse::end_data(out);
            end_chunk(out, start);
            seq += 1;
        }
        let start = begin_chunk(out);
        sse::begin_data(out, Some("message"), Some(seq));
        write_answer(out, "done", None, session, None, seq);
        sse::end_data(out);
        end_chunk(out, start);
        write_last_chunk(out);
    }

    /// A quoted text without escapes, in pieces without quotes.
    fn pieces<'t>(&self, quoted: &'t [u8]) -> impl Iterator<Item = &'t [u8]> + use<'t> {
        let text = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or(&[]);
        let bytes = if self.settings.chunk_bytes == 0 || text.contains(&b'\\') || !text.is_ascii() {
            text.len().max(1)
        } else {
            self.settings.chunk_bytes
        };
        text.chunks(bytes)
    }

    fn on_webhook(&self, head: &RequestHead<'_>, path: &str, body: &[u8], out: &mut Vec<u8>) {
        let name = path.strip_prefix("/webhooks/").unwrap_or_default();
        if let Some(channel) = self.settings.telegram.as_ref().filter(|channel| channel.name == name) {
            return self.on_update(head, channel, body, out);
        }
        if let Some(channel) = self.settings.signed.as_ref().filter(|channel| channel.name == name) {
            return self.on_signed(head, channel, body, out);
        }
        write_error(out, 404, "NOT_FOUND");
    }

    fn on_update(&self, head: &RequestHead<'_>, channel: &ChannelSettings, body: &[u8], out: &mut Vec<u8>) {
        if head.headers.get("x-telegram-bot-api-secret-token") != Some(channel.secret.as_str()) {
            return write_error(out, 401, "BAD_SIGNATURE");
        }
        if !body.starts_with(b"{") {
            return write_error(out, 400, "BAD_JSON");
        }
        let update = find(body, b"update_id").and_then(|value| value.number()).unwrap_or(0).cast_unsigned();
        let message = find(body, b"message");
        if let Some(Value::Nested(message)) = message
            && let Some(Value::Nested(chat)) = find(message, b"chat")
            && let Some(Value::Plain(chat)) = find(chat, b"id")
            && let Some(Value::Text { quoted: text, .. }) = find(message, b"text")
            && (!self.seen_updates.borrow().contains(&update) || channel.forgets)
        {
            let whole = |text: &[u8]| {
                if channel.previews {
                    // What is echoed is ASCII that needs no escapes: any part of it is a text.
                    self.post(chat, &[&text[..text.len() / 2], b"\""].concat(), Manner::Send);
                    return self.post(chat, text, Manner::Edit);
                }
                self.post(chat, text, Manner::Send);
            };
            if !self.answer_by(text, whole) {
                return write_error(out, 503, "AGENT_BUSY");
            }
            self.seen_updates.borrow_mut().insert(update);
        }
        write_json(out, 200, b"{}");
    }

    fn on_signed(&self, head: &RequestHead<'_>, channel: &WebhookSettings, body: &[u8], out: &mut Vec<u8>) {
        let header = |name| head.headers.get(name).unwrap_or_default();
        let [id, time] = ["webhook-id", "webhook-timestamp"].map(|name| header(name).as_bytes());
        let is_signed = key_of(&channel.secret)
            .is_ok_and(|key| signature(&key, id, time, body) == header("webhook-signature"));
        if !is_signed {
            return write_error(out, 401, "BAD_SIGNATURE");
        }
        let text = |name| match find(body, name) {
            Some(Value::Text { quoted, .. }) => Some(quoted),
            Some(_) | None => None,
        };
        let (Some(event), Some(sender), Some(said)) = (text(b"event_id"), text(b"sender"), text(b"text"))
        else {
            return write_error(out, 400, "BAD_JSON");
        };
        if !self.seen_ids.borrow().contains(event) {
            let whole = |text: &[u8]| self.post(sender, text, Manner::Signed(self.taken.get()));
            if !self.answer_by(said, whole) {
                return write_error(out, 503, "AGENT_BUSY");
            }
            self.seen_ids.borrow_mut().insert(event.to_vec());
        }
        write_json(out, 200, b"{}");
    }

    /// Answers a platform's message as its fate is; `false` if it is refused.
    fn answer_by(&self, text: &[u8], post: impl Fn(&[u8])) -> bool {
        match self.next_fate() {
            Fate::Refuse => return false,
            Fate::Lose | Fate::HangUp => {}
            Fate::Double => {
                post(text);
                post(text);
            }
            Fate::Corrupt => {
                let mut text = text.to_vec();
                corrupt(&mut text);
                post(&text);
            }
            Fate::Answer | Fate::Swap => post(text),
        }
        true
    }

    fn post(&self, chat: &[u8], text: &[u8], manner: Manner) {
        self.deliveries.borrow_mut().push_back(Post { chat: chat.to_vec(), text: text.to_vec(), manner });
    }

    /// Sends answers to the platforms, one after another.
    async fn deliver(self: Rc<Self>) {
        let mut connection: Option<(SocketAddr, Socket, Vec<u8>)> = None;
        // The number of the message that was sent last.
        let mut shown = Vec::new();
        loop {
            let next = self.deliveries.borrow().front().cloned();
            let Some(post) = next else {
                driver::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let Some((address, request)) = self.request(&post, &shown) else {
                self.deliveries.borrow_mut().pop_front();
                continue;
            };
            let delivered = match &mut connection {
                Some((to, socket, input)) if *to == address => exchange(socket, input, &request).await,
                Some(_) | None => match Socket::connect(address).await {
                    Ok(socket) => {
                        connection = Some((address, socket, Vec::new()));
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let Ok(answer) = delivered else {
                connection = None;
                driver::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if let Some(Value::Nested(message)) = find(&answer, b"result")
                && let Some(Value::Plain(number)) = find(message, b"message_id")
            {
                shown = number.to_vec();
            }
            self.deliveries.borrow_mut().pop_front();
        }
    }

    /// What is posted for an answer, and where; `shown` is the message that is edited. `None` without such a channel.
    fn request(&self, post: &Post, shown: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let Post { chat, text, manner } = post;
        let mut request = Vec::new();
        if let Manner::Signed(number) = manner {
            let channel = self.settings.signed.as_ref()?;
            let body = [&br#"{"sender":"#[..], chat, br#","text":"#, text, br#","part":0}"#].concat();
            let (host, id) = (channel.replies.to_string(), format!("answer-{number}"));
            let sealed = signature(&key_of(&channel.secret).ok()?, id.as_bytes(), b"1773131400", &body);
            let headers = [
                ("Content-Type", "application/json"),
                ("webhook-id", id.as_str()),
                ("webhook-timestamp", "1773131400"),
                ("webhook-signature", sealed.as_str()),
                ("Idempotency-Key", id.as_str()),
            ];
            let length = Length::Exact(body.len() as u64);
            write_request_head(&mut request, "POST", "/answers", &host, &headers, length, true);
            request.extend_from_slice(&body);
            return Some((channel.replies, request));
        }
        let channel = self.settings.telegram.as_ref()?;
        let (method, number) = if *manner == Manner::Edit {
            ("editMessageText", [br#","message_id":"#, shown].concat())
        } else {
            ("sendMessage", Vec::new())
        };
        let target = format!("/bot{}/{method}", channel.token);
        let body = [&br#"{"chat_id":"#[..], chat, &number, br#","text":"#, text, b"}"].concat();
        let headers = [("Content-Type", "application/json")];
        let (host, length) = (channel.api_root.to_string(), Length::Exact(body.len() as u64));
        write_request_head(&mut request, "POST", &target, &host, &headers, length, true);
        request.extend_from_slice(&body);
        Some((channel.api_root, request))
    }

    async fn serve_websocket(self: Rc<Self>, socket: Socket, rest: Vec<u8>) {
        let pipe = Pipe::new(socket, rest, &self.scratch);
        let mut chat = Chat {
            decoder: Decoder::new(Role::Server, MESSAGE_BYTES_MAX),
            authenticated: self.settings.key.is_empty(),
            held: Vec::new(),
        };
        loop {
            let read = pipe.read(|bytes| self.on_frames(&mut chat, &mut pipe.out(), bytes));
            let ended = !matches!(read, Ok(Read::Some(_)));
            if pipe.flush().is_err() || ended {
                pipe.socket().shut_down();
                return;
            }
            let owed_max = self.settings.faults.owed_max;
            if owed_max != 0 && owed_max < pipe.output_bytes() {
                // What it says to a client that does not read, the client would not read.
                pipe.socket().reset_on_close().ok();
                pipe.socket().shut_down();
                return;
            }
            if pipe.socket().readable().await.is_err() {
                return;
            }
        }
    }

    fn on_frames(&self, chat: &mut Chat, out: &mut Vec<u8>, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match chat.decoder.decode(&mut bytes[done..]) {
                Ok(Step::NeedMore(_)) => break,
                Ok(Step::Frame { consumed, item }) => {
                    match item {
                        Item::Text(message) | Item::Binary(message) => {
                            if !self.on_message(&mut chat.authenticated, &mut chat.held, out, message) {
                                return Err(io::ErrorKind::ConnectionAborted.into());
                            }
                        }
                        Item::Ping(payload) => write_frame(out, Opcode::Pong, true, None, payload),
                        Item::Close { .. } => {
                            write_close(out, None, 1000, "");
                            return Err(io::ErrorKind::ConnectionAborted.into());
                        }
                        Item::Fragment { .. } | Item::Pong(_) => {}
                    }
                    done += consumed;
                }
                Err(violation) => {
                    write_close(out, None, violation.close_code(), violation.code());
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(done)
    }

    /// Takes one message; `false` if the connection is to be closed.
    fn on_message(
        &self,
        authenticated: &mut bool,
        held: &mut Vec<u8>,
        out: &mut Vec<u8>,
        message: &[u8],
    ) -> bool {
        let Some(ask) = Ask::read(message) else {
            return write_ws_error(out, "BAD_JSON", None, None);
        };
        match ask.kind {
            b"auth" => {
                let mut key = Vec::new();
                json::write_str(&mut key, &self.settings.key);
                *authenticated = ask.token == Some(key.as_slice());
                if !*authenticated {
                    write_ws_error(out, "UNAUTHENTICATED", None, None);
                    write_close(out, None, 4501, "UNAUTHENTICATED");
                    return false;
                }
                write_frame(out, Opcode::Text, true, None, br#"{"type":"auth_ok","user":"loadgen"}"#);
                true
            }
            b"message" if *authenticated => self.on_ask(held, out, &ask),
            b"ping" => {
                write_frame(out, Opcode::Text, true, None, br#"{"type":"pong"}"#);
                true
            }
            _ => write_ws_error(out, "UNKNOWN_TYPE", ask.id, ask.session),
        }
    }

    fn on_ask(&self, held: &mut Vec<u8>, out: &mut Vec<u8>, ask: &Ask<'_>) -> bool {
        if self.leaves() {
            write_close(out, None, 4410, "GOING_AWAY");
            return false;
        }
        let is_known = self.is_repeated(ask.id);
        if ask.receipt {
            self.write_receipt(out, ask, is_known);
            if is_known {
                return true;
            }
        }
        if is_known {
            return write_ws_error(out, "DUPLICATE", ask.id, ask.session);
        }
        match self.next_fate() {
            Fate::Lose => return true,
            Fate::HangUp => return false,
            Fate::Refuse => return write_ws_error(out, "AGENT_BUSY", ask.id, ask.session),
            Fate::Swap => {
                self.write_turn(held, ask, ask.text);
                return true;
            }
            Fate::Corrupt => {
                let mut text = ask.text.to_vec();
                corrupt(&mut text);
                self.write_turn(out, ask, &text);
            }
            Fate::Double => {
                self.write_turn(out, ask, ask.text);
                self.write_turn(out, ask, ask.text);
            }
            Fate::Answer => self.write_turn(out, ask, ask.text),
        }
        out.append(held);
        true
    }

    /// A whole answer.
    #[inline]
    fn write_turn(&self, out: &mut Vec<u8>, ask: &Ask<'_>, text: &[u8]) {
        let session = ask.session.unwrap_or(b"\"\"");
        if ask.receipt {
            self.histories.borrow_mut().entry(session.to_vec()).or_default().push(text.to_vec());
        }
        let mut seq = 0;
        if ask.stream {
            for piece in self.pieces(text) {
                let start = begin_frame(out);
                write_answer(out, "chunk", Some(piece), session, ask.id, seq);
                end_frame(out, start, Opcode::Text);
                seq += 1;
            }
        } else {
            let start = begin_frame(out);
            let text = text.get(1..text.len().saturating_sub(1)).unwrap_or(&[]);
            write_answer(out, "message", Some(text), session, ask.id, seq);
            end_frame(out, start, Opcode::Text);
            seq += 1;
        }
        let start = begin_frame(out);
        write_answer(out, "done", None, session, ask.id, seq);
        end_frame(out, start, Opcode::Text);
    }
}

/// The state of one WebSocket.
struct Chat {
    decoder: Decoder,
    authenticated: bool,
    /// An answer that waits for the next one to overtake it.
    held: Vec<u8>,
}

/// A client's message; strings are as they were quoted.
struct Ask<'a> {
    kind: &'a [u8],
    text: &'a [u8],
    token: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    session: Option<&'a [u8]>,
    stream: bool,
    receipt: bool,
}

impl<'a> Ask<'a> {
    #[inline]
    fn read(json: &'a [u8]) -> Option<Self> {
        let mut ask = Self {
            kind: b"",
            text: b"\"\"",
            token: None,
            id: None,
            session: None,
            stream: false,
            receipt: false,
        };
        for field in scan::fields(json) {
            let (name, value) = field.ok()?;
            let quoted = match value {
                Value::Text { quoted, .. } => quoted,
                Value::Plain(truth) => {
                    ask.stream |= name == b"stream" && truth == b"true";
                    ask.receipt |= name == b"receipt" && truth == b"true";
                    continue;
                }
                Value::Nested(_) => continue,
            };
            match name {
                b"type" => ask.kind = quoted.get(1..quoted.len() - 1)?,
                b"content" => ask.text = quoted,
                b"token" => ask.token = Some(quoted),
                b"id" => ask.id = Some(quoted),
                b"sessionId" => ask.session = Some(quoted),
                _ => {}
            }
        }
        Some(ask)
    }
}

/// One message of the protocol. `text` is without quotes; `session` and `id` are with them.
#[inline]
fn write_answer(
    out: &mut Vec<u8>,
    kind: &str,
    text: Option<&[u8]>,
    session: &[u8],
    id: Option<&[u8]>,
    seq: u64,
) {
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    if let Some(text) = text {
        out.extend_from_slice(br#","content":""#);
        out.extend_from_slice(text);
        out.push(b'"');
    }
    out.extend_from_slice(br#","sessionId":"#);
    out.extend_from_slice(session);
    if text.is_none() {
        out.extend_from_slice(br#","usage":{"promptTokens":0,"completionTokens":0,"totalTokens":0}"#);
    }
    if let Some(id) = id {
        out.extend_from_slice(br#","id":"#);
        out.extend_from_slice(id);
    }
    out.extend_from_slice(br#","seq":"#);
    json::write_u64(out, seq);
    out.push(b'}');
}

/// Holds the thread, and with it everything that it serves: a wait for what never comes.
fn stand_still(duration: Duration) {
    let (nobody, nothing) = std::sync::mpsc::channel::<()>();
    let waited = nothing.recv_timeout(duration);
    debug_assert!(waited.is_err());
    drop(nobody);
}

/// Changes one byte inside a quoted text.
fn corrupt(quoted: &mut [u8]) {
    let middle = quoted.len() / 2;
    if let Some(byte) = quoted.get_mut(middle) {
        *byte = if *byte == b'#' { b'*' } else { b'#' };
    }
}

/// An error on a WebSocket. Always `true`: the connection goes on.
#[cold]
fn write_ws_error(out: &mut Vec<u8>, code: &str, id: Option<&[u8]>, session: Option<&[u8]>) -> bool {
    let start = begin_frame(out);
    out.extend_from_slice(br#"{"type":"error","code":"#);
    json::write_str(out, code);
    out.extend_from_slice(br#","message":"planted""#);
    for (name, value) in [("id", id), ("sessionId", session)] {
        if let Some(value) = value {
            out.push(b',');
            json::write_str(out, name);
            out.push(b':');
            out.extend_from_slice(value);
        }
    }
    out.push(b'}');
    end_frame(out, start, Opcode::Text);
    true
}

#[cold]
fn write_error(out: &mut Vec<u8>, status: u16, code: &str) {
    let mut body = br#"{"success":false,"error":{"code":"#.to_vec();
    json::write_str(&mut body, code);
    body.extend_from_slice(br#","message":"planted"},"timestamp":"2026-03-10T08:30:00Z"}"#);
    write_json(out, status, &body);
}

/// Sends a request and waits for the whole answer, whatever it says.
async fn exchange(socket: &Socket, input: &mut Vec<u8>, request: &[u8]) -> io::Result<Vec<u8>> {
    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 8192, headers_max: 64, target_bytes_max: 1 };
    socket.send_all(request).await?;
    let mut chunk = [0; 4096];
    loop {
        let head = parse_response(input, &LIMITS, false).map_err(|_| io::ErrorKind::InvalidData)?;
        if let Some(head) = head
            && let Length::Exact(body) = head.body
            && head.bytes + body as usize <= input.len()
        {
            let end = head.bytes + body as usize;
            let start = head.bytes;
            return Ok(input.drain(..end).skip(start).collect());
        }
        socket.readable().await?;
        match socket.receive(&mut chunk)? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(count) => input.extend_from_slice(&chunk[..count]),
            None => {}
        }
    }
}

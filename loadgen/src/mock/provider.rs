//! A model provider: OpenAI's `POST /v1/chat/completions`, streamed and not, as a [`Script`] says.
//! <https://platform.openai.com/docs/api-reference/chat>
//!
//! By default it repeats the last user message, so that a generator behind the gateway can hold answers against what it
//! asked. Faults are those that gateways get wrong: cut streams, errors in mid-stream, silence, broken JSON, odd but legal
//! framing. A stream whose reader has left is noticed before its next token, and counted.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use clawgate_wire::http1::{
    Length, RequestHead, begin_chunk, end_chunk, write_last_chunk, write_response_head,
};
use clawgate_wire::json;
use serde::{Deserialize, Serialize};

use crate::driver;
use crate::mock::peer::{self, Peer, write_json};
use crate::slo::parse_duration;
use crate::stamp;
use crate::sys;

/// What a script may say; for `--help`.
pub const HELP: &str = "A script is a list such as ttft=200ms,tokens=50,gap=10ms. It is taken from the request's field \
\"mock\", or from its model if that starts with mock: (commas may be written as + or ;), or from --script.

  reply=echo|words|stamps  repeat the last user message (default), a canned text, or each token's time of emission
  tokens=N                 how many; by default echo has one for four bytes, the others 50
  header=T ttft=T gap=T    time to the response's head, from there to the first token, between tokens
  status=N retry-after=S   answer with this error
  fault=cut|error|json|silence|no-finish   close, send an error event, send broken JSON, fall silent, or end without a
                           finish_reason, after at=N tokens
  every=N                  status or fault only in every nth request
  usage=asked|always|never|with-choices|null-choices
  crlf no-space comments bom role-late   legal framing that is rarely tested

GET /stats counts requests, streams, aborted streams and tokens.";

/// What the fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Error,
    BrokenJson,
    Silence,
    NoFinish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Echo,
    Words,
    Stamps,
}

/// How usage is told in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UsageStyle {
    /// In an event of its own with empty choices, if the request asks.
    Asked,
    /// The same, whether it asks or not.
    Always,
    Never,
    /// On the event with the finish reason.
    WithChoices,
    /// In an event of its own whose choices are null.
    NullChoices,
}

/// How one answer is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    reply: Reply,
    tokens: Option<u32>,
    header_ns: u64,
    ttft_ns: u64,
    gap_ns: u64,
    status: u16,
    retry_after_seconds: Option<u32>,
    fault: Option<Fault>,
    at: u32,
    every: u64,
    usage: UsageStyle,
    crlf: bool,
    no_space: bool,
    comments: bool,
    bom: bool,
    role_late: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            reply: Reply::Echo,
            tokens: None,
            header_ns: 0,
            ttft_ns: 0,
            gap_ns: 0,
            status: 200,
            retry_after_seconds: None,
            fault: None,
            at: 0,
            every: 1,
            usage: UsageStyle::Asked,
            crlf: false,
            no_space: false,
            comments: false,
            bom: false,
            role_late: false,
        }
    }
}

/// Why a text is no script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadScript(String);

impl fmt::Display for BadScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is nothing that a script says; see loadgen mock provider --help", self.0)
    }
}

impl std::error::Error for BadScript {}

impl FromStr for Script {
    type Err = BadScript;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut script = Self::default();
        for word in text.split([',', ';', '+']).map(str::trim).filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            script.set(name, value).ok_or_else(|| BadScript(word.to_owned()))?;
        }
        Ok(script)
    }
}

impl Script {
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "reply" => {
                self.reply = match value {
                    "echo" => Reply::Echo,
                    "words" => Reply::Words,
                    "stamps" => Reply::Stamps,
                    _ => return None,
                }
            }
            "tokens" => self.tokens = Some(value.parse().ok().filter(|count| *count <= 1_000_000)?),
            "header" => self.header_ns = parse_duration(value).ok()?,
            "ttft" => self.ttft_ns = parse_duration(value).ok()?,
            "gap" => self.gap_ns = parse_duration(value).ok()?,
            "status" => self.status = value.parse().ok().filter(|status| (200..600).contains(status))?,
            "retry-after" => self.retry_after_seconds = Some(value.parse().ok()?),
            "at" => self.at = value.parse().ok()?,
            "every" => self.every = value.parse().ok().filter(|every| 0 < *every)?,
            "fault" => {
                self.fault = Some(match value {
                    "cut" => Fault::Cut,
                    "error" => Fault::Error,
                    "json" => Fault::BrokenJson,
                    "silence" => Fault::Silence,
                    "no-finish" => Fault::NoFinish,
                    _ => return None,
                });
            }
            "usage" => {
                self.usage = match value {
                    "asked" => UsageStyle::Asked,
                    "always" => UsageStyle::Always,
                    "never" => UsageStyle::Never,
                    "with-choices" => UsageStyle::WithChoices,
                    "null-choices" => UsageStyle::NullChoices,
                    _ => return None,
                }
            }
            "crlf" => self.crlf = true,
            "no-space" => self.no_space = true,
            "comments" => self.comments = true,
            "bom" => self.bom = true,
            "role-late" => self.role_late = true,
            _ => return None,
        }
        Some(())
    }

    /// Without what goes wrong: for the requests between every nth.
    fn faultless(self) -> Self {
        Self { status: 200, fault: None, ..self }
    }
}

/// How the simulated provider behaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The API key that it asks for; none if empty.
    pub key: String,
    /// What is done when a request says nothing.
    pub script: Script,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests for a completion.
    pub requests: u64,
    /// Of these, streams.
    pub streams: u64,
    /// Answers that were given to their end.
    pub completed: u64,
    /// Streams whose reader left before their end.
    pub aborted: u64,
    /// Tokens that were sent to readers who then left.
    pub tokens_before_abort: u64,
    /// Answers that are being given.
    pub in_flight: u64,
    /// Tokens sent.
    pub tokens: u64,
    /// Faults and errors, by what was asked for.
    pub faults: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow, default)]
    model: Cow<'a, str>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    mock: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(default)]
    content: Content,
}

/// A message's text, or its parts.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
    #[default]
    Nothing,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

impl Content {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
            Self::Nothing => String::new(),
        }
    }
}

/// One answer to be given.
struct Turn {
    script: Script,
    model: String,
    number: u64,
    stream: bool,
    wants_usage: bool,
    prompt_tokens: u64,
    text: String,
    tokens: u32,
}

const WORDS: [&str; 12] =
    ["Messages", " go", " in", " and", " answers", " come", " out", ",", " one", " by", " one", ". "];

impl Turn {
    /// How many tokens the answer has: an echo no more than it has characters.
    fn count(script: &Script, text: &str) -> u32 {
        match script.reply {
            Reply::Echo => {
                let characters = text.chars().count() as u32;
                script.tokens.unwrap_or(text.len().div_ceil(4) as u32).min(characters)
            }
            Reply::Words | Reply::Stamps => script.tokens.unwrap_or(50),
        }
    }

    /// The text of one token.
    fn token(&self, number: u32) -> Cow<'_, str> {
        match self.script.reply {
            Reply::Echo => Cow::Borrowed(self.echo_piece(number)),
            Reply::Words => Cow::Borrowed(WORDS[number as usize % WORDS.len()]),
            Reply::Stamps => {
                let mut digits = [b'@'; 17];
                stamp::write_hex(&mut digits[1..], sys::now_ns());
                Cow::Owned(String::from_utf8_lossy(&digits).into_owned())
            }
        }
    }

    /// The text in so many pieces, as even as its characters allow.
    fn echo_piece(&self, number: u32) -> &str {
        let bytes = self.text.len() as u64;
        let cut = |number: u32| {
            let at = bytes * u64::from(number) / u64::from(self.tokens.max(1));
            self.text.floor_char_boundary(at as usize)
        };
        &self.text[cut(number)..cut(number + 1)]
    }

    fn whole_text(&self) -> String {
        (0..self.tokens).map(|number| self.token(number)).collect()
    }
}

struct Provider {
    settings: Settings,
    stats: RefCell<Stats>,
}

/// What a request leads to.
enum Next {
    /// It is answered.
    Answered,
    /// A completion is to be given.
    Turn(Box<Turn>),
}

/// Serves an address on the calling thread, for as long as it runs. Tells where it listens.
///
/// # Errors
/// The system's, if nothing can listen there.
pub fn serve(address: SocketAddr, settings: Settings) -> io::Result<SocketAddr> {
    let provider = Rc::new(Provider { settings, stats: RefCell::default() });
    peer::listen(address, move |peer| Rc::clone(&provider).serve_peer(peer))
}

impl Provider {
    async fn serve_peer(self: Rc<Self>, mut peer: Peer) {
        loop {
            let next = peer.next(|head, body, out| self.on_request(head, body, out)).await;
            let turn = match next {
                Ok(Some(Next::Answered)) => continue,
                Ok(Some(Next::Turn(turn))) => turn,
                Ok(None) | Err(_) => return,
            };
            self.stats.borrow_mut().in_flight += 1;
            let given = if turn.stream {
                self.give_stream(&mut peer, &turn).await
            } else {
                self.give_whole(&mut peer, &turn).await
            };
            let mut stats = self.stats.borrow_mut();
            stats.in_flight -= 1;
            match given {
                Ok(()) => stats.completed += 1,
                Err(Ended::Fault) => return,
                Err(Ended::Left(tokens)) => {
                    stats.aborted += 1;
                    stats.tokens_before_abort += u64::from(tokens);
                    return;
                }
            }
        }
    }

    fn on_request(&self, head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>) -> Next {
        let path = head.target.split('?').next().unwrap_or_default();
        match (head.method, path) {
            ("POST", "/v1/chat/completions" | "/chat/completions") => self.on_chat(head, body, out),
            ("GET", "/stats") => {
                write_json(out, 200, &serde_json::to_vec(&*self.stats.borrow()).unwrap_or_default());
                Next::Answered
            }
            ("GET", "/v1/models") => {
                write_json(
                    out,
                    200,
                    br#"{"object":"list","data":[{"id":"mock","object":"model","created":1,"owned_by":"loadgen"}]}"#,
                );
                Next::Answered
            }
            _ => {
                write_error(out, 404, None, "invalid_request_error", "there is no such path");
                Next::Answered
            }
        }
    }

    fn on_chat(&self, head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>) -> Next {
        let number = {
            let mut stats = self.stats.borrow_mut();
            stats.requests += 1;
            stats.requests
        };
        let key = head.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !self.settings.key.is_empty() && key != Some(self.settings.key.as_str()) {
            write_error(out, 401, None, "invalid_api_key", "Incorrect API key provided");
            return Next::Answered;
        }
        let request: ChatRequest<'_> = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => {
                write_error(out, 400, None, "invalid_request_error", &error.to_string());
                return Next::Answered;
            }
        };
        let script = match self.script(&request, number) {
            Ok(script) => script,
            Err(error) => {
                write_error(out, 400, None, "invalid_request_error", &error.to_string());
                return Next::Answered;
            }
        };
        self.count_fault(&script);
        if script.status != 200 {
            let retry_after = script.retry_after_seconds.filter(|_| script.status != 500);
            write_error(out, script.status, retry_after, "planted", "the script says so");
            return Next::Answered;
        }
        self.stats.borrow_mut().streams += u64::from(request.stream);
        Next::Turn(Box::new(turn(request, script, number)))
    }

    /// The script that the request asks for, without its faults if it is not their turn.
    fn script(&self, request: &ChatRequest<'_>, number: u64) -> Result<Script, BadScript> {
        let script = match (&request.mock, request.model.strip_prefix("mock:")) {
            (Some(script), _) => script.parse()?,
            (None, Some(script)) => script.parse()?,
            (None, None) => self.settings.script.clone(),
        };
        Ok(if number.is_multiple_of(script.every) { script } else { script.faultless() })
    }

    fn count_fault(&self, script: &Script) {
        let name = match (script.status, script.fault) {
            (200, None) => return,
            (200, Some(Fault::Cut)) => "cut".to_owned(),
            (200, Some(Fault::Error)) => "error".to_owned(),
            (200, Some(Fault::BrokenJson)) => "json".to_owned(),
            (200, Some(Fault::Silence)) => "silence".to_owned(),
            (200, Some(Fault::NoFinish)) => "no-finish".to_owned(),
            (status, _) => status.to_string(),
        };
        *self.stats.borrow_mut().faults.entry(name).or_default() += 1;
    }

    /// The whole answer at once, when its last token would have come.
    async fn give_whole(&self, peer: &mut Peer, turn: &Turn) -> Result<(), Ended> {
        let script = &turn.script;
        let tokens_ns = script.gap_ns * u64::from(turn.tokens.saturating_sub(1));
        driver::sleep(Duration::from_nanos(script.header_ns + script.ttft_ns + tokens_ns)).await;
        if peer.socket().peer_left() {
            return Err(Ended::Left(0));
        }
        let mut body = Vec::new();
        write_completion(&mut body, turn);
        match script.fault {
            Some(Fault::Cut) => {
                let length = Length::Exact(body.len() as u64);
                write_response_head(&mut peer.out, 200, &[JSON], length, true);
                peer.out.extend_from_slice(&body[..body.len() / 2]);
                peer.flush().await.map_err(|_| Ended::Left(0))?;
                return Err(Ended::Fault);
            }
            Some(Fault::BrokenJson) => write_json(&mut peer.out, 200, &body[..body.len() / 2]),
            Some(Fault::Silence) => return wait_until_left(peer, false, 0).await,
            Some(Fault::Error) => write_error(&mut peer.out, 500, None, "planted", "the script says so"),
            Some(Fault::NoFinish) | None => write_json(&mut peer.out, 200, &body),
        }
        peer.flush().await.map_err(|_| Ended::Left(0))?;
        self.stats.borrow_mut().tokens += u64::from(turn.tokens);
        Ok(())
    }

    /// Token by token, each when it is due; what is due together leaves together.
    async fn give_stream(&self, peer: &mut Peer, turn: &Turn) -> Result<(), Ended> {
        let script = &turn.script;
        sleep_until(sys::now_ns() + script.header_ns).await;
        let headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")];
        write_response_head(&mut peer.out, 200, &headers, Length::Chunked, true);
        if script.bom {
            clawgate_wire::http1::write_chunk(&mut peer.out, "\u{FEFF}".as_bytes());
        }
        if !script.role_late {
            write_delta(&mut peer.out, turn, &Delta::Role, None);
        }
        let first_ns = sys::now_ns() + script.ttft_ns;
        let mut sent = 0;
        loop {
            let due_ns = first_ns + u64::from(sent) * script.gap_ns;
            if sys::now_ns() < due_ns {
                flush(peer, sent).await?;
                sleep_until(due_ns).await;
            }
            if peer.socket().peer_left() {
                return Err(Ended::Left(sent));
            }
            if let Some(fault) = script.fault.filter(|_| sent == script.at) {
                self.stats.borrow_mut().tokens += u64::from(sent);
                match fault {
                    Fault::BrokenJson => {
                        write_event(&mut peer.out, script, |out| {
                            out.extend_from_slice(br#"{"choices":[{"delta":"#);
                        });
                    }
                    Fault::Cut | Fault::Error | Fault::Silence | Fault::NoFinish => {
                        return end_badly(peer, turn, fault, sent).await;
                    }
                }
            }
            if turn.tokens <= sent {
                break;
            }
            if script.comments {
                write_comment(&mut peer.out, script);
            }
            write_delta(&mut peer.out, turn, &Delta::Token(sent), None);
            sent += 1;
        }
        write_end(&mut peer.out, turn);
        flush(peer, sent).await?;
        self.stats.borrow_mut().tokens += u64::from(sent);
        Ok(())
    }
}

/// Why an answer was not given to its end.
enum Ended {
    /// As the script says; the connection is closed.
    Fault,
    /// The reader left after so many tokens.
    Left(u32),
}

/// Ends a stream as its script says, after what was sent.
async fn end_badly(peer: &mut Peer, turn: &Turn, fault: Fault, sent: u32) -> Result<(), Ended> {
    match fault {
        Fault::Cut | Fault::BrokenJson => {
            flush(peer, sent).await?;
            peer.socket().shut_down();
            Err(Ended::Fault)
        }
        Fault::Error => {
            write_event(&mut peer.out, &turn.script, |out| {
                out.extend_from_slice(
                    br#"{"error":{"message":"the script says so","type":"server_error","param":null,"code":null}}"#,
                );
            });
            write_last_chunk(&mut peer.out);
            flush(peer, sent).await
        }
        Fault::Silence => {
            flush(peer, sent).await?;
            wait_until_left(peer, turn.script.comments, sent).await
        }
        Fault::NoFinish => {
            write_last_chunk(&mut peer.out);
            flush(peer, sent).await
        }
    }
}

async fn flush(peer: &mut Peer, sent: u32) -> Result<(), Ended> {
    peer.flush().await.map_err(|_| Ended::Left(sent))
}

/// Says nothing more, or only comments, until the reader leaves; for ten minutes at most.
async fn wait_until_left(peer: &mut Peer, comments: bool, sent: u32) -> Result<(), Ended> {
    const PERIODS: u32 = 600 * 20;
    for period in 0..PERIODS {
        if peer.socket().peer_left() {
            return Err(Ended::Left(sent));
        }
        if comments && period.is_multiple_of(4) {
            write_comment(&mut peer.out, &Script::default());
            flush(peer, sent).await?;
        }
        driver::sleep(Duration::from_millis(50)).await;
    }
    Err(Ended::Fault)
}

/// Timers know milliseconds: what is due sooner is due now.
async fn sleep_until(at_ns: u64) {
    let left_ns = at_ns.saturating_sub(sys::now_ns());
    if 500_000 < left_ns {
        driver::sleep(Duration::from_nanos(left_ns)).await;
    }
}

fn turn(request: ChatRequest<'_>, script: Script, number: u64) -> Turn {
    let prompt_tokens = request.messages.len() as u64 * 4;
    let last_user = request.messages.into_iter().rev().find(|message| message.role == "user");
    let text = last_user.map(|message| message.content.into_text()).unwrap_or_default();
    Turn {
        tokens: Turn::count(&script, &text),
        model: request.model.into_owned(),
        number,
        stream: request.stream,
        wants_usage: request.stream_options.is_some_and(|options| options.include_usage),
        prompt_tokens: prompt_tokens + text.len().div_ceil(4) as u64,
        text,
        script,
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn write_error(out: &mut Vec<u8>, status: u16, retry_after: Option<u32>, code: &str, message: &str) {
    let mut body = br#"{"error":{"message":"#.to_vec();
    json::write_str(&mut body, message);
    body.extend_from_slice(br#","type":"#);
    json::write_str(&mut body, if status == 429 { "rate_limit_exceeded" } else { code });
    body.extend_from_slice(br#","param":null,"code":"#);
    json::write_str(&mut body, code);
    body.extend_from_slice(b"}}");
    let seconds = retry_after.map(|seconds| seconds.to_string());
    let mut headers = vec![JSON];
    if let Some(seconds) = &seconds {
        headers.push(("Retry-After", seconds));
    }
    if status == 429 {
        headers.push(("x-ratelimit-remaining-requests", "0"));
        headers.push(("x-ratelimit-reset-requests", "1s"));
    }
    write_response_head(out, status, &headers, Length::Exact(body.len() as u64), true);
    out.extend_from_slice(&body);
}

/// An answer that is not streamed.
fn write_completion(out: &mut Vec<u8>, turn: &Turn) {
    write_preamble(out, turn, "chat.completion");
    out.extend_from_slice(br#","choices":[{"index":0,"message":{"role":"assistant","content":"#);
    json::write_str(out, &turn.whole_text());
    out.extend_from_slice(br#"},"logprobs":null,"finish_reason":"stop"}],"usage":"#);
    write_usage(out, turn);
    out.push(b'}');
}

fn write_preamble(out: &mut Vec<u8>, turn: &Turn, object: &str) {
    out.extend_from_slice(br#"{"id":"chatcmpl-"#);
    json::write_u64(out, turn.number);
    out.extend_from_slice(br#"","object":"#);
    json::write_str(out, object);
    out.extend_from_slice(br#","created":1710000000,"model":"#);
    json::write_str(out, &turn.model);
}

fn write_usage(out: &mut Vec<u8>, turn: &Turn) {
    let completion = u64::from(turn.tokens);
    out.extend_from_slice(br#"{"prompt_tokens":"#);
    json::write_u64(out, turn.prompt_tokens);
    out.extend_from_slice(br#","completion_tokens":"#);
    json::write_u64(out, completion);
    out.extend_from_slice(br#","total_tokens":"#);
    json::write_u64(out, turn.prompt_tokens + completion);
    out.push(b'}');
}

/// What one event of a stream carries.
enum Delta {
    Role,
    Token(u32),
    Finish,
}

/// One chunk of a streamed answer, with its usage if it is given here.
fn write_delta(out: &mut Vec<u8>, turn: &Turn, delta: &Delta, usage: Option<&Turn>) {
    write_event(out, &turn.script, |out| {
        write_preamble(out, turn, "chat.completion.chunk");
        out.extend_from_slice(br#","choices":[{"index":0,"delta":{"#);
        match delta {
            Delta::Role => out.extend_from_slice(br#""role":"assistant","content":"""#),
            Delta::Token(number) => {
                if turn.script.role_late && *number == 0 {
                    out.extend_from_slice(br#""role":"assistant","#);
                }
                out.extend_from_slice(br#""content":"#);
                json::write_str(out, &turn.token(*number));
            }
            Delta::Finish => {}
        }
        let finish: &[u8] = match delta {
            Delta::Finish => br#"},"logprobs":null,"finish_reason":"stop"}]"#,
            Delta::Role | Delta::Token(_) => br#"},"logprobs":null,"finish_reason":null}]"#,
        };
        out.extend_from_slice(finish);
        if let Some(turn) = usage {
            out.extend_from_slice(br#","usage":"#);
            write_usage(out, turn);
        }
        out.push(b'}');
    });
}

/// The finish reason, the usage and the end.
fn write_end(out: &mut Vec<u8>, turn: &Turn) {
    let style = turn.script.usage;
    write_delta(out, turn, &Delta::Finish, (style == UsageStyle::WithChoices).then_some(turn));
    let choices: Option<&[u8]> = match style {
        UsageStyle::Asked if turn.wants_usage => Some(b"[]"),
        UsageStyle::Always => Some(b"[]"),
        UsageStyle::NullChoices => Some(b"null"),
        UsageStyle::Asked | UsageStyle::Never | UsageStyle::WithChoices => None,
    };
    if let Some(choices) = choices {
        write_event(out, &turn.script, |out| {
            write_preamble(out, turn, "chat.completion.chunk");
            out.extend_from_slice(br#","choices":"#);
            out.extend_from_slice(choices);
            out.extend_from_slice(br#","usage":"#);
            write_usage(out, turn);
            out.push(b'}');
        });
    }
    write_event(out, &turn.script, |out| out.extend_from_slice(b"[DONE]"));
    write_last_chunk(out);
}

/// One server-sent event in an HTTP chunk of its own, framed as the script says.
fn write_event(out: &mut Vec<u8>, script: &Script, data: impl FnOnce(&mut Vec<u8>)) {
    let start = begin_chunk(out);
    out.extend_from_slice(if script.no_space { b"data:" } else { b"data: " });
    data(out);
    out.extend_from_slice(if script.crlf { b"\r\n\r\n" } else { b"\n\n" });
    end_chunk(out, start);
}

fn write_comment(out: &mut Vec<u8>, script: &Script) {
    let start = begin_chunk(out);
    out.extend_from_slice(b": keep-alive");
    out.extend_from_slice(if script.crlf { b"\r\n\r\n" } else { b"\n\n" });
    end_chunk(out, start);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_script_is_read_from_any_of_its_spellings() {
        let script: Script = "ttft=200ms,tokens=50;gap=10ms+fault=cut,at=20,crlf".parse().unwrap();
        let expected = Script {
            ttft_ns: 200_000_000,
            tokens: Some(50),
            gap_ns: 10_000_000,
            fault: Some(Fault::Cut),
            at: 20,
            crlf: true,
            ..Script::default()
        };
        assert_eq!(script, expected);
        assert_eq!("".parse::<Script>().unwrap(), Script::default());
        for bad in ["tokens=x", "fault=nap", "speed=9", "ttft=5", "every=0", "status=99"] {
            assert!(bad.parse::<Script>().unwrap_err().to_string().contains(bad), "{bad}");
        }
    }

    #[test]
    fn every_option_is_explained() {
        let names = [
            "reply=",
            "tokens=",
            "header=",
            "ttft=",
            "gap=",
            "status=",
            "retry-after=",
            "fault=",
            "at=",
            "every=",
            "usage=",
            "crlf",
            "no-space",
            "comments",
            "bom",
            "role-late",
        ];
        for name in names {
            assert!(HELP.contains(name), "{name}");
        }
    }

    #[test]
    fn an_echo_is_the_text_again_in_any_number_of_tokens() {
        for text in ["", "a", "hello there", "日本語のテキスト🦀é"] {
            for tokens in [None, Some(1), Some(3), Some(100)] {
                let script = Script { tokens, ..Script::default() };
                let turn = Turn {
                    tokens: Turn::count(&script, text),
                    script,
                    model: String::new(),
                    number: 1,
                    stream: true,
                    wants_usage: false,
                    prompt_tokens: 0,
                    text: text.to_owned(),
                };
                assert_eq!(turn.whole_text(), text, "{tokens:?}");
            }
        }
    }

    #[test]
    fn a_request_is_read_with_text_or_parts_and_what_else_it_has() {
        let body = br#"{"model":"mock:tokens=2","stream":true,"temperature":0.5,"stream_options":{"include_usage":true},
            "messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"a\"b"}]},
            {"role":"assistant","content":null,"tool_calls":[]}]}"#;
        let request: ChatRequest<'_> = serde_json::from_slice(body).unwrap();
        let turn = turn(request, Script::default(), 1);
        assert_eq!((turn.text.as_str(), turn.wants_usage, turn.stream), ("a\"b", true, true));
    }
}

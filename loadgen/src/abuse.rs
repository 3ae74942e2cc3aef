//! Bad input from many connections at once, bounded in number and time, while good traffic beside it has to stay exact.
//!
//! What the gateway does with each bad connection is counted, not judged: it may answer, close or hold it. What is judged is
//! that nobody else feels it, and that it is well afterwards.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::websocket::{Decoder, Item, Opcode, Step, write_frame};

use crate::arrivals::Arrivals;
use crate::cli::Failure;
use crate::driver::{self, Socket};
use crate::hazards::Hazards;
use crate::ledger::Expect;
use crate::measure::Metric;
use crate::protocol::{Addressing, Incoming, Said};
use crate::report::{EXIT_BREACHED, EXIT_NOT_EXACT};
use crate::rng::Rng;
use crate::run::{Door, Flaws, Outcome, Settings, Spread, Unwatched, auth_frame, drive};
use crate::scenario::Kind;
use crate::sys;

/// What is done, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Abuse {
    /// The gateway.
    pub target: SocketAddr,
    /// Its authority.
    pub host: String,
    /// The key.
    pub key: String,
    /// Bad connections.
    pub connections: u32,
    /// How long they are held, in nanoseconds.
    pub duration_ns: u64,
    /// Messages a second of the good traffic.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
}

/// New bad connections a millisecond.
const OPENED_PER_MILLI: u32 = 4;

/// Connections that ask and never read. Each asks for more than the kernel holds for it; many more of them would be a flood
/// of good messages rather than bad input.
const SLOW_READERS_MAX: u32 = 64;

/// The share of the good messages that may be refused, as when a moment's flood fills a queue.
const REFUSED_SHARE_MAX: f64 = 0.01;

/// Descriptors that are left for everything else.
const DESCRIPTORS_SPARED: u64 = 256;

/// What a bad connection says before it is a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Half,
    ByTheByte,
    TwoLengths,
    BareLineFeeds,
    HugeBody,
}

/// What it says as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Frames {
    Garbage,
    Unmasked,
    Huge,
    WrongToken,
    NoToken,
    BadJson,
    /// Good questions, whose answers are never read.
    SlowReader,
}

/// What a bad connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Http(Request),
    WebSocket(Frames),
}

impl Deed {
    const ALL: [Self; 12] = [
        Self::Http(Request::Half),
        Self::Http(Request::ByTheByte),
        Self::Http(Request::TwoLengths),
        Self::Http(Request::BareLineFeeds),
        Self::Http(Request::HugeBody),
        Self::WebSocket(Frames::Garbage),
        Self::WebSocket(Frames::Unmasked),
        Self::WebSocket(Frames::Huge),
        Self::WebSocket(Frames::WrongToken),
        Self::WebSocket(Frames::NoToken),
        Self::WebSocket(Frames::BadJson),
        Self::WebSocket(Frames::SlowReader),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Http(Request::Half) => "half a head",
            Self::Http(Request::ByTheByte) => "a head by the byte",
            Self::Http(Request::TwoLengths) => "two lengths in a head",
            Self::Http(Request::BareLineFeeds) => "a head without CR",
            Self::Http(Request::HugeBody) => "a body of a terabyte",
            Self::WebSocket(Frames::Garbage) => "garbage for frames",
            Self::WebSocket(Frames::Unmasked) => "an unmasked frame",
            Self::WebSocket(Frames::Huge) => "a frame of a gigabyte",
            Self::WebSocket(Frames::WrongToken) => "a wrong token",
            Self::WebSocket(Frames::NoToken) => "messages without a token",
            Self::WebSocket(Frames::BadJson) => "bad and deep JSON",
            Self::WebSocket(Frames::SlowReader) => "asks and never reads",
        }
    }
}

/// What became of a bad connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It was not let in.
    NotLetIn,
    /// It was answered with an HTTP status.
    Status(u16),
    /// It was answered with an error message.
    Error(String),
    /// It was closed with a code.
    Close(u16),
    /// It was closed without a word.
    Dropped,
    /// It was still open at the end.
    Held,
}

impl Fate {
    fn name(&self) -> String {
        match self {
            Self::NotLetIn => "not let in".to_owned(),
            Self::Status(status) => format!("answered {status}"),
            Self::Error(code) => format!("answered {code}"),
            Self::Close(code) => format!("closed {code}"),
            Self::Dropped => "closed".to_owned(),
            Self::Held => "held".to_owned(),
        }
    }
}

type Fates = BTreeMap<Deed, BTreeMap<Fate, u32>>;

/// Does it and prints what came of it. Tells what the process ends with.
///
/// # Errors
/// The gateway cannot be reached, or a thread gets no ring.
pub fn main(abuse: &Abuse, print: &mut dyn FnMut(&str)) -> Result<u8, Failure> {
    let limit = sys::raise_descriptor_limit().unwrap_or(1024).saturating_sub(DESCRIPTORS_SPARED);
    let connections = abuse.connections.min(u32::try_from(limit).unwrap_or(u32::MAX));
    let abuse = Abuse { connections, ..abuse.clone() };
    print(&format!("{connections} bad connections for {:.0} s", abuse.duration_ns as f64 / 1e9));
    let good = settings(&abuse);
    let beside = std::thread::spawn(move || drive(good, &mut Unwatched));
    let fates =
        driver::run(|_| misbehave(abuse.clone())).map_err(|error| Failure::invalid(error.to_string()))?;
    let outcome = match beside.join() {
        Ok(outcome) => outcome.map_err(Failure::invalid)?,
        Err(_) => return Err(Failure::invalid("the good traffic's thread panicked")),
    };
    for (deed, fates) in &fates {
        let fates: Vec<String> =
            fates.iter().map(|(fate, count)| format!("{} {count}", fate.name())).collect();
        print(&format!("  {:<26} {}", deed.name(), fates.join(", ")));
    }
    let target = abuse.target;
    let well = driver::run(|_| is_well(target, abuse.host.clone()));
    Ok(report(&outcome, well.unwrap_or(false), print))
}

fn report(outcome: &Outcome, is_well: bool, print: &mut dyn FnMut(&str)) -> u8 {
    let tally = outcome.tally();
    let at = |metric, quantile| {
        outcome.sum.times(metric).map_or(0.0, |times| times.value_at_quantile(quantile) as f64 / 1e6)
    };
    print(&format!(
        "beside it: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms, lag p99 {:.3} ms, refused {}, disconnects {}",
        at(Metric::Response, 0.5),
        at(Metric::Response, 0.99),
        at(Metric::Response, 1.0),
        at(Metric::Lag, 0.99),
        tally.refused,
        outcome.sum.counts.disconnects
    ));
    print(&format!(
        "lost {} / doubled {} / reordered {} / corrupted {} of {}",
        tally.lost, tally.doubled, tally.reordered, tally.corrupted, tally.opened
    ));
    print(if is_well { "GET /health: well" } else { "GET /health: NO GOOD ANSWER" });
    let spared = tally.refused as f64 <= tally.opened as f64 * REFUSED_SHARE_MAX;
    match (tally.is_exact(), is_well && spared) {
        (false, _) => EXIT_NOT_EXACT,
        (true, false) => EXIT_BREACHED,
        (true, true) => 0,
    }
}

/// The good traffic.
fn settings(abuse: &Abuse) -> Settings {
    let run = (crate::rng::mix(sys::now_ns()) >> 32) as u32;
    Settings {
        scenario: Kind::WsChat.into(),
        target: abuse.target,
        trust: None,
        to: Addressing {
            run,
            payload_bytes: 128,
            session_prefix: format!("lg-abuse-{run:08x}-"),
            channel: "api".to_owned(),
            host: abuse.host.clone(),
            key: abuse.key.clone(),
        },
        rate: abuse.rate,
        sessions: 50,
        hot_percent: 0,
        hazards: Hazards::default(),
        connections: 8,
        duration_ns: abuse.duration_ns,
        warmup_ns: 200_000_000,
        arrivals: Arrivals::Poisson,
        seed: abuse.seed,
        threads: 1,
        spread: Spread::Even,
        expect: Expect::Echo,
        drain_ns: 10_000_000_000,
        linger_ns: 100_000_000,
        inflight_max: 1_000_000,
        spin: false,
        telegram: None,
        signed: None,
        flaws: Flaws::default(),
        zipf: 0.0,
        started_unix_seconds: 0,
        gateway_pid: None,
    }
}

/// Opens the bad connections, a few each millisecond, and waits until all have met their fate.
async fn misbehave(abuse: Abuse) -> Fates {
    let deadline_ns = sys::now_ns() + abuse.duration_ns;
    let fates: Rc<RefCell<Fates>> = Rc::default();
    let left = Rc::new(Cell::new(abuse.connections));
    let rng = Rc::new(RefCell::new(Rng::new(abuse.seed)));
    let abuse = Rc::new(abuse);
    for number in 0..abuse.connections {
        let (round, place) = (number as usize / Deed::ALL.len(), number as usize % Deed::ALL.len());
        let deed = match Deed::ALL[place] {
            Deed::WebSocket(Frames::SlowReader) if SLOW_READERS_MAX as usize <= round => {
                Deed::Http(Request::Half)
            }
            deed @ (Deed::Http(_) | Deed::WebSocket(_)) => deed,
        };
        let (abuse, rng) = (Rc::clone(&abuse), Rc::clone(&rng));
        let (fates, left) = (Rc::clone(&fates), Rc::clone(&left));
        driver::spawn(async move {
            let fate = Culprit { abuse, rng, deadline_ns }.commit(deed).await;
            *fates.borrow_mut().entry(deed).or_default().entry(fate).or_default() += 1;
            left.set(left.get() - 1);
        });
        if number % OPENED_PER_MILLI == 0 {
            driver::sleep(Duration::from_millis(1)).await;
        }
    }
    while 0 < left.get() && !sys::interrupted() {
        driver::sleep(Duration::from_millis(20)).await;
    }
    fates.take()
}

/// One bad connection.
struct Culprit {
    abuse: Rc<Abuse>,
    rng: Rc<RefCell<Rng>>,
    deadline_ns: u64,
}

impl Culprit {
    async fn commit(&self, deed: Deed) -> Fate {
        match deed {
            Deed::Http(request) => self.commit_http(request).await,
            Deed::WebSocket(frames) => self.commit_websocket(frames).await,
        }
    }

    async fn commit_http(&self, request: Request) -> Fate {
        let opened = driver::within(Duration::from_secs(10), Socket::connect(self.abuse.target)).await;
        let Ok(socket) = opened else { return Fate::NotLetIn };
        let host = &self.abuse.host;
        let bytes = match request {
            Request::TwoLengths => format!(
                "POST /api/chat HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            Request::BareLineFeeds => format!("GET /health HTTP/1.1\nHost: {host}\n\n"),
            Request::HugeBody => format!(
                "POST /api/chat HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: 1099511627776\r\n\r\n{{\"message\":\"",
                self.abuse.key
            ),
            Request::Half | Request::ByTheByte => format!("GET /ws HTTP/1.1\r\nHost: {host}\r\nX-Slow: "),
        };
        if let Err(fate) = self.send(&socket, bytes.as_bytes()).await {
            return fate;
        }
        if request == Request::ByTheByte {
            self.drip(&socket).await;
        }
        let (input, closed) = self.listen(&socket).await;
        let status = input.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        match status.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok()) {
            Some(status) => Fate::Status(status),
            None if closed => Fate::Dropped,
            None => Fate::Held,
        }
    }

    /// Sends all of it, unless the gateway stops to read for the rest of the time.
    async fn send(&self, socket: &Socket, bytes: &[u8]) -> Result<(), Fate> {
        let mut rest = bytes;
        loop {
            let sent = socket.send(rest).map_err(|_| Fate::Dropped)?;
            rest = rest.get(sent..).unwrap_or(&[]);
            let left_ns = self.deadline_ns.saturating_sub(sys::now_ns());
            match (rest.is_empty(), left_ns) {
                (true, _) => return Ok(()),
                (false, 0) => return Err(Fate::Held),
                (false, _) => {
                    let waited = driver::within(Duration::from_nanos(left_ns), socket.writable()).await;
                    if waited.is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
                        return Err(Fate::Dropped);
                    }
                }
            }
        }
    }

    /// Another byte each half second, for as long as the gateway takes them.
    async fn drip(&self, socket: &Socket) {
        while sys::now_ns() < self.deadline_ns && !socket.peer_left() && !sys::interrupted() {
            if socket.send(b"x").is_err() {
                return;
            }
            driver::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn commit_websocket(&self, frames: Frames) -> Fate {
        let key = match frames {
            Frames::Huge | Frames::BadJson | Frames::SlowReader => self.abuse.key.as_str(),
            Frames::Garbage | Frames::Unmasked | Frames::WrongToken | Frames::NoToken => "",
        };
        let door = Door { target: self.abuse.target, host: &self.abuse.host, key };
        let Ok((socket, decoder, input)) = door.open(&self.rng).await else { return Fate::NotLetIn };
        if frames == Frames::SlowReader {
            // With the usual buffers the kernel alone would take all that is answered. If it will not, it is less of a test.
            socket.set_receive_buffer(4096).ok();
        }
        if let Err(fate) = self.send(&socket, &self.bytes_of(frames)).await {
            return fate;
        }
        if frames == Frames::SlowReader {
            // The time is spent without reading; what came of it is looked at after.
            while sys::now_ns() < self.deadline_ns && !sys::interrupted() {
                driver::sleep(Duration::from_millis(100)).await;
            }
        }
        let (more, closed) = self.listen(&socket).await;
        last_words(decoder, [input, more].concat(), closed)
    }

    /// What is sent over an open WebSocket.
    fn bytes_of(&self, frames: Frames) -> Vec<u8> {
        let mut rng = self.rng.borrow_mut();
        let mask = (rng.draw() as u32).to_le_bytes();
        let mut out = Vec::new();
        match frames {
            Frames::Unmasked => write_frame(&mut out, Opcode::Text, true, None, b"{\"type\":\"ping\"}"),
            Frames::Huge => {
                out.extend_from_slice(&[0x81, 0x80 | 127]);
                out.extend_from_slice(&(1_u64 << 30).to_be_bytes());
                out.extend_from_slice(&mask);
                out.extend_from_slice(&[b'x'; 1024]);
            }
            Frames::WrongToken => out = auth_frame("a token that is wrong", mask),
            Frames::NoToken => {
                let message = br#"{"type":"message","channel":"api","content":"x","sessionId":"abuse"}"#;
                write_frame(&mut out, Opcode::Text, true, Some(mask), message);
            }
            Frames::BadJson => {
                for message in ["{", "[]", "{\"type\":\"message\"}", "{\"type\":{}}", "\u{1F980}"] {
                    write_frame(&mut out, Opcode::Text, true, Some(mask), message.as_bytes());
                }
                let deep =
                    format!("{{\"type\":\"message\",\"content\":{}1{}}}", "[".repeat(9000), "]".repeat(9000));
                write_frame(&mut out, Opcode::Text, true, Some(mask), deep.as_bytes());
            }
            Frames::SlowReader => {
                let content = "x".repeat(4000);
                for turn in 0..300 {
                    let message = format!(
                        r#"{{"type":"message","id":"slow-{}-{turn}","channel":"api","content":"{content}","sessionId":"abuse-{}"}}"#,
                        rng.draw(),
                        rng.draw() % 1000,
                    );
                    write_frame(&mut out, Opcode::Text, true, Some(mask), message.as_bytes());
                }
            }
            Frames::Garbage => out.extend((0..512).flat_map(|_| rng.draw().to_le_bytes())),
        }
        out
    }

    /// Reads what the gateway has to say until it closes or the time is over. Tells whether it closed.
    async fn listen(&self, socket: &Socket) -> (Vec<u8>, bool) {
        const KEPT_BYTES_MAX: usize = 512 * 1024;
        let mut input = Vec::new();
        let mut chunk = [0; 2048];
        loop {
            match socket.receive(&mut chunk) {
                Ok(Some(0)) | Err(_) => return (input, true),
                Ok(Some(count)) => {
                    if input.len() < KEPT_BYTES_MAX {
                        input.extend_from_slice(&chunk[..count]);
                    }
                    continue;
                }
                Ok(None) => {}
            }
            let left_ns = self.deadline_ns.saturating_sub(sys::now_ns());
            if left_ns == 0 || sys::interrupted() {
                return (input, false);
            }
            let waited: io::Result<()> =
                driver::within(Duration::from_nanos(left_ns.min(1_000_000_000)), socket.readable()).await;
            if waited.is_err_and(|error| error.kind() != io::ErrorKind::TimedOut) {
                return (input, true);
            }
        }
    }
}

/// The last that a WebSocket's peer said about itself: its close code, else its first error.
fn last_words(mut decoder: Decoder, mut input: Vec<u8>, closed: bool) -> Fate {
    let mut error = None;
    let mut at = 0;
    while let Some(rest) = input.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match decoder.decode(rest) {
            Ok(Step::Frame { consumed, item }) => {
                match item {
                    Item::Close { code, .. } => return Fate::Close(code.unwrap_or(1005)),
                    Item::Text(message) | Item::Binary(message) => {
                        let incoming =
                            Incoming::read(message).filter(|incoming| incoming.said == Said::Error);
                        let code = incoming.and_then(|incoming| incoming.code);
                        error = error.or(code.map(|code| String::from_utf8_lossy(&code).into_owned()));
                    }
                    Item::Fragment { .. } | Item::Ping(_) | Item::Pong(_) => {}
                }
                at += consumed;
            }
            Ok(Step::NeedMore(_)) | Err(_) => break,
        }
    }
    match error {
        Some(code) => Fate::Error(code),
        None if closed => Fate::Dropped,
        None => Fate::Held,
    }
}

/// Whether the gateway answers as it should when all is over.
async fn is_well(target: SocketAddr, host: String) -> bool {
    let patience = Duration::from_secs(5);
    let Ok(socket) = driver::within(patience, Socket::connect(target)).await else { return false };
    let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    if socket.send_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if driver::within(patience, socket.readable()).await.is_err() {
            return false;
        }
        match socket.receive(&mut chunk) {
            Ok(Some(0)) | Err(_) => return false,
            Ok(Some(count)) => answer.extend_from_slice(&chunk[..count]),
            Ok(None) => {}
        }
        if 12 <= answer.len() {
            return answer.starts_with(b"HTTP/1.1 200");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawgate_wire::websocket::{Role, write_close};

    fn fate(bytes: &[u8], closed: bool) -> Fate {
        last_words(Decoder::new(Role::Client, 1 << 20), bytes.to_vec(), closed)
    }

    #[test]
    fn the_last_words_of_a_gateway_are_its_close_code_or_its_first_error() {
        let mut error = Vec::new();
        write_frame(&mut error, Opcode::Text, true, None, br#"{"type":"error","code":"BAD_JSON"}"#);
        assert_eq!(fate(&error, false), Fate::Error("BAD_JSON".to_owned()));
        let mut both = error.clone();
        write_close(&mut both, None, 1009, "");
        assert_eq!(fate(&both, true), Fate::Close(1009));
        assert_eq!(fate(b"", true), Fate::Dropped);
        assert_eq!(fate(b"", false), Fate::Held);
    }
}

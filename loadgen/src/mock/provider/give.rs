//! An answer given over a connection: when it is due, and what goes wrong on the way.

use std::cell::RefCell;
use std::time::Duration;

use clawgate_wire::http1::{Length, write_chunk, write_last_chunk, write_response_head};

use super::check::Refusal;
use super::format::{Format, Voice};
use super::frames::{Frames, Kind};
use super::script::{Fault, Framing, Script};
use super::stats::{Left, Stats};
use super::turn::Turn;
use crate::driver;
use crate::mock::peer::Peer;
use crate::sys;

/// Why an answer was not given to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// As the script says; the connection is closed.
    Fault,
    /// The reader left.
    Left(Left),
}

/// Gives an answer.
pub(super) async fn give(
    peer: &mut Peer,
    format: Format,
    turn: &Turn,
    stats: &RefCell<Stats>,
) -> Result<(), Ended> {
    let mut told = Told::new(turn);
    match turn.script.fault {
        Some(Fault::Reset) => {
            peer.socket().reset_on_close().ok();
            return Err(Ended::Fault);
        }
        Some(Fault::HangUp) => return Err(Ended::Fault),
        _ => {}
    }
    let given = match turn.stream {
        true => give_stream(peer, format, turn, &mut told).await,
        false => give_whole(peer, format, turn, &mut told).await,
    };
    stats.borrow_mut().tokens += u64::from(told.left.tokens);
    given
}

/// How far an answer is told.
struct Told {
    left: Left,
    split: usize,
}

impl Told {
    fn new(turn: &Turn) -> Self {
        Self { left: Left { number: turn.number, ..Left::default() }, split: turn.script.framing.split }
    }

    fn on_token(&mut self) {
        const STAMPS: usize = 8;
        self.left.tokens += 1;
        if STAMPS <= self.left.stamps_ns.len() {
            self.left.stamps_ns.remove(0);
        }
        self.left.stamps_ns.push(sys::now_ns());
    }

    fn has_left(&self) -> Ended {
        Ended::Left(Left { noticed_ns: sys::now_ns(), ..self.left.clone() })
    }

    /// Sends what was written; in pieces that are read apart, where the script says so.
    async fn flush(&self, peer: &mut Peer) -> Result<(), Ended> {
        if self.split == 0 {
            return peer.flush().await.map_err(|_| self.has_left());
        }
        let out = std::mem::take(&mut peer.out);
        let turn = driver::Turn::new().map_err(|_| Ended::Fault)?;
        for piece in out.chunks(self.split) {
            peer.socket().send_all(piece).await.map_err(|_| self.has_left())?;
            turn.pass().await.map_err(|_| Ended::Fault)?;
        }
        Ok(())
    }
}

/// Token by token, each when it is due; what is due together leaves together.
async fn give_stream(peer: &mut Peer, format: Format, turn: &Turn, told: &mut Told) -> Result<(), Ended> {
    let script = &turn.script;
    wait_until(peer, sys::now_ns() + script.header_ns, told).await?;
    if script.fault == Some(Fault::Gzip) {
        return give_compressed(peer, format, turn, told).await;
    }
    write_response_head(&mut peer.out, 200, &format.headers(script, true), Length::Chunked, true);
    if script.fault == Some(Fault::Head) {
        told.flush(peer).await?;
        return Err(Ended::Fault);
    }
    let mut voice = format.voice();
    let (framing, kind) = (script.framing, format.frames());
    let mut frames = Frames::new(&mut peer.out, framing, kind);
    frames.begin();
    voice.begin(turn, &mut frames);
    let first_ns = sys::now_ns() + script.ttft_ns;
    let mut fault = script.fault;
    let steps = turn.steps();
    let mut steps = steps.iter().peekable();
    loop {
        let due_ns = first_ns + u64::from(told.left.tokens) * script.gap_ns;
        if sys::now_ns() < due_ns {
            told.flush(peer).await?;
            wait_until(peer, due_ns, told).await?;
        }
        if peer.socket().peer_left() {
            return Err(told.has_left());
        }
        if let Some(wrong) = fault.filter(|_| told.left.tokens == script.at) {
            fault = None;
            if !go_wrong(peer, turn, (voice.as_mut(), kind), wrong, told).await? {
                return Ok(());
            }
        }
        let Some(step) = steps.next() else { break };
        let mut frames = Frames::new(&mut peer.out, framing, kind);
        if frames.comments() {
            frames.comment();
        }
        if frames.pings() {
            voice.ping(&mut frames);
        }
        voice.say(turn, *step, &mut frames);
        if step.is_token() {
            told.on_token();
        }
        // The end of a call is no token of its own.
        while let Some(end) = steps.next_if(|step| !step.is_token()) {
            voice.say(turn, *end, &mut Frames::new(&mut peer.out, framing, kind));
        }
    }
    voice.end(turn, &mut Frames::new(&mut peer.out, framing, kind));
    write_last_chunk(&mut peer.out);
    told.flush(peer).await
}

/// What the script says is to go wrong after what was sent. True if the stream goes on.
async fn go_wrong(
    peer: &mut Peer,
    turn: &Turn,
    (voice, kind): (&mut dyn Voice, Kind),
    fault: Fault,
    told: &Told,
) -> Result<bool, Ended> {
    let framing = turn.script.framing;
    match fault {
        Fault::Cut => {
            told.flush(peer).await?;
            peer.socket().shut_down();
            return Err(Ended::Fault);
        }
        Fault::BrokenJson => {
            let (name, head, _) = voice.opening();
            let head = head.trim_end_matches('"');
            Frames::new(&mut peer.out, framing, kind).raw(name, head.as_bytes());
            return Ok(true);
        }
        Fault::Error => voice.fail(&mut Frames::new(&mut peer.out, framing, kind)),
        Fault::Silence => {
            told.flush(peer).await?;
            return Err(wait_until_left(peer, (voice, kind), framing, told).await);
        }
        Fault::Huge => {
            give_too_much(peer, voice.opening(), kind, turn.script.bytes, told).await?;
            return Ok(true);
        }
        Fault::Endless => {
            let (name, head, _) = voice.opening();
            give_too_much(peer, (name, head, ""), kind, turn.script.bytes, told).await?;
            return Err(wait_until_left(peer, (voice, kind), Framing::default(), told).await);
        }
        Fault::NoFinish => {}
        // These went wrong before.
        Fault::Gzip | Fault::Redirect | Fault::Html | Fault::Head | Fault::Reset | Fault::HangUp => {
            return Ok(true);
        }
    }
    write_last_chunk(&mut peer.out);
    told.flush(peer).await?;
    Ok(false)
}

type Filling = [u8; 32 * 1024];
static LETTERS: Filling = [b'x'; 32 * 1024];
static BLANKS: Filling = [b' '; 32 * 1024];

/// So many bytes of a filling, as chunks of a body, no faster than the reader takes them.
async fn pour(peer: &mut Peer, part: &Filling, bytes: u64, told: &Told) -> Result<(), Ended> {
    let mut rest = bytes;
    while 0 < rest {
        let len = rest.min(part.len() as u64);
        write_chunk(&mut peer.out, &part[..len as usize]);
        told.flush(peer).await?;
        if peer.socket().peer_left() {
            return Err(told.has_left());
        }
        rest -= len;
    }
    Ok(())
}

/// One event of so many bytes; without an end, where it is given none.
async fn give_too_much(
    peer: &mut Peer,
    (name, head, tail): (&str, &str, &str),
    kind: Kind,
    bytes: u64,
    told: &Told,
) -> Result<(), Ended> {
    if kind == Kind::Events {
        let field = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
        write_chunk(&mut peer.out, format!("{field}data: ").as_bytes());
    }
    write_chunk(&mut peer.out, head.as_bytes());
    pour(peer, &LETTERS, bytes, told).await?;
    if !tail.is_empty() {
        let end = if kind == Kind::Events { "\n\n" } else { "\n" };
        write_chunk(&mut peer.out, format!("{tail}{end}").as_bytes());
    }
    Ok(())
}

/// Says nothing more, or only comments or pings, until the reader leaves; for ten minutes at most.
async fn wait_until_left(
    peer: &mut Peer,
    (voice, kind): (&mut dyn Voice, Kind),
    framing: Framing,
    told: &Told,
) -> Ended {
    const PERIODS: u32 = 600 * 20;
    for period in 0..PERIODS {
        if peer.socket().peer_left() {
            return told.has_left();
        }
        if period.is_multiple_of(2) {
            let mut frames = Frames::new(&mut peer.out, framing, kind);
            if frames.comments() {
                frames.comment();
            }
            if frames.pings() {
                voice.ping(&mut frames);
            }
            if let Err(ended) = told.flush(peer).await {
                return ended;
            }
        }
        driver::sleep(Duration::from_millis(50)).await;
    }
    Ended::Fault
}

/// The whole answer at once, when its last token would have come.
async fn give_whole(peer: &mut Peer, format: Format, turn: &Turn, told: &mut Told) -> Result<(), Ended> {
    let script = &turn.script;
    let tokens_ns = script.gap_ns * turn.count().saturating_sub(1);
    let due_ns = sys::now_ns() + script.header_ns + script.ttft_ns + tokens_ns;
    wait_until(peer, due_ns, told).await?;
    if peer.socket().peer_left() {
        return Err(told.has_left());
    }
    if script.fault == Some(Fault::Gzip) {
        return give_compressed(peer, format, turn, told).await;
    }
    let body = format.whole(turn).to_string().into_bytes();
    let headers = format.headers(script, false);
    let half = &body[..body.len() / 2];
    let (length, sent) = match script.fault {
        Some(Fault::Cut) => (body.len(), half),
        Some(Fault::Head) => (body.len(), &[][..]),
        Some(Fault::BrokenJson) => (half.len(), half),
        Some(Fault::Huge | Fault::Endless) => {
            return give_padded(peer, script, (&headers, &body), told).await;
        }
        Some(Fault::Silence) => {
            let mut voice = format.voice();
            let ended = wait_until_left(peer, (voice.as_mut(), Kind::Lines), Framing::default(), told).await;
            return Err(ended);
        }
        Some(Fault::Error) => {
            format.write_refusal(&mut peer.out, &Refusal::new(500, "the script says so"), turn.number);
            return told.flush(peer).await;
        }
        _ => (body.len(), &body[..]),
    };
    write_response_head(&mut peer.out, 200, &headers, Length::Exact(length as u64), true);
    peer.out.extend_from_slice(sent);
    told.flush(peer).await?;
    told.left.tokens = turn.count() as u32;
    if sent.len() == length { Ok(()) } else { Err(Ended::Fault) }
}

/// The answer behind more white space than anybody reads; the endless one never comes.
async fn give_padded(
    peer: &mut Peer,
    script: &Script,
    (headers, body): (&[(&str, &str)], &[u8]),
    told: &Told,
) -> Result<(), Ended> {
    let is_endless = script.fault == Some(Fault::Endless);
    write_response_head(&mut peer.out, 200, headers, Length::Chunked, true);
    pour(peer, &BLANKS, script.bytes, told).await?;
    if is_endless {
        let mut voice = Format::Ollama.voice();
        return Err(wait_until_left(peer, (voice.as_mut(), Kind::Lines), Framing::default(), told).await);
    }
    write_chunk(&mut peer.out, body);
    write_last_chunk(&mut peer.out);
    told.flush(peer).await
}

/// The answer as gzip, which nobody asked for.
async fn give_compressed(peer: &mut Peer, format: Format, turn: &Turn, told: &Told) -> Result<(), Ended> {
    let mut headers = format.headers(&turn.script, turn.stream);
    headers.push(("Content-Encoding", "gzip"));
    let body = gzip(format.whole(turn).to_string().as_bytes());
    write_response_head(&mut peer.out, 200, &headers, Length::Exact(body.len() as u64), true);
    peer.out.extend_from_slice(&body);
    told.flush(peer).await
}

/// A gzip member of stored blocks (RFC 1952, RFC 1951 3.2.4): what is tested is who reads it, not how small it is.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];
    let mut blocks = data.chunks(0xFFFF).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let mut sum = u32::MAX;
    for byte in data {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(sum & 1));
        }
    }
    out.extend_from_slice(&(!sum).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out
}

/// Waits until something is due, or the reader has left. Timers know milliseconds: what is due sooner is due now.
async fn wait_until(peer: &Peer, at_ns: u64, told: &Told) -> Result<(), Ended> {
    const LOOK_NS: u64 = 50_000_000;
    loop {
        let left_ns = at_ns.saturating_sub(sys::now_ns());
        if left_ns <= 500_000 {
            return Ok(());
        }
        driver::sleep(Duration::from_nanos(left_ns.min(LOOK_NS))).await;
        if LOOK_NS < left_ns && peer.socket().peer_left() {
            return Err(told.has_left());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_what_the_tool_writes() {
        // `printf hi | python3 -c 'import gzip,sys; …'` agrees on the checksum and the length.
        let packed = gzip(b"hi");
        assert_eq!(&packed[10..], [1, 2, 0, 253, 255, b'h', b'i', 0xAC, 0x2A, 0x93, 0xD8, 2, 0, 0, 0]);
    }
}

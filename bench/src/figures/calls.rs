//! Calls of a model on one connection: chat completions, whole or streamed, as a client of OpenAI's asks for them. Finds
//! where each answer ends, that it is a good one, and how old its tokens are. Owns no socket.
use super::ask::KEY;
use super::load::histogram;
use super::talk::HEAD_LIMITS;
use clawgate_wire::http1::{BodyDecoder, parse_response};
use hdrhistogram::Histogram;
use memchr::memmem;
use rustix::time::{ClockId, clock_gettime};

/// Bytes of an answer at most.
const BODY_BYTES_MAX: u64 = 1 << 24;
/// A token that says when it was written: this, and sixteen hexadecimal digits of the monotonic clock's nanoseconds.
const STAMP: u8 = b'@';
const STAMP_DIGITS: usize = 16;

/// The monotonic clock, as all processes of the machine read it.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Calls on one connection, one after the other.
#[derive(Debug)]
pub struct Calls {
    request: Vec<u8>,
    streamed: bool,
    /// When the present call was made, and whether a token of it came.
    asked_ns: u64,
    began: bool,
    body: Option<BodyDecoder>,
    /// What came of the present answer, as far as it is still looked at.
    tail: Vec<u8>,
    /// Age of each token at its arrival, nanoseconds.
    pub transit: Histogram<u64>,
    /// From the call to its first token, nanoseconds.
    pub first: Histogram<u64>,
    /// Tokens that came.
    pub tokens: u64,
}

impl Calls {
    /// Calls of the agent or model of this name.
    ///
    /// # Errors
    /// A histogram that cannot be made.
    pub fn of(model: &str, streamed: bool) -> Result<Self, String> {
        Ok(Self {
            request: request(model, streamed),
            streamed,
            asked_ns: 0,
            began: false,
            body: None,
            tail: Vec::new(),
            transit: histogram()?,
            first: histogram()?,
            tokens: 0,
        })
    }

    /// Forgets what was measured.
    pub fn forget(&mut self) {
        (self.tokens, self.began) = (0, false);
        self.transit.reset();
        self.first.reset();
    }

    pub(super) fn say(&mut self, out: &mut Vec<u8>) {
        (self.asked_ns, self.began) = (now_ns(), false);
        out.extend_from_slice(&self.request);
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(usize, u32), String> {
        let (mut at, mut answered) = (0, 0);
        loop {
            let rest = &bytes[at..];
            let Some(mut body) = self.body.take() else {
                if rest.is_empty() {
                    return Ok((at, answered));
                }
                let head =
                    parse_response(rest, &HEAD_LIMITS, false).map_err(|refusal| refusal.code().to_owned())?;
                let Some(head) = head else { return Ok((at, answered)) };
                if head.status != 200 {
                    return Err(format!("a call was answered with {}", String::from_utf8_lossy(rest)));
                }
                at += head.bytes;
                self.body = Some(BodyDecoder::new(head.body, BODY_BYTES_MAX));
                continue;
            };
            let part = body.decode(rest).map_err(|refusal| refusal.code().to_owned())?;
            at += part.consumed;
            self.tail.extend_from_slice(part.data);
            let (done, stuck) = (part.done, part.consumed == 0);
            self.on_body();
            if done {
                self.end()?;
                answered += 1;
                continue;
            }
            self.body = Some(body);
            if stuck {
                return Ok((at, answered));
            }
        }
    }

    /// Looks for tokens in what came, and keeps what may be half of one, and what tells a good end.
    fn on_body(&mut self) {
        const KEPT: usize = 64;
        if !self.streamed {
            return;
        }
        let (mut at, mut now) = (0, 0);
        while let Some(found) = memchr::memchr(STAMP, &self.tail[at..]) {
            let begin = at + found + 1;
            let Some(digits) = self.tail.get(begin..begin + STAMP_DIGITS) else { break };
            at = begin;
            let stamp =
                std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            if let Some(stamp) = stamp {
                if now == 0 {
                    now = now_ns();
                }
                self.tokens += 1;
                self.transit.saturating_record(now.saturating_sub(stamp));
                if !std::mem::replace(&mut self.began, true) {
                    self.first.saturating_record(now.saturating_sub(self.asked_ns));
                }
            }
        }
        // What was looked at stays only as far as no stamp is in it.
        let keep = self.tail.len().saturating_sub(KEPT).max(at);
        self.tail.drain(..keep);
    }

    fn end(&mut self) -> Result<(), String> {
        let mark: &[u8] = if self.streamed { b"data: [DONE]" } else { b"\"finish_reason\":\"stop\"" };
        let good = memmem::find(&self.tail, mark).is_some();
        let told = String::from_utf8_lossy(&self.tail).into_owned();
        self.tail.clear();
        if good { Ok(()) } else { Err(format!("that is no good end of an answer: {told}")) }
    }
}

/// What a client asks: a system text and a question, of an ordinary length.
#[must_use]
pub fn request(model: &str, streamed: bool) -> Vec<u8> {
    let system = "You are a helpful assistant. Answer in a few sentences, in the language of the question, and say so \
                  when you do not know.";
    let question =
        "What is the difference between a process and a thread, and when would you use one or the other?";
    let body = serde_json::json!({
        "model": model, "stream": streamed, "temperature": 0.7,
        "messages": [{ "role": "system", "content": system }, { "role": "user", "content": question }],
    });
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::floor::Answer;

    #[test]
    fn answers_are_found_wherever_a_read_ends() {
        for (answer, streamed) in [(Answer::Completion, false), (Answer::Stream, true)] {
            let said = answer.response().repeat(2);
            for cut in (0..said.len()).step_by(7) {
                let mut calls = Calls::of("m", streamed).unwrap();
                let (done, first) = calls.hear(&said[..cut]).unwrap();
                let (rest, second) = calls.hear(&said[done..]).unwrap();
                assert_eq!((done + rest, first + second), (said.len(), 2), "cut at {cut}");
            }
        }
    }

    #[test]
    fn each_token_is_counted_once_however_it_is_cut() {
        let token = |ns: u64| format!("data: {{\"content\":\"@{ns:016x}\"}}\n\n");
        let body: String = (1..=3).map(|number| token(now_ns() - number)).collect();
        let body = format!("{body}data: [DONE]\n\n");
        let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for size in [1, 7, said.len()] {
            let mut calls = Calls::of("m", true).unwrap();
            calls.say(&mut Vec::new());
            let (mut kept, mut answered) = (Vec::new(), 0);
            for part in said.as_bytes().chunks(size) {
                kept.extend_from_slice(part);
                let (done, more) = calls.hear(&kept).unwrap();
                kept.drain(..done);
                answered += more;
            }
            assert_eq!((answered, calls.tokens, calls.first.len()), (1, 3, 1), "by {size}");
        }
    }

    #[test]
    fn a_bad_answer_is_found() {
        let hear = |said: &str| Calls::of("m", true).unwrap().hear(said.as_bytes()).unwrap_err();
        assert!(hear("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").contains("503"));
        assert!(hear("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").contains("no good end"));
    }
}

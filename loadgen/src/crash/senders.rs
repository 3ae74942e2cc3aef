//! Those who write: platforms that post and post again until they are acknowledged, and callers who wait for their answer.
//!
//! A platform sends the next message of a conversation once the one before was acknowledged, so the order of sending is the
//! order of admission, and every first answer has to keep it.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{Length, write_request_head};
use clawgate_wire::json;

use super::World;
use super::call::Caller;
use super::config::{API_KEY, TELEGRAM_SECRET, WEBHOOK_SECRET};
use super::history::{Door, Key};
use crate::answer::Answered;
use crate::protocol::{Envelope, Template};
use crate::rng::{Rng, mix};
use crate::stamp::{self, STAMP_BYTES, Stamp};
use crate::zipf::Zipf;
use crate::{driver, sys};

/// Bytes of a message's text.
pub(super) const TEXT_BYTES: usize = STAMP_BYTES + 32;
/// How long a call may take: longer than a gateway takes to come back.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a platform waits for an acknowledgement before it posts again: with a disk that is full, what was posted before
/// that was known waits for room, and what is posted then is refused.
const POST_LIMIT: Duration = Duration::from_secs(5);
/// The first wait before a message that was not acknowledged is sent again; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(320);
/// Acknowledged messages that a sender remembers, to send some of them again.
const REMEMBERED_MAX: usize = 64;
/// Of a hundred sends so many repeat one that was acknowledged.
const REPEAT_PERCENT: u64 = 3;
/// The exponent of the distribution of messages over conversations.
const ZIPF: f64 = 1.0;

/// Waits until the next message of one of `lanes` senders is due, at `rate` a second for all of them.
pub(super) async fn pace(rng: &mut Rng, rate: f64, lanes: u32) {
    let mean_millis = f64::from(lanes) * 1e3 / rate.max(0.001);
    // An exponential distribution, as of independent people; a pause is bounded so that nobody sleeps a round away.
    let millis = (-rng.unit().ln() * mean_millis).min(mean_millis * 4.0);
    driver::sleep(Duration::from_micros((millis * 1e3) as u64)).await;
}

/// One connection of a platform, with conversations of its own, until all is over.
pub(super) async fn post(world: Rc<World>, door: Door, lane: u32) {
    let plan = &world.plan;
    let mut rng = Rng::new(mix(plan.seed ^ mix(u64::from(lane) << 8 | door as u64)));
    let mut caller = Caller::new(world.launch.address);
    let zipf = Zipf::new(plan.chats / plan.lanes, ZIPF);
    let mut writer = Writer::new(&world, door);
    let mut remembered = VecDeque::new();
    while !world.over.get() {
        pace(&mut rng, plan.rate, plan.lanes).await;
        if !world.sending.get() {
            driver::sleep(BACKOFF).await;
            continue;
        }
        let repeat = (!remembered.is_empty() && rng.below(100) < REPEAT_PERCENT)
            .then(|| remembered[rng.below(remembered.len() as u64) as usize]);
        let key = repeat.unwrap_or_else(|| {
            let chat = zipf.draw(&mut rng) * plan.lanes + lane;
            world.history.borrow_mut().open(door, chat)
        });
        world.tally.borrow_mut().sent += 1;
        if deliver(&world, &mut caller, writer.write(key), key).await && repeat.is_none() {
            if REMEMBERED_MAX <= remembered.len() {
                remembered.pop_front();
            }
            remembered.push_back(key);
        }
    }
}

/// Posts messages again that were acknowledged before, as a platform may.
pub(super) async fn repeat(world: &World, keys: &[Key]) {
    let mut caller = Caller::new(world.launch.address);
    for key in keys.iter().filter(|key| key.door != Door::Socket) {
        let mut writer = Writer::new(world, key.door);
        deliver(world, &mut caller, writer.write(*key), *key).await;
    }
}

/// Posts a message until it is acknowledged, however often the gateway dies meanwhile.
async fn deliver(world: &World, caller: &mut Caller, request: &[u8], key: Key) -> bool {
    let mut backoff = BACKOFF;
    while !world.over.get() {
        let (begin_ns, life) = (sys::now_ns(), world.alive.get().then(|| world.life.get()));
        let wait = match caller.call(request, POST_LIMIT).await {
            Ok(answered) if answered.status == 200 => {
                let now_ns = sys::now_ns();
                let mut history = world.history.borrow_mut();
                history.on_acked(key, now_ns);
                // One that was sent while the gateway started waited for that, not for its disk.
                if let Some(life) = life.filter(|life| *life == world.life.get()) {
                    history.on_ack_took(life, now_ns - begin_ns);
                }
                world.tally.borrow_mut().acked += 1;
                return true;
            }
            Ok(answered) => {
                world.tally.borrow_mut().refuse(&code_of(answered.status, &answered.body));
                backoff.max(Duration::from_millis(answered.retry_after_seconds.map_or(0, |_| 100)))
            }
            Err(_) => {
                world.tally.borrow_mut().broken += 1;
                backoff
            }
        };
        driver::sleep(wait).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    false
}

/// The code of a refusal; its status where the body has none.
fn code_of(status: u16, body: &[u8]) -> String {
    match Envelope::read(body) {
        Some(Envelope::Error { code }) => String::from_utf8_lossy(&code).into_owned(),
        Some(Envelope::Success { .. }) | None => format!("HTTP_{status}"),
    }
}

/// Writes the request of a message; the same bytes whenever it is asked for the same message.
struct Writer {
    door: Door,
    run: u32,
    host: String,
    telegram: Template,
    out: Vec<u8>,
}

impl Writer {
    fn new(world: &World, door: Door) -> Self {
        let to = world.addressing(door);
        Self {
            door,
            run: to.run,
            telegram: Template::telegram(&to, "/webhooks/telegram", TELEGRAM_SECRET, 1_710_000_000),
            host: to.host,
            out: Vec::new(),
        }
    }

    fn write(&mut self, key: Key) -> &[u8] {
        let Key { chat, seq, .. } = key;
        if self.door == Door::Telegram {
            // A bot numbers its updates over all chats: no chat of a run has more than 100,000 messages.
            let update = u64::from(chat) * 100_000 + u64::from(seq);
            return self.telegram.fill(chat, seq, 0, update);
        }
        let mut body = br#"{"event_id":""#.to_vec();
        body.extend_from_slice(
            format!("{:08x}-{chat}-{seq}\",\"sender\":\"u{chat}\",\"text\":", self.run).as_bytes(),
        );
        json::write_str(&mut body, &text_of(self.run, chat, seq));
        body.push(b'}');
        let bearer = format!("Bearer {WEBHOOK_SECRET}");
        self.out.clear();
        post_json(&mut self.out, "/webhooks/desk", &self.host, &bearer, &body);
        &self.out
    }
}

/// The text of a message.
pub(super) fn text_of(run: u32, session: u32, seq: u32) -> String {
    let mut text = vec![0; TEXT_BYTES];
    stamp::write(&mut text, &Stamp { run, session, seq, due_ns: 0 });
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) fn post_json(out: &mut Vec<u8>, target: &str, host: &str, bearer: &str, body: &[u8]) {
    let headers = [("Content-Type", "application/json"), ("Authorization", bearer)];
    write_request_head(out, "POST", target, host, &headers, Length::Exact(body.len() as u64), true);
    out.extend_from_slice(body);
}

/// Calls that wait for their answer, which no journal holds: each must end with its answer or visibly without.
pub(super) async fn call(world: Rc<World>, lane: u32) {
    let plan = &world.plan;
    let mut rng = Rng::new(mix(plan.seed ^ mix(0xCA11 + u64::from(lane))));
    let mut caller = Caller::new(world.launch.address);
    let bearer = format!("Bearer {API_KEY}");
    let (run, host) = (world.rest_run(), world.launch.address.to_string());
    let mut seq = 0;
    while !world.over.get() {
        pace(&mut rng, plan.rest_rate, plan.rest_lanes).await;
        if !world.sending.get() {
            driver::sleep(BACKOFF).await;
            continue;
        }
        let text = text_of(run, lane, seq);
        let body = format!(
            r#"{{"message":"{text}","sessionId":"crash-rest-{lane}","id":"{run:08x}-{lane}-{seq}"}}"#
        );
        let mut request = Vec::new();
        post_json(&mut request, "/api/chat", &host, &bearer, body.as_bytes());
        let begin_ns = sys::now_ns();
        let answered = caller.call(&request, CALL_LIMIT).await;
        count(&world, answered, text.as_bytes(), begin_ns);
        seq += 1;
        if !world.alive.get() {
            driver::sleep(BACKOFF).await;
        }
    }
}

/// What became of a call: its answer, or a failure that its sender sees.
fn count(world: &World, answered: io::Result<Answered>, text: &[u8], begin_ns: u64) {
    let mut tally = world.tally.borrow_mut();
    match answered {
        Ok(answered) if answered.status == 200 => match Envelope::read(&answered.body) {
            Some(Envelope::Success { message, .. }) if *message == *text => tally.rest_answered += 1,
            Some(Envelope::Success { .. } | Envelope::Error { .. }) | None => {
                world.history.borrow_mut().on_garbled();
            }
        },
        Ok(_) => tally.rest_failed += 1,
        Err(_) if sys::now_ns() - begin_ns < CALL_LIMIT.as_nanos() as u64 => tally.rest_failed += 1,
        Err(_) => tally.rest_silent += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_conversations_are_the_busiest_and_all_are_used() {
        let zipf = Zipf::new(20, ZIPF);
        let mut rng = Rng::new(1);
        let mut counts = [0_u32; 20];
        for _ in 0..10_000 {
            counts[zipf.draw(&mut rng) as usize] += 1;
        }
        assert!(counts[19] * 10 < counts[0] && 0 < counts[19], "{counts:?}");
        assert_eq!(Zipf::new(1, ZIPF).draw(&mut rng), 0);
    }

    #[test]
    fn a_text_names_its_message() {
        let text = text_of(7, 3, 9);
        let stamp = stamp::read(text.as_bytes());
        assert_eq!(stamp, Some(Stamp { run: 7, session: 3, seq: 9, due_ns: 0 }));
    }

    #[test]
    fn refusals_are_told_by_their_code() {
        let body = br#"{"success":false,"error":{"code":"JOURNAL_FULL","message":"x"}}"#;
        assert_eq!(code_of(503, body), "JOURNAL_FULL");
        assert_eq!(code_of(502, b"<html>"), "HTTP_502");
    }
}

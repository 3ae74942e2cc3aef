//! What happened to every message over all lives of the gateway, and the judgement over it.
//!
//! A life is the gateway from one start to its end. Two ledgers are kept against each other: what the gateway acknowledged,
//! and what reached people. Owns no socket and no clock: times come with what is told.

mod story;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

/// How a message came in, which decides how its answer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// Telegram's webhook; `sendMessage` has no key by which a repetition could be known.
    Telegram,
    /// The signed webhook; answers carry an idempotency key, and who takes them drops what it has had already.
    Webhook,
    /// A WebSocket message that asked for a receipt.
    Socket,
}

/// All doors, in the order in which they are told.
pub const DOORS: [Door; 3] = [Door::Telegram, Door::Webhook, Door::Socket];

impl Door {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Telegram => "telegram",
            Self::Webhook => "webhook",
            Self::Socket => "websocket",
        }
    }
}

/// One message: its door, its conversation, its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Key {
    /// How it came in.
    pub door: Door,
    /// The conversation.
    pub chat: u32,
    /// Its place in the conversation, from 0.
    pub seq: u32,
}

/// One answer that a person would see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    life: u32,
    taken_ns: u64,
    /// Its place among all answers.
    place: u64,
    /// When the platform's confirmation was handed to the kernel; `None` if it never was.
    confirmed_ns: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Message {
    acked_ns: Option<u64>,
    /// Answers that were seen to arrive.
    answers: Vec<Answer>,
    /// Places of its answer in the session's history, where that was asked at the end.
    recalled: Vec<u64>,
    dead: bool,
    /// The error that ended it after it was acknowledged.
    failed: Option<String>,
}

impl Message {
    fn is_answered(&self) -> bool {
        !self.answers.is_empty() || !self.recalled.is_empty()
    }

    fn is_to_be_remembered(&self) -> bool {
        self.acked_ns.is_some() && self.is_answered()
    }

    fn is_over(&self) -> bool {
        self.is_answered() || self.dead
    }
}

#[derive(Clone, Debug, Default)]
struct Chat {
    messages: Vec<Message>,
    /// The place of the newest answer of each life.
    newest: BTreeMap<u32, u64>,
    /// Its whole history was told at the end.
    is_recalled: bool,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    at_ns: u64,
    /// It was killed, rather than asked to go.
    killed: bool,
}

/// Everything that happened.
#[derive(Clone, Debug, Default)]
pub struct History {
    chats: BTreeMap<(Door, u32), Chat>,
    ends: HashMap<u32, End>,
    /// The longest that an acknowledgement took in each life.
    slowest_acks_ns: HashMap<u32, u64>,
    /// Idempotency keys of answers, and when they were taken.
    keys: HashMap<String, u64>,
    places: u64,
    answers: u64,
    acked: u64,
    repeats: u64,
    strays: u64,
    garbled: u64,
    /// Messages that were acknowledged and are not over.
    open: HashSet<Key>,
}

/// Whose answer came, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    key: Key,
    at: usize,
}

impl History {
    /// A message is about to be sent for the first time: its name.
    pub fn open(&mut self, door: Door, chat: u32) -> Key {
        let messages = &mut self.chats.entry((door, chat)).or_default().messages;
        let seq = messages.len() as u32;
        messages.push(Message::default());
        Key { door, chat, seq }
    }

    /// The gateway acknowledged it.
    pub fn on_acked(&mut self, key: Key, now_ns: u64) {
        let Some(message) = self.message(key) else { return };
        if message.acked_ns.is_some() {
            return;
        }
        message.acked_ns = Some(now_ns);
        let over = message.is_over();
        self.acked += 1;
        if !over {
            self.open.insert(key);
        }
    }

    /// An acknowledgement of a message took so long in a life that was up all the while.
    pub fn on_ack_took(&mut self, life: u32, took_ns: u64) {
        let slowest_ns = self.slowest_acks_ns.entry(life).or_default();
        *slowest_ns = took_ns.max(*slowest_ns);
    }

    /// Whether it was acknowledged.
    #[must_use]
    pub fn is_acked(&self, key: Key) -> bool {
        self.peek(key).is_some_and(|message| message.acked_ns.is_some())
    }

    /// A platform took an answer. Give the result to [`on_confirmed`](Self::on_confirmed) once its confirmation is sent.
    pub fn on_answer(&mut self, key: Key, life: u32, now_ns: u64) -> Option<Taken> {
        let place = self.places;
        let Some(chat) = self.chats.get_mut(&(key.door, key.chat)) else {
            self.strays += 1;
            return None;
        };
        let Some(message) = chat.messages.get_mut(key.seq as usize) else {
            self.strays += 1;
            return None;
        };
        message.answers.push(Answer { life, taken_ns: now_ns, place, confirmed_ns: None });
        let at = message.answers.len() - 1;
        chat.newest.insert(life, place);
        self.places += 1;
        self.answers += 1;
        self.open.remove(&key);
        Some(Taken { key, at })
    }

    /// The platform's confirmation was handed to the kernel.
    pub fn on_confirmed(&mut self, taken: Taken, now_ns: u64) {
        let message = self.message(taken.key);
        if let Some(answer) = message.and_then(|message| message.answers.get_mut(taken.at)) {
            answer.confirmed_ns = Some(now_ns);
        }
    }

    /// Whether an answer with this idempotency key was never taken before. A platform drops the others.
    pub fn is_new_key(&mut self, key: &str, now_ns: u64) -> bool {
        let fresh = !self.keys.contains_key(key);
        if fresh {
            self.keys.insert(key.to_owned(), now_ns);
        }
        self.repeats += u64::from(!fresh);
        fresh
    }

    /// The session's history holds its answer; told in the order of the history.
    pub fn on_recalled(&mut self, key: Key) {
        let place = self.places;
        self.places += 1;
        match self.message(key) {
            Some(message) => message.recalled.push(place),
            None => self.strays += 1,
        }
        self.open.remove(&key);
    }

    /// The whole history of this conversation was told: what is not in it is forgotten.
    pub fn on_recalled_all(&mut self, door: Door, chat: u32) {
        if let Some(chat) = self.chats.get_mut(&(door, chat)) {
            chat.is_recalled = true;
        }
    }

    /// It is in the dead-letter queue.
    pub fn on_dead(&mut self, key: Key) {
        if let Some(message) = self.message(key) {
            message.dead = true;
        }
        self.open.remove(&key);
    }

    /// It was ended with an error after it was acknowledged.
    pub fn on_failed(&mut self, key: Key, code: &str) {
        if let Some(message) = self.message(key) {
            message.failed = Some(code.to_owned());
        }
    }

    /// An answer came that cannot be read, or that belongs elsewhere.
    pub const fn on_garbled(&mut self) {
        self.garbled += 1;
    }

    /// An answer to nothing that was ever asked.
    pub const fn on_stray(&mut self) {
        self.strays += 1;
    }

    /// A life ended: `killed`, or after it was asked to go.
    pub fn on_end(&mut self, life: u32, at_ns: u64, killed: bool) {
        self.ends.insert(life, End { at_ns, killed });
    }

    /// Messages that were acknowledged and neither answered nor dead, where the door shows its answers as they come.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.open.iter().filter(|key| key.door != Door::Socket).count()
    }

    /// When messages were acknowledged, in order.
    #[must_use]
    pub fn acks(&self) -> Vec<(u64, Key)> {
        let mut acks = Vec::new();
        for ((door, chat), book) in &self.chats {
            for (seq, message) in book.messages.iter().enumerate() {
                let key = Key { door: *door, chat: *chat, seq: seq as u32 };
                acks.extend(message.acked_ns.map(|acked_ns| (acked_ns, key)));
            }
        }
        acks.sort_unstable();
        acks
    }

    /// What had happened up to a moment, at which the life that was running ended.
    #[must_use]
    pub fn until(&self, cut_ns: u64) -> Self {
        let mut before = self.clone();
        before.open.clear();
        before.keys.retain(|_, taken_ns| *taken_ns < cut_ns);
        before.ends.retain(|_, end| end.at_ns < cut_ns);
        let (mut running, mut open) = (1, Vec::new());
        for ((door, chat), book) in &mut before.chats {
            book.newest.clear();
            book.is_recalled = false;
            for (seq, message) in book.messages.iter_mut().enumerate() {
                message.acked_ns = message.acked_ns.filter(|acked_ns| *acked_ns < cut_ns);
                message.answers.retain(|answer| answer.taken_ns < cut_ns);
                for answer in &mut message.answers {
                    answer.confirmed_ns = answer.confirmed_ns.filter(|confirmed_ns| *confirmed_ns < cut_ns);
                    let newest = book.newest.entry(answer.life).or_default();
                    *newest = (*newest).max(answer.place);
                    running = running.max(answer.life);
                }
                if message.acked_ns.is_some() && !message.is_over() {
                    open.push(Key { door: *door, chat: *chat, seq: seq as u32 });
                }
            }
        }
        before.open.extend(open);
        before.ends.entry(running).or_insert(End { at_ns: cut_ns, killed: true });
        before
    }

    /// Messages acknowledged and answers taken so far.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64) {
        (self.acked, self.answers)
    }

    /// The conversations of a door in which something was acknowledged.
    pub fn chats(&self, door: Door) -> impl Iterator<Item = u32> + '_ {
        let all = self.chats.range((door, 0)..=(door, u32::MAX));
        all.filter(|(_, chat)| chat.messages.iter().any(|message| message.acked_ns.is_some()))
            .map(|((_, chat), _)| *chat)
    }

    fn message(&mut self, key: Key) -> Option<&mut Message> {
        self.chats.get_mut(&(key.door, key.chat))?.messages.get_mut(key.seq as usize)
    }

    fn peek(&self, key: Key) -> Option<&Message> {
        self.chats.get(&(key.door, key.chat))?.messages.get(key.seq as usize)
    }
}

/// Why a message has two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "why")]
pub enum Cause {
    /// The first was on its way when the gateway was killed: who has no key to tell cannot know.
    InFlight {
        /// From its confirmation to the kill, in nanoseconds; 0 if it was not confirmed before.
        age_ns: u64,
    },
    /// It had no receipt when the gateway was killed, so its sender said it again. An answer to a WebSocket does not wait
    /// for the disk, and carries the message's id, by which its client knows it.
    Unacknowledged,
    /// Between both nobody killed the gateway.
    NoKill,
    /// A later answer of the chat came before the kill, which is sent only once the one before is settled.
    Settled,
    /// It was confirmed so long before the kill.
    LongBefore {
        /// From its confirmation to the kill, in nanoseconds.
        age_ns: u64,
    },
    /// This door has a key, or a history, by which a repetition is known.
    Keyed,
}

impl Cause {
    /// Whether nobody could have done better.
    #[must_use]
    pub const fn is_excuse(self) -> bool {
        matches!(self, Self::InFlight { .. } | Self::Unacknowledged)
    }
}

/// A message with more than one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Double {
    /// Which.
    pub key: Key,
    /// The lives in which its answers came.
    pub lives: (u32, u32),
    /// Why.
    pub cause: Cause,
}

/// A message that was acknowledged and never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// Which.
    pub key: Key,
    /// The life that acknowledged it; 0 if that one did not end.
    pub life: u32,
    /// From the acknowledgement to the end of that life, in nanoseconds.
    pub before_end_ns: u64,
}

/// What came of it all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Of these, in the dead-letter queue and not answered.
    pub dead: u64,
    /// Of these, neither.
    pub lost: Vec<Loss>,
    /// Of the lost, those that were ended with an error, and with which.
    pub failed: BTreeMap<String, u64>,
    /// Messages that were never acknowledged, and those of them that were answered all the same: both are allowed.
    pub unacked: u64,
    /// See [`unacked`](Self::unacked).
    pub unacked_answered: u64,
    /// Second answers.
    pub doubled: Vec<Double>,
    /// First answers that came after the first answer to a later message of their conversation.
    pub reordered: Vec<Key>,
    /// Messages that were acknowledged and answered, of which the session's history knows nothing.
    pub forgotten: Vec<Key>,
    /// Answers that were sent again under their key, and dropped by who took them.
    pub repeats: u64,
    /// Answers to nothing that was ever asked.
    pub strays: u64,
    /// Answers that cannot be read, or that came to another conversation.
    pub garbled: u64,
}

impl Judgement {
    /// Second answers that nothing excuses.
    pub fn unexcused(&self) -> impl Iterator<Item = &Double> {
        self.doubled.iter().filter(|double| !double.cause.is_excuse())
    }

    /// Adds another one, of another run.
    pub fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.answered += other.answered;
        self.dead += other.dead;
        self.lost.extend(other.lost);
        for (code, count) in other.failed {
            *self.failed.entry(code).or_default() += count;
        }
        self.unacked += other.unacked;
        self.unacked_answered += other.unacked_answered;
        self.doubled.extend(other.doubled);
        self.reordered.extend(other.reordered);
        self.forgotten.extend(other.forgotten);
        self.repeats += other.repeats;
        self.strays += other.strays;
        self.garbled += other.garbled;
    }

    /// Whether the promise was kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lost.is_empty()
            && self.reordered.is_empty()
            && self.forgotten.is_empty()
            && self.strays == 0
            && self.garbled == 0
            && self.unexcused().next().is_none()
    }
}

/// Judges a history. An answer counts as in flight if the gateway was killed within `in_flight_ns` of its confirmation,
/// and the longest that an acknowledgement took in that life: a confirmation goes the same way to the disk, which is slow
/// where the machine or the disk is.
#[must_use]
pub fn judge(history: &History, in_flight_ns: u64) -> Judgement {
    let mut judgement = Judgement {
        repeats: history.repeats,
        strays: history.strays,
        garbled: history.garbled,
        ..Judgement::default()
    };
    for ((door, chat), book) in &history.chats {
        // From the last one to the first: whoever came after one that is behind it was overtaken.
        let (mut seen, mut told) = (None, None);
        for (seq, message) in book.messages.iter().enumerate().rev() {
            let key = Key { door: *door, chat: *chat, seq: seq as u32 };
            judge_message(&mut judgement, history, key, message);
            if book.is_recalled && message.is_to_be_remembered() && message.recalled.is_empty() {
                judgement.forgotten.push(key);
            }
            judge_doubles(&mut judgement, history, book, key, message, in_flight_ns);
            let seen_late = is_overtaken(&mut seen, message.answers.first().map(|answer| answer.place));
            let told_late = is_overtaken(&mut told, message.recalled.first().copied());
            if seen_late || told_late {
                judgement.reordered.push(key);
            }
        }
    }
    judgement
}

/// Whether this place is after the earliest of those that follow.
fn is_overtaken(earliest: &mut Option<u64>, place: Option<u64>) -> bool {
    let Some(place) = place else { return false };
    let overtaken = earliest.is_some_and(|earliest| earliest < place);
    *earliest = Some(earliest.map_or(place, |earliest| earliest.min(place)));
    overtaken
}

fn judge_message(judgement: &mut Judgement, history: &History, key: Key, message: &Message) {
    let Some(acked_ns) = message.acked_ns else {
        judgement.unacked += 1;
        judgement.unacked_answered += u64::from(message.is_answered());
        return;
    };
    judgement.acked += 1;
    if message.is_answered() {
        judgement.answered += 1;
    } else if message.dead {
        judgement.dead += 1;
    } else {
        let ended = history.ends.iter().filter(|(_, end)| acked_ns <= end.at_ns);
        let (life, at_ns) = ended.map(|(life, end)| (*life, end.at_ns)).min().unwrap_or((0, acked_ns));
        judgement.lost.push(Loss { key, life, before_end_ns: at_ns - acked_ns });
        if let Some(code) = &message.failed {
            *judgement.failed.entry(code.clone()).or_default() += 1;
        }
    }
}

fn judge_doubles(
    judgement: &mut Judgement,
    history: &History,
    book: &Chat,
    key: Key,
    message: &Message,
    in_flight_ns: u64,
) {
    for pair in message.answers.windows(2) {
        let [first, second] = pair else { continue };
        let cause = match key.door {
            Door::Telegram => why(history, book, *first, *second, in_flight_ns),
            Door::Socket if was_unacknowledged(history, message, *first, *second) => Cause::Unacknowledged,
            Door::Webhook | Door::Socket => Cause::Keyed,
        };
        judgement.doubled.push(Double { key, lives: (first.life, second.life), cause });
    }
    for _ in message.recalled.iter().skip(1) {
        judgement.doubled.push(Double { key, lives: (0, 0), cause: Cause::Keyed });
    }
}

/// Whether the kill between both came before the receipt.
fn was_unacknowledged(history: &History, message: &Message, first: Answer, second: Answer) -> bool {
    let end = history.ends.get(&first.life).filter(|end| end.killed && first.life < second.life);
    end.is_some_and(|end| message.acked_ns.is_none_or(|acked_ns| end.at_ns <= acked_ns))
}

fn why(history: &History, book: &Chat, first: Answer, second: Answer, in_flight_ns: u64) -> Cause {
    let end = history.ends.get(&first.life).filter(|end| end.killed && first.life < second.life);
    let Some(end) = end else { return Cause::NoKill };
    if book.newest.get(&first.life).is_some_and(|newest| first.place < *newest) {
        return Cause::Settled;
    }
    let age_ns = first.confirmed_ns.map_or(0, |confirmed_ns| end.at_ns.saturating_sub(confirmed_ns));
    let slowest_ns = history.slowest_acks_ns.get(&first.life).copied().unwrap_or(0);
    if in_flight_ns + slowest_ns < age_ns { Cause::LongBefore { age_ns } } else { Cause::InFlight { age_ns } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const IN_FLIGHT_NS: u64 = 100;

    /// A history with one chat of a door and so many acknowledged messages in it.
    fn asked(door: Door, messages: u32) -> (History, Vec<Key>) {
        let mut history = History::default();
        let keys: Vec<Key> = (0..messages).map(|_| history.open(door, 7)).collect();
        keys.iter().for_each(|key| history.on_acked(*key, 1));
        (history, keys)
    }

    fn answer(history: &mut History, key: Key, life: u32, at_ns: u64) {
        let taken = history.on_answer(key, life, at_ns).unwrap();
        history.on_confirmed(taken, at_ns);
    }

    fn judged(history: &History) -> Judgement {
        judge(history, IN_FLIGHT_NS)
    }

    fn causes(history: &History) -> Vec<Cause> {
        judged(history).doubled.iter().map(|double| double.cause).collect()
    }

    #[test]
    fn what_is_answered_once_and_in_order_over_a_kill_keeps_the_promise() {
        let (mut history, keys) = asked(Door::Telegram, 4);
        answer(&mut history, keys[0], 1, 10);
        answer(&mut history, keys[1], 1, 20);
        assert_eq!(history.outstanding(), 2);
        history.on_end(1, 25, true);
        answer(&mut history, keys[2], 2, 90);
        answer(&mut history, keys[3], 2, 95);
        assert_eq!((history.outstanding(), history.counts()), (0, (4, 4)));
        let judgement = judged(&history);
        assert!(judgement.is_kept());
        assert_eq!(judgement, Judgement { acked: 4, answered: 4, ..Judgement::default() });
    }

    #[test]
    fn what_was_acknowledged_and_never_answered_is_lost() {
        for door in DOORS {
            let (mut history, keys) = asked(door, 3);
            answer(&mut history, keys[0], 1, 10);
            history.on_end(1, 15, true);
            answer(&mut history, keys[2], 2, 20);
            let judgement = judged(&history);
            let loss = Loss { key: keys[1], life: 1, before_end_ns: 14 };
            assert_eq!((judgement.lost.as_slice(), judgement.answered), ([loss].as_slice(), 2));
            assert!(!judgement.is_kept(), "{door:?}");
        }
    }

    #[test]
    fn what_ended_with_an_error_is_lost_and_its_code_is_told() {
        let (mut history, keys) = asked(Door::Socket, 1);
        history.on_failed(keys[0], "UPSTREAM_FAILED");
        let judgement = judged(&history);
        assert_eq!((judgement.lost.len(), judgement.failed["UPSTREAM_FAILED"]), (1, 1));
    }

    #[test]
    fn a_dead_letter_is_not_lost_and_its_answer_counts_first() {
        let (mut history, keys) = asked(Door::Telegram, 2);
        history.on_dead(keys[0]);
        history.on_dead(keys[1]);
        answer(&mut history, keys[1], 1, 10);
        let judgement = judged(&history);
        assert_eq!((judgement.dead, judgement.answered, judgement.is_kept()), (1, 1, true));
    }

    #[test]
    fn a_double_is_excused_if_it_was_in_flight_at_the_kill() {
        let (mut history, keys) = asked(Door::Telegram, 2);
        answer(&mut history, keys[0], 1, 10);
        answer(&mut history, keys[1], 1, 20);
        history.on_end(1, 60, true);
        answer(&mut history, keys[1], 2, 500);
        assert_eq!(causes(&history), [Cause::InFlight { age_ns: 40 }]);
        assert!(judged(&history).is_kept());
    }

    #[test]
    fn an_answer_that_was_never_confirmed_was_in_flight_whenever_the_kill_came() {
        let (mut history, keys) = asked(Door::Telegram, 1);
        history.on_answer(keys[0], 1, 10).unwrap();
        history.on_end(1, 1_000_000, true);
        answer(&mut history, keys[0], 3, 2_000_000);
        assert_eq!(causes(&history), [Cause::InFlight { age_ns: 0 }]);
    }

    #[test]
    fn a_double_that_was_settled_long_before_the_kill_is_not_excused() {
        let (mut history, keys) = asked(Door::Telegram, 1);
        answer(&mut history, keys[0], 1, 10);
        history.on_end(1, 111, true);
        answer(&mut history, keys[0], 2, 500);
        assert_eq!(causes(&history), [Cause::LongBefore { age_ns: 101 }]);
        assert!(!judged(&history).is_kept());
    }

    #[test]
    fn where_acknowledgements_are_slow_so_is_what_settles_an_answer() {
        let (mut history, keys) = asked(Door::Telegram, 1);
        answer(&mut history, keys[0], 1, 10);
        history.on_end(1, 160, true);
        answer(&mut history, keys[0], 2, 500);
        for (life, took_ns, cause) in [
            (2, 900, Cause::LongBefore { age_ns: 150 }),
            (1, 49, Cause::LongBefore { age_ns: 150 }),
            (1, 50, Cause::InFlight { age_ns: 150 }),
            (1, 20, Cause::InFlight { age_ns: 150 }),
        ] {
            history.on_ack_took(life, took_ns);
            assert_eq!(causes(&history), [cause], "{took_ns}");
        }
    }

    #[test]
    fn a_double_behind_a_later_answer_of_its_chat_is_not_excused() {
        let (mut history, keys) = asked(Door::Telegram, 2);
        answer(&mut history, keys[0], 1, 10);
        answer(&mut history, keys[1], 1, 11);
        history.on_end(1, 12, true);
        answer(&mut history, keys[0], 2, 500);
        assert_eq!(causes(&history), [Cause::Settled]);
        assert!(!judged(&history).is_kept());
    }

    #[test]
    fn a_double_without_a_kill_between_is_not_excused() {
        let (mut history, keys) = asked(Door::Telegram, 2);
        answer(&mut history, keys[0], 1, 10);
        answer(&mut history, keys[0], 1, 11);
        history.on_end(1, 12, true);
        answer(&mut history, keys[1], 2, 20);
        history.on_end(2, 21, false);
        answer(&mut history, keys[1], 3, 30);
        assert_eq!(causes(&history), [Cause::NoKill, Cause::NoKill]);
    }

    #[test]
    fn three_answers_are_two_doubles_each_with_its_cause() {
        let (mut history, keys) = asked(Door::Telegram, 1);
        answer(&mut history, keys[0], 1, 10);
        history.on_end(1, 15, true);
        answer(&mut history, keys[0], 2, 20);
        history.on_end(2, 320, true);
        answer(&mut history, keys[0], 3, 400);
        assert_eq!(causes(&history), [Cause::InFlight { age_ns: 5 }, Cause::LongBefore { age_ns: 300 }]);
    }

    #[test]
    fn where_there_is_a_key_no_double_is_excused() {
        for door in [Door::Webhook, Door::Socket] {
            let (mut history, keys) = asked(door, 1);
            answer(&mut history, keys[0], 1, 10);
            history.on_end(1, 11, true);
            answer(&mut history, keys[0], 2, 20);
            assert_eq!(causes(&history), [Cause::Keyed]);
        }
        let (mut history, keys) = asked(Door::Socket, 1);
        history.on_recalled(keys[0]);
        assert!(judged(&history).is_kept());
        history.on_recalled(keys[0]);
        assert_eq!(causes(&history), [Cause::Keyed]);
    }

    #[test]
    fn a_double_on_a_websocket_is_excused_while_it_had_no_receipt_and_only_then() {
        for (acked_ns, cause) in [(15, Cause::Unacknowledged), (9, Cause::Keyed)] {
            let mut history = History::default();
            let key = history.open(Door::Socket, 7);
            answer(&mut history, key, 1, 5);
            history.on_end(1, 10, true);
            history.on_acked(key, acked_ns);
            answer(&mut history, key, 2, 20);
            assert_eq!(causes(&history), [cause]);
            assert_eq!(judged(&history).is_kept(), cause.is_excuse());
        }
    }

    #[test]
    fn an_answer_under_a_key_that_was_had_is_a_repetition() {
        let mut history = History::default();
        assert!(history.is_new_key("a-0", 10));
        assert!(!history.is_new_key("a-0", 10));
        assert!(history.is_new_key("a-1", 10));
        assert_eq!(judged(&history), Judgement { repeats: 1, ..Judgement::default() });
    }

    #[test]
    fn a_swap_of_first_answers_is_found_and_a_late_second_answer_is_none() {
        let (mut history, keys) = asked(Door::Telegram, 4);
        for (seq, at) in [(0, 10), (2, 20), (1, 30), (3, 40)] {
            answer(&mut history, keys[seq], 1, at);
        }
        history.on_end(1, 45, true);
        answer(&mut history, keys[3], 2, 60);
        let judgement = judged(&history);
        assert_eq!(judgement.reordered, [keys[1]], "its answer came after that of the next one");
        assert_eq!(judgement.doubled.len(), 1);
    }

    #[test]
    fn an_answer_that_its_history_does_not_hold_is_forgotten() {
        let (mut history, keys) = asked(Door::Socket, 3);
        keys.iter().for_each(|key| answer(&mut history, *key, 1, 10));
        history.on_recalled(keys[0]);
        history.on_recalled(keys[2]);
        assert!(judged(&history).is_kept(), "it was not told whole");
        history.on_recalled_all(Door::Socket, 7);
        let judgement = judged(&history);
        assert_eq!((judgement.forgotten.as_slice(), judgement.is_kept()), ([keys[1]].as_slice(), false));
    }

    #[test]
    fn a_history_that_tells_answers_out_of_order_is_found() {
        let (mut history, keys) = asked(Door::Socket, 3);
        for seq in [0, 2, 1] {
            history.on_recalled(keys[seq]);
        }
        assert_eq!(judged(&history).reordered, [keys[1]]);
    }

    #[test]
    fn what_was_never_acknowledged_may_be_answered_or_not() {
        let mut history = History::default();
        let first = history.open(Door::Telegram, 1);
        history.open(Door::Telegram, 1);
        answer(&mut history, first, 1, 10);
        let judgement = judged(&history);
        assert_eq!((judgement.unacked, judgement.unacked_answered, judgement.is_kept()), (2, 1, true));
        history.on_acked(first, 20);
        assert_eq!((history.outstanding(), judged(&history).acked), (0, 1), "the ack came after its answer");
    }

    #[test]
    fn an_answer_to_nothing_breaks_the_promise() {
        let (mut history, keys) = asked(Door::Telegram, 1);
        assert_eq!(history.on_answer(Key { seq: 9, ..keys[0] }, 1, 10), None);
        assert_eq!(history.on_answer(Key { chat: 9, ..keys[0] }, 1, 10), None);
        answer(&mut history, keys[0], 1, 10);
        let judgement = judged(&history);
        assert_eq!((judgement.strays, judgement.is_kept()), (2, false));
    }

    #[test]
    fn what_had_happened_up_to_a_cut_is_judged_as_if_it_were_a_kill() {
        let mut history = History::default();
        let keys: Vec<Key> = (0..3).map(|_| history.open(Door::Telegram, 7)).collect();
        for (key, at) in keys.iter().zip([10, 20, 30]) {
            history.on_acked(*key, at);
            answer(&mut history, *key, 1, at + 15);
        }
        assert_eq!(history.acks(), [(10, keys[0]), (20, keys[1]), (30, keys[2])]);
        let mut before = history.until(28);
        assert_eq!((before.outstanding(), before.acks().len()), (1, 2), "the second was acknowledged");
        assert_eq!(judged(&before).lost, [Loss { key: keys[1], life: 1, before_end_ns: 8 }]);
        answer(&mut before, keys[0], 2, 100);
        answer(&mut before, keys[1], 2, 110);
        let judgement = judged(&before);
        assert_eq!((judgement.is_kept(), judgement.unacked), (true, 1));
        assert_eq!(causes(&before), [Cause::InFlight { age_ns: 3 }]);
    }

    #[test]
    fn the_order_of_doubles_of_other_chats_does_not_matter() {
        let mut history = History::default();
        let one = history.open(Door::Telegram, 1);
        let two = history.open(Door::Telegram, 2);
        [one, two].into_iter().for_each(|key| history.on_acked(key, 1));
        answer(&mut history, two, 1, 10);
        answer(&mut history, one, 1, 20);
        assert!(judged(&history).is_kept());
        assert_eq!(history.chats(Door::Telegram).collect::<Vec<_>>(), [1, 2]);
    }
}

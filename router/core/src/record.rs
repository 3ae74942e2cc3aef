//! What a shard writes down, so that another one can go on after a crash: one closed list of records, and their bytes.
//!
//! A record is a kind, fixed fields in little endian, and texts with their lengths before them. Framing, checksums and
//! the number of each record are the journal's. Channels and agents go in by name, because their ids move with the
//! configuration. A record of a later version has a kind that is not known here: it reads as nothing, and is reported.
use crate::codes::Code;
use crate::effect::Outcome;
use crate::event::{Class, Mode, Scope};
use crate::home::{Secret, session_hash};
use crate::id::Uid;
use alloc::vec::Vec;

/// An admitted message, as far as an answer to it needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// The turn's name for ever.
    pub uid: Uid,
    /// When it was admitted: Unix milliseconds.
    pub unix_millis: u64,
    /// Direct or group.
    pub scope: Scope,
    /// How its answer travels.
    pub mode: Mode,
    /// Its priority.
    pub class: Class,
    /// It is what an operator says as the bot: no model is asked.
    pub outbound: bool,
    /// It was a dead letter, and takes that one's place.
    pub replayed: bool,
    /// Its answer is known: a [`Record::Reply`] follows. Of a dead letter this record counts for nothing without that.
    pub answered: bool,
    /// It is over, and all that is known of it is told once more: its other records and [`Record::Settled`] follow. Without
    /// that end none of them counts, because there are others of before.
    pub ending: bool,
    /// The channel's name.
    pub channel: &'a str,
    /// The name of the agent that answers; empty where none does.
    pub agent: &'a str,
    /// The platform's id of the event; empty where it has none, or where it is remembered elsewhere already.
    pub id: &'a str,
    /// As in [`crate::event::Inbound`].
    pub chat: &'a str,
    /// As in [`crate::event::Inbound`].
    pub thread: &'a str,
    /// As in [`crate::event::Inbound`].
    pub peer: &'a str,
    /// As in [`crate::event::Inbound`].
    pub name: &'a str,
    /// What was written.
    pub text: &'a str,
    /// Turns whose messages are part of this text. This one record ends them: a reader that finds it answers none of them
    /// by itself, whether their own `Settled` was written or not.
    pub took: Uids<'a>,
    /// Marks of the event ids of the messages in it whose own records may be lost. They stand here and nowhere else, so that
    /// no message is known without its text, and none is read without being known.
    pub seen: Marks<'a>,
}

/// Marks of event ids, as a record holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks<'a>(&'a [[u8; 16]]);

impl<'a> Marks<'a> {
    /// These, each as the bytes of [`mark_bytes`].
    #[must_use]
    pub const fn new(bytes: &'a [[u8; 16]]) -> Self {
        Self(bytes)
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = [u64; 2]> {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        self.0.iter().map(move |bytes| [word(&bytes[..8]), word(&bytes[8..])])
    }
}

/// A mark as [`Marks`] hold it.
#[must_use]
pub const fn mark_bytes(mark: [u64; 2]) -> [u8; 16] {
    ((mark[1] as u128) << 64 | mark[0] as u128).to_le_bytes()
}

/// Turns by their names for ever, as a record holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uids<'a>(&'a [[u8; 8]]);

impl Uids<'_> {
    /// Each, in the order of admission.
    pub fn iter(&self) -> impl Iterator<Item = Uid> {
        self.0.iter().map(|bytes| Uid(u64::from_le_bytes(*bytes)))
    }
}

impl<'a> Uids<'a> {
    /// These, each as the bytes of [`uid_bytes`].
    #[must_use]
    pub const fn new(bytes: &'a [[u8; 8]]) -> Self {
        Self(bytes)
    }
}

/// A name for ever as [`Uids`] hold it.
#[must_use]
pub const fn uid_bytes(uid: Uid) -> [u8; 8] {
    uid.0.to_le_bytes()
}

/// Something that must not be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message was admitted.
    Accepted(Accepted<'a>),
    /// Its whole answer is known. From here on no model is asked again.
    Reply {
        /// The turn.
        uid: Uid,
        /// How the turn ends once the answer is delivered.
        verdict: Outcome,
        /// The session's agent remembers it.
        history: bool,
        /// Bytes of the message that it answers. Where the record was lost by which others were joined with it, this is
        /// no answer to what is known.
        asked: u32,
        /// The answer.
        text: &'a str,
    },
    /// The platform confirmed a part of the answer.
    Delivered {
        /// The turn.
        uid: Uid,
        /// Which part, from 0.
        part: u16,
        /// The platform's id of the message that it became; empty where it said none.
        message: &'a str,
    },
    /// The platform shows what was said so far of the answer in this message.
    Shown {
        /// The turn.
        uid: Uid,
        /// The platform's id of the message.
        message: &'a str,
    },
    /// The turn is over.
    Settled {
        /// The turn.
        uid: Uid,
        /// How it ended.
        outcome: Outcome,
        /// Attempts at what failed in the end.
        attempts: u16,
        /// Whoever failed in its own words, bounded; may be empty.
        detail: &'a str,
    },
    /// A channel that is polled or streamed was read up to here.
    Cursor {
        /// The channel's name.
        channel: &'a str,
        /// The platform's own word for the place.
        value: &'a str,
    },
    /// An operator had a session forget what was said.
    Forgot(Forgot<'a>),
    /// An event id was seen, and its message is over: written where the record of that was lost on the way to the disk.
    Seen {
        /// Its mark.
        mark: [u64; 2],
        /// When: Unix milliseconds.
        unix_millis: u64,
    },
    /// An operator dropped a dead letter: what records before this one say of its end makes none of it.
    Dropped {
        /// The turn that it was.
        uid: Uid,
    },
}

/// A session was reset, or closed: what records before this one say of it must not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgot<'a> {
    /// The name of this change for ever.
    pub uid: Uid,
    /// What was said under an earlier name is forgotten.
    pub from: Uid,
    /// The session is forgotten as a whole.
    pub closed: bool,
    /// Direct or group.
    pub scope: Scope,
    /// Messages so far.
    pub messages: u32,
    /// When it began: Unix milliseconds.
    pub created_millis: u64,
    /// When somebody spoke last: Unix milliseconds.
    pub active_millis: u64,
    /// The channel's name.
    pub channel: &'a str,
    /// As in [`crate::event::Inbound`].
    pub chat: &'a str,
    /// As in [`crate::event::Inbound`].
    pub thread: &'a str,
    /// As in [`crate::event::Inbound`].
    pub peer: &'a str,
    /// The agent that an operator gave it; empty for none.
    pub agent: &'a str,
    /// The name of the mode that an operator gave it; empty for none.
    pub mode: &'a str,
}

impl Forgot<'_> {
    /// The hash of the session that it tells of. It names that session itself, and not an account that wrote in it: what
    /// was closed before an account was linked is no word about the conversation that it shares now.
    #[must_use]
    pub fn session_hash(&self, secret: &Secret) -> u64 {
        let Self { channel, scope, peer, chat, thread, .. } = *self;
        session_hash(secret, channel, scope, peer, chat, thread)
    }
}

const ACCEPTED: u8 = 1;
const REPLY: u8 = 2;
const DELIVERED: u8 = 3;
const SETTLED: u8 = 4;
const CURSOR: u8 = 5;
const FORGOT: u8 = 6;
const SEEN: u8 = 7;
const DROPPED: u8 = 8;
const SHOWN: u8 = 9;

impl<'a> Record<'a> {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Accepted(ref accepted) => encode_accepted(accepted, out),
            Self::Reply { uid, verdict, history, asked, text } => {
                out.push(REPLY);
                put(out, &uid.0.to_le_bytes());
                put_outcome(out, verdict);
                out.push(u8::from(history));
                put(out, &asked.to_le_bytes());
                put_text(out, text);
            }
            Self::Delivered { uid, part, message } => {
                out.push(DELIVERED);
                put(out, &uid.0.to_le_bytes());
                put(out, &part.to_le_bytes());
                put_text(out, message);
            }
            Self::Shown { uid, message } => {
                out.push(SHOWN);
                put(out, &uid.0.to_le_bytes());
                put_text(out, message);
            }
            Self::Settled { uid, outcome, attempts, detail } => {
                out.push(SETTLED);
                put(out, &uid.0.to_le_bytes());
                put_outcome(out, outcome);
                put(out, &attempts.to_le_bytes());
                put_text(out, detail);
            }
            Self::Cursor { channel, value } => {
                out.push(CURSOR);
                put_text(out, channel);
                put_text(out, value);
            }
            Self::Forgot(ref forgot) => encode_forgot(forgot, out),
            Self::Seen { mark, unix_millis } => {
                out.push(SEEN);
                mark.iter().chain([&unix_millis]).for_each(|word| put(out, &word.to_le_bytes()));
            }
            Self::Dropped { uid } => {
                out.push(DROPPED);
                put(out, &uid.0.to_le_bytes());
            }
        }
    }

    /// Reads a record; `None` for what is none of this version.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader { rest: bytes };
        let record = match from.byte()? {
            ACCEPTED => Self::Accepted(decode_accepted(&mut from)?),
            REPLY => Self::Reply {
                uid: from.uid()?,
                verdict: from.outcome()?,
                history: from.flag()?,
                asked: u32::from_le_bytes(from.take()?),
                text: from.text()?,
            },
            DELIVERED => Self::Delivered { uid: from.uid()?, part: from.short()?, message: from.text()? },
            SETTLED => Self::Settled {
                uid: from.uid()?,
                outcome: from.outcome()?,
                attempts: from.short()?,
                detail: from.text()?,
            },
            CURSOR => Self::Cursor { channel: from.text()?, value: from.text()? },
            FORGOT => Self::Forgot(decode_forgot(&mut from)?),
            SEEN => Self::Seen { mark: [from.long()?, from.long()?], unix_millis: from.long()? },
            SHOWN => Self::Shown { uid: from.uid()?, message: from.text()? },
            DROPPED => Self::Dropped { uid: from.uid()? },
            _ => return None,
        };
        from.rest.is_empty().then_some(record)
    }
}

fn encode_accepted(accepted: &Accepted<'_>, out: &mut Vec<u8>) {
    let Accepted { uid, unix_millis, scope, mode, class, outbound, replayed, answered, ending, .. } =
        *accepted;
    out.push(ACCEPTED);
    put(out, &uid.0.to_le_bytes());
    put(out, &unix_millis.to_le_bytes());
    let scope = scope_byte(scope);
    let mode = match mode {
        Mode::Stream => 0,
        Mode::Whole => 1,
        Mode::Deliver => 2,
    };
    let Accepted { channel, agent, id, chat, thread, peer, name, text, took, seen, .. } = *accepted;
    let (has_taken, has_seen) = (!took.0.is_empty(), !seen.0.is_empty());
    let flags = u8::from(outbound)
        | u8::from(replayed) << 1
        | u8::from(has_taken) << 2
        | u8::from(answered) << 3
        | u8::from(has_seen) << 4
        | u8::from(ending) << 5;
    put(out, &[scope, mode, class as u8, flags]);
    for text in [channel, agent, id, chat, thread, peer, name, text] {
        put_text(out, text);
    }
    if has_taken {
        put_len(out, took.0.len());
        put(out, took.0.as_flattened());
    }
    if has_seen {
        put_len(out, seen.0.len());
        put(out, seen.0.as_flattened());
    }
}

fn decode_accepted<'a>(from: &mut Reader<'a>) -> Option<Accepted<'a>> {
    let (uid, unix_millis) = (from.uid()?, from.long()?);
    let scope = from.scope()?;
    let mode = match from.byte()? {
        0 => Mode::Stream,
        1 => Mode::Whole,
        2 => Mode::Deliver,
        _ => return None,
    };
    let class = match from.byte()? {
        0 => Class::Low,
        1 => Class::Normal,
        2 => Class::Vip,
        _ => return None,
    };
    let flags = from.byte().filter(|flags| *flags <= 63)?;
    Some(Accepted {
        uid,
        unix_millis,
        scope,
        mode,
        class,
        outbound: flags & 1 != 0,
        replayed: flags & 2 != 0,
        answered: flags & 8 != 0,
        ending: flags & 32 != 0,
        channel: from.text()?,
        agent: from.text()?,
        id: from.text()?,
        chat: from.text()?,
        thread: from.text()?,
        peer: from.text()?,
        name: from.text()?,
        text: from.text()?,
        took: if flags & 4 == 0 { Uids::default() } else { Uids(from.list()?) },
        seen: if flags & 16 == 0 { Marks::default() } else { Marks(from.list()?) },
    })
}

fn encode_forgot(forgot: &Forgot<'_>, out: &mut Vec<u8>) {
    let Forgot { uid, from, closed, scope, messages, created_millis, active_millis, .. } = *forgot;
    out.push(FORGOT);
    for number in [uid.0, from.0, created_millis, active_millis] {
        put(out, &number.to_le_bytes());
    }
    put(out, &messages.to_le_bytes());
    put(out, &[u8::from(closed), scope_byte(scope)]);
    let Forgot { channel, chat, thread, peer, agent, mode, .. } = *forgot;
    for text in [channel, chat, thread, peer, agent, mode] {
        put_text(out, text);
    }
}

fn decode_forgot<'a>(from: &mut Reader<'a>) -> Option<Forgot<'a>> {
    let (uid, since, created_millis, active_millis) = (from.uid()?, from.uid()?, from.long()?, from.long()?);
    Some(Forgot {
        uid,
        from: since,
        created_millis,
        active_millis,
        messages: from.take().map(u32::from_le_bytes)?,
        closed: from.flag()?,
        scope: from.scope()?,
        channel: from.text()?,
        chat: from.text()?,
        thread: from.text()?,
        peer: from.text()?,
        agent: from.text()?,
        mode: from.text()?,
    })
}

const fn scope_byte(scope: Scope) -> u8 {
    match scope {
        Scope::Direct => 0,
        Scope::Group => 1,
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    put(out, text.as_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put(out, &u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_outcome(out: &mut Vec<u8>, outcome: Outcome) {
    let (kind, code) = match outcome {
        Outcome::Answered => (0_u8, 0),
        Outcome::Failed(code) => (1, code as u16),
        Outcome::Cancelled => (2, 0),
        Outcome::Dead(code) => (3, code as u16),
        Outcome::Merged => (4, 0),
    };
    out.push(kind);
    put(out, &code.to_le_bytes());
}

/// What is left of a record.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        self.byte().filter(|byte| *byte <= 1).map(|byte| byte == 1)
    }

    fn short(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn scope(&mut self) -> Option<Scope> {
        match self.byte()? {
            0 => Some(Scope::Direct),
            1 => Some(Scope::Group),
            _ => None,
        }
    }

    fn uid(&mut self) -> Option<Uid> {
        self.long().map(Uid)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.take().map(u32::from_le_bytes)?;
        let (text, rest) = self.rest.split_at_checked(len as usize)?;
        self.rest = rest;
        core::str::from_utf8(text).ok()
    }

    /// At least one, as is written.
    fn list<const N: usize>(&mut self) -> Option<&'a [[u8; N]]> {
        let len = self.take().map(u32::from_le_bytes).filter(|len| *len != 0)?;
        let (list, rest) = self.rest.split_at_checked((len as usize).checked_mul(N)?)?;
        self.rest = rest;
        Some(list.as_chunks().0)
    }

    fn outcome(&mut self) -> Option<Outcome> {
        let (kind, number) = (self.byte()?, self.short()?);
        // A code of a later version is still a failure.
        let code = Code::ALL.iter().copied().find(|code| *code as u16 == number).unwrap_or(Code::Internal);
        Some(match kind {
            0 => Outcome::Answered,
            1 => Outcome::Failed(code),
            2 => Outcome::Cancelled,
            3 => Outcome::Dead(code),
            4 => Outcome::Merged,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn each() -> [Record<'static>; 15] {
        let uid = Uid(0x0102_0304_0506_0708);
        let accepted = Accepted {
            uid,
            unix_millis: 1_790_000_000_123,
            scope: Scope::Group,
            mode: Mode::Deliver,
            class: Class::Vip,
            outbound: false,
            replayed: true,
            answered: true,
            ending: false,
            channel: "telegram",
            agent: "main",
            id: "77",
            chat: "-100",
            thread: "4",
            peer: "9",
            name: "Żółw",
            text: "good evening 🌆",
            took: Uids::default(),
            seen: Marks::default(),
        };
        const TOOK: [[u8; 8]; 2] = [uid_bytes(Uid(5)), uid_bytes(Uid(u64::MAX))];
        const SEEN: [[u8; 16]; 2] = [mark_bytes([1, 2]), mark_bytes([u64::MAX, 3])];
        [
            Record::Accepted(accepted),
            Record::Accepted(Accepted { outbound: true, replayed: false, ..Accepted::default() }),
            Record::Accepted(Accepted { took: Uids::new(&TOOK), ending: true, ..accepted }),
            Record::Accepted(Accepted { took: Uids::new(&TOOK), seen: Marks::new(&SEEN), ..accepted }),
            Record::Settled { uid, outcome: Outcome::Merged, attempts: 0, detail: "" },
            Record::Reply {
                uid,
                verdict: Outcome::Failed(Code::ReplyTooLong),
                history: true,
                asked: 2,
                text: "so",
            },
            Record::Delivered { uid, part: 258, message: "4711" },
            Record::Shown { uid, message: "4711" },
            Record::Settled { uid, outcome: Outcome::Dead(Code::DeliveryFailed), attempts: 3, detail: "403" },
            Record::Settled { uid, outcome: Outcome::Cancelled, attempts: 0, detail: "" },
            Record::Cursor { channel: "telegram", value: "815" },
            Record::Forgot(Forgot {
                uid,
                from: Uid(7),
                closed: false,
                scope: Scope::Group,
                messages: 300,
                created_millis: 1_790_000_000_123,
                active_millis: 1_790_000_000_124,
                channel: "telegram",
                chat: "-100",
                thread: "4",
                peer: "",
                agent: "main",
                mode: "collect",
            }),
            Record::Forgot(Forgot { uid, closed: true, channel: "api", peer: "ann", ..Forgot::default() }),
            Record::Seen { mark: [7, u64::MAX], unix_millis: 1_790_000_000_123 },
            Record::Dropped { uid: Uid(77) },
        ]
    }

    #[test]
    fn each_is_read_as_it_was_written() {
        for record in each() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes), Some(record));
        }
    }

    #[test]
    fn marks_come_out_as_they_went_in() {
        let marks = [[0x0102_0304_0506_0708, u64::MAX], [0, 7]];
        let bytes = marks.map(mark_bytes);
        assert!(Marks::new(&bytes).iter().eq(marks));
    }

    #[test]
    fn no_part_of_one_is_another() {
        for record in each() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for len in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..len]), None, "{record:?} cut to {len}");
            }
            bytes.push(0);
            assert_eq!(Record::decode(&bytes), None, "{record:?} and a byte");
        }
    }

    #[test]
    fn damaged_bytes_are_read_or_not_but_do_no_harm() {
        let mut random = crate::random::Random::new(5);
        for record in each() {
            for _ in 0..2_000 {
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
                let _ = Record::decode(&bytes);
            }
        }
        assert_eq!(Record::decode(&[99, 1, 2]), None, "a kind of a later version");
    }
}

//! What a shard asks its shell to do: plain values, compared in tests.
use crate::codes::Code;
use crate::event::{Stop, Usage};
use crate::id::{AgentId, CallId, ChannelId, Client, ModelId, SessionId, ShardId, TurnId, Uid};
use crate::record::Record;
use alloc::string::String;
use alloc::vec::Vec;

/// A text inside [`Effects`]; read it with [`Effects::text`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Where it begins.
    pub start: u32,
    /// Its bytes.
    pub len: u32,
}

/// Why a message was taken but not answered. The platform is told that all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// `dmPolicy` is `disabled`, or `allowlist` and the sender is not on it.
    Sender,
    /// The group is not allowed.
    Group,
    /// A group message that does not address the bot, on a channel with mention gating.
    Unmentioned,
    /// A kind that no agent is asked about (edit, deletion, reaction, membership, failure): published only.
    Kind,
    /// It has no text.
    Empty,
}

/// What a listener is told (row C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// `message.received`: the text is the message's.
    Received,
    /// `message.routed`: the text is the agent's name.
    Routed,
    /// `response.generated`: the text is the whole answer (empty where the shard did not keep it).
    Generated,
    /// `response.delivered`.
    Delivered,
    /// `session.created`.
    Created,
    /// `session.updated`: the text says what (`processing`, `waiting`, `idle`, `reset`, `closed`, …).
    Updated,
    /// `failure`: the text is the code's name.
    Failed,
}

/// How a turn ended, for counters and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered in full.
    Answered,
    /// The client was told of a failure.
    Failed(Code),
    /// The client left or an operator stopped it.
    Cancelled,
    /// The platform did not take the answer: for the dead letters.
    Dead(Code),
    /// Its message is answered by another turn of its session, together with that one's.
    Merged,
}

/// What is kept of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// What was said in a turn joins the history. A row that is there already stays as it is.
    Said {
        /// The turn.
        uid: Uid,
        /// What the person wrote; empty for an operator's words.
        text: Span,
        /// What the agent answered.
        reply: Span,
    },
    /// The session's own data: read it with `Shard::session` and `Shard::memory`. A later `revision` wins.
    Session {
        /// Grows.
        revision: Uid,
        /// History before this is forgotten.
        history_from: Uid,
    },
    /// The session and its history are forgotten.
    Closed {
        /// Grows.
        revision: Uid,
    },
    /// An event id was seen.
    Seen {
        /// Its mark.
        mark: [u64; 2],
        /// When: Unix milliseconds.
        unix_millis: u64,
    },
    /// A message could not be answered, or its answer not delivered: a dead letter.
    Dead(Dead),
    /// A dead letter was taken up again: it is none any more.
    Revived {
        /// The turn.
        uid: Uid,
    },
}

/// A dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The message, as an `Accepted` record: its session may be forgotten by now. See [`Effects::bytes`].
    pub record: Span,
    /// Why.
    pub code: Code,
    /// Attempts at what failed in the end.
    pub attempts: u16,
    /// The answer is known (`reply`); only its delivery failed.
    pub answered: bool,
    /// Parts of the answer that were confirmed.
    pub parts: u16,
    /// Whoever failed in its own words.
    pub detail: Span,
    /// The answer, if it is known.
    pub reply: Span,
}

/// Something for the shell to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The message is admitted: acknowledge it. Exactly one `Settled` follows for this turn, sooner or later.
    Accepted {
        /// Who sent it.
        client: Client,
        /// The turn that will answer it.
        turn: TurnId,
        /// Its session.
        session: SessionId,
        /// How many of its session are before it; 0 if it runs at once.
        ahead: u16,
        /// Its place among those of this shard that wait for their agent, from 1; 0 where it waits for no place there, or
        /// behind others of its session first.
        place: u32,
        /// It is being written: `Durable` follows once it is on disk, and that is when it may be acknowledged.
        durable: bool,
        /// It was answered before, and its answer is said once more.
        again: bool,
    },
    /// It was admitted before, and whoever sent it then is gone: its answer is this client's from here on. `Send` with
    /// all that was said so far follows.
    Attached {
        /// Who sent it again.
        client: Client,
        /// The turn that answers it.
        turn: TurnId,
        /// Its session.
        session: SessionId,
        /// `Durable` follows.
        durable: bool,
    },
    /// An admitted message is on disk: acknowledge it.
    Durable {
        /// Who sent it.
        client: Client,
        /// Its turn. May be over by now.
        turn: TurnId,
    },
    /// It was admitted before: acknowledge it again, answer nothing.
    Duplicate {
        /// Who sent it.
        client: Client,
    },
    /// Policy lets it in no further: acknowledge it, answer nothing.
    Ignored {
        /// Who sent it.
        client: Client,
        /// Why.
        why: Ignored,
    },
    /// It was not admitted: say so, and when to come back.
    Refused {
        /// Who sent it.
        client: Client,
        /// Why: one of 1xxx to 3xxx, or `UPSTREAM_UNAVAILABLE`.
        code: Code,
        /// When it may be tried again, milliseconds; 0 for "not by waiting".
        retry_after_millis: u32,
    },
    /// Call the model. Read the prompt with `Shard::prompt`. Answered by `Piece`s and one `Ended`.
    Start {
        /// The call.
        call: CallId,
        /// The agent that asks.
        agent: AgentId,
        /// The model to call.
        model: ModelId,
    },
    /// Ask the model of this call once more.
    Ask {
        /// The call.
        call: CallId,
        /// Not before so many milliseconds have passed: its minute is spent.
        after_millis: u32,
    },
    /// Stop this call; nothing of it is wanted any more. An `Ended` for it may still come and is dropped.
    Cancel {
        /// The call.
        call: CallId,
        /// One of its clocks ran out: its model failed.
        overdue: bool,
    },
    /// Stop reading from the model until `Resume`. What was on the wire may still come.
    Pause {
        /// The call.
        call: CallId,
    },
    /// Read again.
    Resume {
        /// The call.
        call: CallId,
    },
    /// A piece for the client.
    Send {
        /// Who waits for it.
        client: Client,
        /// The turn.
        turn: TurnId,
        /// Counts the turn's sends from 1, without gaps.
        seq: u32,
        /// The text.
        text: Span,
    },
    /// The answer is complete.
    Finish {
        /// Who waits for it.
        client: Client,
        /// The turn.
        turn: TurnId,
        /// One more than the last `Send`'s.
        seq: u32,
        /// The whole text for `Mode::Whole`, empty for `Mode::Stream`.
        text: Span,
        /// Token counts.
        usage: Usage,
        /// The model that answered.
        model: ModelId,
        /// Why it stopped.
        stop: Stop,
    },
    /// The message is answered together with another of its session, to that one's client. Where that is written, it comes
    /// once it is on disk, and its turn is over before.
    Merged {
        /// Who waits.
        client: Client,
        /// The turn.
        turn: TurnId,
        /// One more than the last `Send`'s: there was none.
        seq: u32,
        /// The turn that answers both.
        into: TurnId,
    },
    /// There will be no (complete) answer.
    Fail {
        /// Who waits for it.
        client: Client,
        /// The turn.
        turn: TurnId,
        /// One more than the last `Send`'s.
        seq: u32,
        /// Why.
        code: Code,
        /// The upstream's own words; may be empty.
        detail: Span,
        /// When it may be tried again, milliseconds; 0 for "not by waiting".
        retry_after_millis: u32,
    },
    /// Post this part of the answer to the platform. Read the address with `Shard::address`. Answered by `Delivered`.
    Deliver {
        /// The turn.
        turn: TurnId,
        /// The channel to post by.
        channel: ChannelId,
        /// The turn's name for ever: with `part` the same for all attempts, also those after a restart.
        uid: Uid,
        /// Counts the parts from 0; [`crate::preview::PREVIEW`] for the first one as far as it is known yet.
        part: u16,
        /// Counts the attempts at this part from 0.
        attempt: u16,
        /// The text of the part.
        text: Span,
        /// The platform's id of the message that it takes the place of; empty where it is posted as a new one.
        edits: Span,
    },
    /// The turn is over; its id is dead. Comes exactly once for each `Accepted`, after `Finish`, `Merged` (unless that
    /// waits for the disk), `Fail` or the last `Delivered`.
    Settled {
        /// The turn.
        turn: TurnId,
        /// Its session.
        session: SessionId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Tell the listeners. Comes only while `Listeners { any: true }`.
    Publish {
        /// What happened.
        notice: Notice,
        /// To which session; its address is still readable when this effect is executed.
        session: SessionId,
        /// In which turn; `TurnId::default()` for none.
        turn: TurnId,
        /// See [`Notice`].
        text: Span,
    },
    /// The operation was carried out (`None`) or refused.
    Operated {
        /// Who asked.
        client: Client,
        /// Why not, if it was not.
        refused: Option<Code>,
    },
    /// Tell that shard `Event::Nudged`: a place at this agent is free, and it waits for one. It must arrive: nothing else
    /// wakes whoever waits there.
    Nudge {
        /// The shard.
        shard: ShardId,
        /// The agent.
        agent: AgentId,
    },
    /// Write this record to the journal. Answered by `Event::Durable` once it is on disk.
    Append {
        /// Its number: one more than the last one's.
        lsn: u64,
        /// Its bytes; see [`Effects::bytes`].
        record: Span,
    },
    /// Ask the store for this session. It sees all that was saved of it before. Answered by `Event::Loaded`.
    Load {
        /// The session.
        session: SessionId,
    },
    /// Ask the store whether it knows this event id: a message waits for that. Answered by `Event::Sighted`.
    LookUp {
        /// Which message: a number that grows.
        lookup: u64,
        /// The mark of the id.
        mark: [u64; 2],
        /// What was seen before this does not count: Unix milliseconds.
        since_millis: u64,
    },
    /// Save this in the store, in order. Confirmed by `Event::Saved`.
    Save {
        /// Its number: one more than the last one's.
        save: u64,
        /// Whose it is; its address is still readable when this effect is executed.
        session: SessionId,
        /// Records of the journal are kept until it is confirmed; what is not needed so may be lost when too much waits.
        needed: bool,
        /// What.
        saved: Saved,
    },
    /// A model's breaker changed its state, for the log and the metrics.
    Breaker {
        /// The model.
        model: ModelId,
        /// Closed lets calls pass, open lets none, half-open lets probes.
        state: crate::breaker::State,
    },
}

/// The effects of one `handle` or `tick`, with the texts that they refer to. Reused, so that nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    list: Vec<Effect>,
    texts: String,
    records: Vec<u8>,
}

impl Effects {
    /// None, with no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Vec::new(), texts: String::new(), records: Vec::new() }
    }

    /// Adds one.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Keeps a text for an effect of this drain. This is the one copy of a piece on its way out.
    pub fn keep(&mut self, text: &str) -> Span {
        let span = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let start = span(self.texts.len());
        self.texts.push_str(text);
        Span { start, len: span(text.len()) }
    }

    /// As [`Self::keep`], for a text that is put together: `write` appends it, and appends nothing else.
    pub fn keep_written(&mut self, write: impl FnOnce(&mut String)) -> Span {
        let span = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let start = self.texts.len();
        write(&mut self.texts);
        Span { start: span(start), len: span(self.texts.len().saturating_sub(start)) }
    }

    /// Keeps a record's bytes for an effect of this drain.
    pub fn keep_record(&mut self, record: &Record<'_>) -> Span {
        let span = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let start = self.records.len();
        record.encode(&mut self.records);
        Span { start: span(start), len: span(self.records.len() - start) }
    }

    /// The bytes of a record that [`Self::keep_record`] kept since the last [`Self::clear`]; none for any other.
    #[must_use]
    pub fn bytes(&self, record: Span) -> &[u8] {
        let start = record.start as usize;
        self.records.get(start..start + record.len as usize).unwrap_or_default()
    }

    /// The text of a span that [`Self::keep`] returned since the last [`Self::clear`]; empty for any other.
    #[must_use]
    pub fn text(&self, span: Span) -> &str {
        let start = span.start as usize;
        self.texts.get(start..start + span.len as usize).unwrap_or_default()
    }

    /// The effects in the order in which they must be carried out.
    #[must_use]
    pub fn list(&self) -> &[Effect] {
        &self.list
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.texts.clear();
        self.records.clear();
    }

    /// Is there nothing to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

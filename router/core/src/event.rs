//! What can happen to a shard: the one closed list of inputs.
use crate::codes::Code;
use crate::effect::Outcome;
use crate::id::{AccountId, AgentId, CallId, ChannelId, Client, ModelId, SessionId, TurnId, Uid};
use crate::log::JournalState;
use crate::plan::RunningMode;
use crate::record::Accepted;
use crate::view::Role;
use core::time::Duration;

/// What kind of thing a platform told us; adapters map every platform to these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Plain text for the agent.
    #[default]
    Message,
    /// A text that begins with a command (`/start`).
    Command,
    /// A text that addresses the bot in a group.
    Mention,
    /// A button, card or approval was used.
    Interaction,
    /// A message was changed after it was sent.
    Edit,
    /// A message was deleted.
    Deletion,
    /// A reaction was set or removed.
    Reaction,
    /// Someone joined or left, or the bot did.
    Membership,
    /// The platform reports that something of ours failed.
    Failure,
}

/// Who can read the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One person and the bot; the session belongs to the peer.
    #[default]
    Direct,
    /// Many people; the session belongs to the chat.
    Group,
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Piece by piece to the waiting client ([`crate::effect::Effect::Send`]).
    #[default]
    Stream,
    /// Whole, to the waiting client, with [`crate::effect::Effect::Finish`].
    Whole,
    /// By a call to the platform ([`crate::effect::Effect::Deliver`]); the client only learns that it was accepted.
    Deliver,
}

/// What a message's text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content(pub u8);

impl Content {
    /// What somebody wrote.
    pub const WORDS: Self = Self(0);

    /// Is it what somebody wrote? All else are whole requests to a model, in forms that the shell numbers: the session's
    /// past does not go with them and they leave nothing in it, they are answered each by itself, and what is said in
    /// answer is the shell's to read.
    #[must_use]
    pub const fn is_words(self) -> bool {
        self.0 == 0
    }
}

/// Which queue a waiting message stands in. Higher classes are started more often, none never (see [`crate::queue`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Weight 1.
    Low,
    /// Weight 4.
    #[default]
    Normal,
    /// Weight 16: people who pay, or wait on a phone.
    Vip,
}

/// A well-formed message from a platform, borrowed from the frame that it came in. It exists only if it is valid:
/// texts are UTF-8 and within the limits of the adapter that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// The platform's own id of this event, for deduplication; empty where it has none.
    pub id: &'a str,
    /// The conversation, where an answer goes; empty where the peer says it all.
    pub chat: &'a str,
    /// The thread or topic in the chat, or the client's session id; empty for none.
    pub thread: &'a str,
    /// Who wrote, as the platform's stable id.
    pub peer: &'a str,
    /// Who wrote, as people see it; empty where unknown.
    pub name: &'a str,
    /// What was written.
    pub text: &'a str,
    /// When it was written: Unix milliseconds; 0 where unknown.
    pub sent_millis: u64,
    /// The configured channel that it came by.
    pub channel: ChannelId,
    /// What it is.
    pub kind: Kind,
    /// Who reads along.
    pub scope: Scope,
    /// It addresses the bot: a mention, a reply to the bot, or a command to it.
    pub mentioned: bool,
    /// How its answer travels.
    pub mode: Mode,
    /// Its priority.
    pub class: Class,
    /// The agent that the client asked for, before all that the configuration says; for this turn alone.
    pub agent: Option<AgentId>,
    /// The client asks to be told once the message is on disk; from then on it is answered even if the client leaves.
    /// What a platform sends ([`Mode::Deliver`]) is treated so always.
    pub receipt: bool,
    /// What the text is.
    pub content: Content,
    /// The session was made up for this message: it is forgotten when nothing else came for it.
    pub fleeting: bool,
    /// Who pays for it.
    pub account: AccountId,
}

const _: () = assert!(size_of::<Inbound<'_>>() <= 128, "row C1: at most 128 bytes beside the payload");

/// What of an [`Inbound`] is no text: with its texts, kept anywhere, it is the message again.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    sent_millis: u64,
    channel: ChannelId,
    kind: Kind,
    scope: Scope,
    mentioned: bool,
    mode: Mode,
    class: Class,
    agent: Option<AgentId>,
    receipt: bool,
    content: Content,
    fleeting: bool,
    account: AccountId,
}

impl<'a> Inbound<'a> {
    /// The message in two: what is no text, and its texts, in the order that [`Head::with`] wants them. Whoever keeps a
    /// message longer than the frame that it came in does it by these, so that nothing of it is forgotten on the way.
    #[must_use]
    pub const fn split(&self) -> (Head, [&'a str; 6]) {
        // Without `..`: a new field must be thought of here.
        let Self {
            id,
            chat,
            thread,
            peer,
            name,
            text,
            sent_millis,
            channel,
            kind,
            scope,
            mentioned,
            mode,
            class,
            agent,
            receipt,
            content,
            fleeting,
            account,
        } = *self;
        let head = Head {
            sent_millis,
            channel,
            kind,
            scope,
            mentioned,
            mode,
            class,
            agent,
            receipt,
            content,
            fleeting,
            account,
        };
        (head, [id, chat, thread, peer, name, text])
    }
}

impl Head {
    /// The message again.
    #[must_use]
    pub const fn with<'a>(&self, [id, chat, thread, peer, name, text]: [&'a str; 6]) -> Inbound<'a> {
        let Self {
            sent_millis,
            channel,
            kind,
            scope,
            mentioned,
            mode,
            class,
            agent,
            receipt,
            content,
            fleeting,
            account,
        } = *self;
        Inbound {
            id,
            chat,
            thread,
            peer,
            name,
            text,
            sent_millis,
            channel,
            kind,
            scope,
            mentioned,
            mode,
            class,
            agent,
            receipt,
            content,
            fleeting,
            account,
        }
    }
}

/// Something of a model's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text that people see.
    Text(&'a str),
    /// What the model thought; kept apart from the text. Counts as a sign of life.
    Reasoning(&'a str),
    /// Token counts so far; the last one counts.
    Usage(Usage),
    /// A sign of life of the model's that carries nothing to show (not a comment or ping of the transport).
    Alive,
}

/// Token counts of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens of the answer.
    pub completion: u32,
    /// The counts are our estimate, because the stream did not say.
    pub estimated: bool,
}

/// How a call to a model ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// It said all that it had to say.
    Finished(Stop),
    /// It failed.
    Failed(Failure<'a>),
}

/// Why a model stopped, when it stopped by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// The answer is complete.
    #[default]
    Complete,
    /// The model's own limit on length was reached.
    Length,
    /// The provider's filter cut it.
    Filtered,
}

/// A failed call: who failed, and may it be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// What the client is told, if it comes to that (one of 4xxx).
    pub code: Code,
    /// May the same call succeed if repeated?
    pub retry: Retry,
    /// The HTTP status that it came with, or that it says itself; 0 for none.
    pub status: u16,
    /// The upstream's own words, bounded, for the client; empty where it had none.
    pub detail: &'a str,
}

/// Whether a failed call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Here and elsewhere (reset, 5xx, time-out): again after the back-off, then the next model of the chain.
    Backoff,
    /// Not here before this time (429, 529 with Retry-After): the next model of the chain at once, else wait.
    After(Duration),
    /// Here, at once: whoever was asked is gone, and another one of the model's may answer (a worker that died). Says
    /// nothing about the model.
    AtOnce,
    /// Not here, but another model may do (404, 401, 402, 403: this key or model): the next of the chain.
    Elsewhere,
    /// Nowhere (400: the request itself).
    Never,
}

/// How an attempt to deliver a part of an answer to a platform ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<'a> {
    /// The platform confirmed it.
    Confirmed {
        /// The platform's id of the message that it became; empty where it said none.
        message: &'a str,
    },
    /// It may be tried again, not before this long.
    Retry {
        /// The platform's own word on when, zero where it said none.
        after: Duration,
        /// Its own words, bounded.
        detail: &'a str,
    },
    /// It will never be taken (chat gone, bot blocked, bad request).
    Refused {
        /// Its own words, bounded.
        detail: &'a str,
    },
}

/// What an operator does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Forget the history and the context variables.
    Reset,
    /// Cancel what runs and waits, and forget the session.
    Close,
    /// Send this text to the session's peer as the bot, in the order of the session.
    Send(&'a str),
    /// Set a context variable; an empty value removes it.
    Set {
        /// Its name.
        name: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// From the next turn on this agent answers.
    Assign(AgentId),
    /// Cancel the turn that runs.
    Stop,
    /// What becomes of messages that arrive while a turn runs; `None` for what the agent has.
    Mode(Option<RunningMode>),
}

/// A turn of the last run, or a dead letter that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored<'a> {
    /// Its message.
    pub accepted: Accepted<'a>,
    /// How it ends, and its answer, where that was known.
    pub reply: Option<(Outcome, &'a str)>,
    /// That answer joins the history, and the store may not know it yet.
    pub history: bool,
    /// Parts of the answer that the platform has confirmed.
    pub parts: u16,
    /// The platform's id of the message that the answer was shown in while it was written; empty for none.
    pub shown: &'a str,
}

/// What a store knows of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The agent that an operator gave it; empty for none.
    pub agent: &'a str,
    /// Messages in all.
    pub messages: u32,
    /// What was said, oldest first.
    pub history: &'a [(Role, &'a str)],
    /// Context variables, in the order in which they were set.
    pub context: &'a [(&'a str, &'a str)],
    /// The mode that an operator gave it.
    pub mode: Option<RunningMode>,
    /// What was said before this was forgotten by a reset.
    pub history_from: Uid,
    /// There is such a session.
    pub found: bool,
    /// When it began, Unix milliseconds; 0 where unknown.
    pub created_millis: u64,
}

/// What the store knows of an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It was never seen, or so long ago that it is forgotten.
    Never,
    /// It was seen.
    At {
        /// When: Unix milliseconds.
        unix_millis: u64,
    },
    /// The store does not say.
    Unknown,
}

/// Everything that can happen to a shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A message arrived. Answered by exactly one of `Accepted`, `Duplicate`, `Ignored`, `Refused`: at once, but for one
    /// that `Effect::LookUp` is about and those that its conversation lets in behind it.
    Inbound {
        /// Who waits for that answer.
        client: Client,
        /// The message.
        inbound: Inbound<'a>,
    },
    /// Something of an answer came. Pieces of a call that is over are dropped.
    Piece {
        /// The call that it belongs to.
        call: CallId,
        /// What came.
        piece: Piece<'a>,
    },
    /// The model of a call has called tools, and they work: until `Round` nothing is waited for of the model.
    Working {
        /// The call.
        call: CallId,
    },
    /// The model of a call is to be asked once more, with what its tools said. Answered by `Effect::Ask`, or by the end of
    /// the turn.
    Round {
        /// The call.
        call: CallId,
        /// Characters of what it is told this time, all of it.
        chars: u32,
        /// Who pays has used up its budget, which is filled again after so long; zero where there is something left.
        spent: Duration,
    },
    /// A call ended. Nothing of it comes after this.
    Ended {
        /// The call.
        call: CallId,
        /// How.
        end: End<'a>,
    },
    /// The client of this turn is gone or said stop: cancel it, running or waiting.
    Left {
        /// The turn.
        turn: TurnId,
    },
    /// The client's outbox is full (`true`) or has room again (`false`).
    Pressure {
        /// The turn whose pieces fill it.
        turn: TurnId,
        /// Full?
        high: bool,
    },
    /// An attempt to deliver ended.
    Delivered {
        /// The turn.
        turn: TurnId,
        /// Which part, as `Effect::Deliver` named it.
        part: u16,
        /// Which attempt at that part, as `Effect::Deliver` named it; late answers of earlier ones are dropped.
        attempt: u16,
        /// How.
        delivery: Delivery<'a>,
    },
    /// An operator works on a session. Answered by `Effect::Operated`.
    Operate {
        /// Who waits for the answer.
        client: Client,
        /// The session, found by [`crate::shard::Shard::find`].
        session: SessionId,
        /// What to do.
        operation: Operation<'a>,
    },
    /// Another shard gave back a place at this agent, and this shard said that it waits for one.
    Nudged {
        /// The agent.
        agent: AgentId,
    },
    /// An operator says that a model is well: its breaker closes, and that it asked for calm is forgotten.
    Forgiven {
        /// The model.
        model: ModelId,
    },
    /// A turn of the last run goes on, or a dead letter is tried again. One that a client waits for (an operator) is
    /// answered by `Effect::Operated` once it is on disk.
    Restore {
        /// Who waits; [`Client::NOBODY`] at the start.
        client: Client,
        /// The turn.
        restored: &'a Restored<'a>,
    },
    /// An operator drops a dead letter. Answered by `Effect::Operated`, once that is on disk.
    DropLetter {
        /// Who waits for the answer.
        client: Client,
        /// The turn that it was.
        uid: Uid,
    },
    /// All records up to this one are on disk.
    Durable {
        /// Its number, as `Effect::Append` named it.
        lsn: u64,
    },
    /// The journal can take no more, or can again.
    Journal {
        /// How it stands.
        state: JournalState,
    },
    /// The journal would like to forget its records up to this one: what is still needed of them is appended again. Not
    /// all at once; it asks again.
    Carry {
        /// The last of them.
        lsn: u64,
    },
    /// What the store knows of a session that `Effect::Load` asked for.
    Loaded {
        /// The session.
        session: SessionId,
        /// `None` where it could not be asked, or not in time; a session that is not in the store is an empty one.
        stored: Option<&'a Stored<'a>>,
    },
    /// What the store knows of the event id that `Effect::LookUp` asked about.
    Sighted {
        /// Its number there.
        lookup: u64,
        /// That.
        sight: Sight,
    },
    /// A session that only the store had comes back, because an operator works on it. One that is in memory stays as it
    /// is; where there is no room, it is not there afterwards either.
    Recalled {
        /// Its address, and how the bot speaks to it.
        inbound: Inbound<'a>,
        /// What the store knows of it.
        stored: &'a Stored<'a>,
    },
    /// The store has all that was saved up to this number.
    Saved {
        /// The number, as `Effect::Save` named it.
        save: u64,
    },
    /// Somebody listens to `Effect::Publish` (`true`), or nobody does.
    Listeners {
        /// Is there at least one?
        any: bool,
    },
    /// Admit nothing new; what was admitted goes on.
    Drain,
}

const _: () = assert!(size_of::<Event<'_>>() <= 160, "it is passed by value: what is large and rare is lent");

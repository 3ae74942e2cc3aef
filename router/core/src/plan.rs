//! The configuration as the core needs it: compiled once, shared by all shards, replaced as a whole.
use crate::criteria::Criteria;
use crate::dedup::Mark;
use crate::event::{Class, Scope};
use crate::home::{Secret, session_hash};
use crate::id::{AgentId, ChannelId, ModelId};
use crate::limits::Limits;
use crate::links::Links;
use crate::route::Strategy;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

/// Everything configured that decides what a shard does. Ids index the vectors.
#[derive(Debug)]
pub struct Plan {
    /// The bounds.
    pub limits: Limits,
    /// The channels, by [`ChannelId`]; at least one.
    pub channels: Vec<Channel>,
    /// The agents, by [`AgentId`]; at least one.
    pub agents: Vec<Agent>,
    /// The models, by [`ModelId`]; at least one.
    pub models: Vec<Model>,
    /// Which agent answers, where neither the session nor the channel says.
    pub route: Strategy,
    /// Accounts that share a conversation.
    pub links: Links,
}

impl Plan {
    /// Under which channel and peer the conversation with this peer is kept.
    #[must_use]
    pub fn owner<'a>(&'a self, channel: ChannelId, scope: Scope, peer: &'a str) -> (ChannelId, &'a str) {
        self.links.person(channel, scope, peer).unwrap_or((channel, peer))
    }

    /// The hash of the conversation with this peer: as [`session_hash`], of the person where accounts are linked.
    #[must_use]
    pub fn hash(
        &self,
        secret: &Secret,
        channel: ChannelId,
        scope: Scope,
        peer: &str,
        chat: &str,
        thread: &str,
    ) -> u64 {
        let (channel, peer) = self.owner(channel, scope, peer);
        session_hash(secret, &self.channel(channel).name, scope, peer, chat, thread)
    }

    /// The mark of an event id in the conversation of this hash. Ids of two linked accounts are two, whatever they say.
    #[must_use]
    pub fn mark(
        &self,
        secret: &Secret,
        channel: ChannelId,
        scope: Scope,
        peer: &str,
        (hash, id): (u64, &str),
    ) -> [u64; 2] {
        let mark = match self.links.person(channel, scope, peer) {
            None => Mark::new(secret, hash, id),
            Some(_) => {
                let account = session_hash(secret, &self.channel(channel).name, scope, peer, "", "");
                Mark::of_account(secret, hash, account, id)
            }
        };
        mark.words()
    }

    /// The channel of this id; the first one for an id that does not exist.
    #[must_use]
    pub fn channel(&self, id: ChannelId) -> &Channel {
        self.channels.get(usize::from(id.0)).unwrap_or(&self.channels[0])
    }

    /// The agent of this id; the first one for an id that does not exist.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> &Agent {
        self.agents.get(usize::from(id.0)).unwrap_or(&self.agents[0])
    }

    /// The model of this id; the first one for an id that does not exist.
    #[must_use]
    pub fn model(&self, id: ModelId) -> &Model {
        self.models.get(usize::from(id.0)).unwrap_or(&self.models[0])
    }
}

/// Who may write to the bot directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DmPolicy {
    /// Everyone.
    Open,
    /// Who is on the channel's list.
    #[default]
    Allowlist,
    /// Nobody.
    Disabled,
}

/// In which groups the bot answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupPolicy {
    /// In all that it is in.
    Open,
    /// In those on the channel's list.
    #[default]
    Allowlist,
    /// In none.
    Disabled,
}

/// In what a platform counts the length of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// UTF-16 code units (Telegram, Signal).
    Utf16,
    /// Unicode scalar values.
    #[default]
    Chars,
    /// Bytes of UTF-8.
    Bytes,
}

/// One channel.
#[derive(Debug)]
pub struct Channel {
    /// Its name in the configuration, in session ids and metrics.
    pub name: Box<str>,
    /// The longest message that the platform takes, in `unit`s; longer answers are split.
    pub text_max: u32,
    /// What `text_max` counts.
    pub unit: Unit,
    /// An answer is shown while it is written, and its message edited this often; zero where it is posted when it is whole.
    pub preview_every: Duration,
    /// Who may write directly.
    pub dm: DmPolicy,
    /// In which groups it answers.
    pub groups: GroupPolicy,
    /// Senders (for `dm`) and chats (for `groups`) that are allowed. Empty strings never match.
    pub allowed: BTreeSet<Box<str>>,
    /// In groups answer only what addresses the bot.
    pub mention_gating: bool,
    /// The agent that answers on this channel, if it has its own.
    pub agent: Option<AgentId>,
    /// The priority of what comes by it.
    pub class: Class,
}

/// One agent: who answers.
#[derive(Debug)]
pub struct Agent {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// The models it may call, in order of preference; never empty.
    pub models: Vec<ModelId>,
    /// Turns of this agent that run at once, process; 0 for no bound but `turns_max`.
    pub running_max: u32,
    /// Messages that wait for this agent, process (row E4: 1,000 by default).
    pub waiting_max: u32,
    /// Calls per turn on one model before the next of the chain is tried.
    pub attempts_max: u16,
    /// Which failures lead to the next of the chain; `None` for what the model that failed says.
    pub fallback: Option<Criteria>,
    /// Does a session keep what was said for this agent's prompts?
    pub history: bool,
    /// How much of that a prompt has.
    pub excerpt: Excerpt,
    /// A turn whose history the store does not tell in time fails; else it goes on without.
    pub needs_history: bool,
    /// What becomes of messages that arrive while a turn of their session runs.
    pub while_running: WhileRunning,
    /// A message that would wait longer than this for its place is refused, unless it comes with a burst; 0 for never (see
    /// [`crate::overload`]).
    pub wait_target: Duration,
    /// What people on a platform read where no answer can be given ([`crate::event::Mode::Deliver`]); `None` for silence.
    pub failure_text: Option<Box<str>>,
}

/// How much of what a session keeps goes into a prompt: the last messages, whole, as many as fit both bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Messages.
    pub messages_max: u16,
    /// Their tokens, estimated.
    pub tokens_max: u32,
}

impl Excerpt {
    /// All that is kept.
    pub const ALL: Self = Self { messages_max: u16::MAX, tokens_max: u32::MAX };
}

/// What becomes of messages that arrive while a turn of their session runs (see [`crate::while_running`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WhileRunning {
    /// What they do to the turn that runs, and to each other. A session may have another mode.
    pub mode: RunningMode,
    /// How many may wait in a session; 0, or more than `session_waiting_max`, for that many.
    pub cap: u16,
    /// What happens at the cap.
    pub drop: DropPolicy,
}

/// What a message does that arrives while a turn of its session runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunningMode {
    /// It has its own turn after that one.
    #[default]
    Followup,
    /// All that wait when that one ends are answered by one turn.
    Collect,
    /// It joins the turn that runs, as long as nothing of its answer was shown; else as `Collect`.
    Steer,
    /// The turn that runs is cancelled.
    Interrupt,
}

impl RunningMode {
    /// All, in the order in which they are documented.
    pub const ALL: [Self; 4] = [Self::Followup, Self::Collect, Self::Steer, Self::Interrupt];

    /// The name in the configuration and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Followup => "followup",
            Self::Collect => "collect",
            Self::Steer => "steer",
            Self::Interrupt => "interrupt",
        }
    }
}

/// What gives way where as many messages of a session wait as may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DropPolicy {
    /// The one that comes: it is refused.
    #[default]
    Newest,
    /// The one that waits for longest: its client is told, a platform's becomes a dead letter.
    Oldest,
    /// None: the last that waits is answered together with the one that comes.
    Merge,
}

/// One model: an upstream that can be called.
#[derive(Debug)]
pub struct Model {
    /// Its name in the configuration, in answers and metrics.
    pub name: Box<str>,
    /// Calls that run at once, process; 0 for no bound.
    pub running_max: u32,
    /// Calls that begin in a minute, process; 0 for no bound. Turns wait for them as for a place.
    pub requests_per_minute: u32,
    /// Tokens of prompts and answers in a minute, process; 0 for no bound. Those of the prompt are estimated beforehand,
    /// and what was used is charged afterwards.
    pub tokens_per_minute: u32,
    /// From `Start` to the first sign of life (connect and response header), which the shell reports as `Alive`.
    pub header_age_max: Duration,
    /// From `Start` to the first text or thought.
    pub first_piece_age_max: Duration,
    /// Between two pieces.
    pub silence_max: Duration,
    /// For the whole call.
    pub call_age_max: Duration,
    /// Which of its failures are tried again on it; `None` for those that may be over in a moment.
    pub retry: Option<Criteria>,
    /// Which of its failures lead to the next of a chain, where the agent does not say; `None` for all that another model
    /// might not have.
    pub fallback: Option<Criteria>,
    /// When it counts as broken.
    pub breaker: BreakerPlan,
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPlan {
    /// Calls in the window before the rates mean anything.
    pub calls_min: u32,
    /// Opens at this share of failed calls, per cent; 0 never opens.
    pub failed_percent: u8,
    /// A call that takes longer than this to its first piece is slow.
    pub slow_after: Duration,
    /// Opens at this share of slow calls, per cent; 0 never opens for that.
    pub slow_percent: u8,
    /// The rolling window.
    pub window: Duration,
    /// First time open; doubles with each failed probe.
    pub open_min: Duration,
    /// Longest time open.
    pub open_max: Duration,
    /// Probes that must succeed, and may run at once, while half open.
    pub probes: u16,
}

//! What the shell reads from a shard: borrowed views, never a handle to change it.
use crate::breaker;
use crate::counters::Counters;
use crate::event::{Class, Content, Inbound, Scope};
use crate::history::{take_piece, take_said};
use crate::id::{AccountId, AgentId, ChannelId, ModelId, SessionId, TurnId, Uid};
use crate::plan::RunningMode;
use crate::session::Session;
use crate::shard::Shard;
use crate::time::Time;
use crate::turn;
use alloc::vec::Vec;
use core::time::Duration;

/// Who said a message of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A person.
    User,
    /// The agent.
    Agent,
}

/// Where a session's answers go. Empty texts are unknown or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The channel.
    pub channel: ChannelId,
    /// Direct or group.
    pub scope: Scope,
    /// The chat: the group's, or the one that a direct session's peer wrote in last.
    pub chat: &'a str,
    /// The thread or topic, or the client's session id.
    pub thread: &'a str,
    /// The peer of a direct session; empty in a group, which belongs to nobody.
    pub peer: &'a str,
}

/// Context variables in the order in which they were set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Variables<'a>(pub(crate) &'a str);

impl<'a> Iterator for Variables<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = take_piece(self.0)?;
        let (value, rest) = take_piece(rest)?;
        self.0 = rest;
        Some((name, value))
    }
}

/// What was said before, oldest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    pub(crate) rest: &'a str,
    pub(crate) left: u32,
}

impl<'a> Iterator for Past<'a> {
    type Item = (Role, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (said, rest) = take_said(self.rest)?;
        (self.rest, self.left) = (rest, self.left.saturating_sub(1));
        Some(said)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Past<'_> {}

/// What a model is asked in a turn.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// Which agent asks.
    pub agent: AgentId,
    /// For whom.
    pub address: Address<'a>,
    /// The session's context variables.
    pub variables: Variables<'a>,
    /// What was said before, oldest first; without the message itself. Empty where the agent keeps none.
    pub history: Past<'a>,
    /// What the text is.
    pub content: Content,
    /// Who pays for the message.
    pub account: AccountId,
    /// Who wrote the message, as people see it; may be empty.
    pub name: &'a str,
    /// The message.
    pub text: &'a str,
}

/// How a model stands on one shard: each learns for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelStanding {
    /// What its breaker lets pass.
    pub breaker: breaker::State,
    /// How long until a call may find out whether it is well again; zero where its breaker is not open, or one may now.
    pub open: Duration,
    /// How long others of a chain are preferred, because it asked for calm.
    pub calm: Duration,
}

/// What a session remembers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory<'a> {
    /// Its context variables.
    pub variables: Variables<'a>,
    /// What was said, oldest first.
    pub history: Past<'a>,
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing.
    Idle,
    /// Its message waits for a place at the agent.
    Waiting,
    /// Its message is being answered, or the answer delivered.
    Processing,
}

impl State {
    /// The name in the API and in notices.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Processing => "processing",
        }
    }
}

/// One session, as the API lists it.
#[derive(Clone, Copy, Debug)]
pub struct SessionView<'a> {
    /// Its id; the next page begins at the slot after it.
    pub id: SessionId,
    /// Where its answers go.
    pub address: Address<'a>,
    /// What it does.
    pub state: State,
    /// The agent that an operator or an affinity gave it.
    pub agent: Option<AgentId>,
    /// That was an operator.
    pub assigned: bool,
    /// What an operator gave it for messages that arrive while a turn runs; `None` for what its agents have.
    pub running_mode: Option<RunningMode>,
    /// Messages admitted since it was made.
    pub messages: u32,
    /// Messages that wait behind the one that is being answered.
    pub waiting: u16,
    /// All that the store knows of it is there.
    pub known: bool,
    /// The store has a row of it, or is about to.
    pub stored: bool,
    /// When it was made, in this life; else the start.
    pub created: Time,
    /// When it began in an earlier life, Unix milliseconds; 0 where this is its first.
    pub created_millis: u64,
    /// When it last had a message, or an answer ended.
    pub active: Time,
}

/// How much a shard has to do at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions in memory.
    pub sessions: u32,
    /// Turns behind another of their session.
    pub waiting: u32,
    /// Turns that could be started if there were a place.
    pub ready: u32,
    /// Turns whose call runs.
    pub running: u32,
    /// Turns that wait for their next attempt at a model.
    pub backing_off: u32,
    /// Turns whose answer is being delivered to a platform.
    pub delivering: u32,
    /// Messages that wait for the store's word whether they were seen; they are no turns yet.
    pub lookups: u32,
    /// Event ids in memory.
    pub dedup_ids: u32,
    /// Older ones that the store may be asked about.
    pub dedup_filtered: u32,
    /// Event ids that left memory before their time, since the start.
    pub dedup_evicted: u64,
    /// By agent, in the order of the plan.
    pub agents: Vec<AgentLoad>,
}

/// How much a shard does for one agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentLoad {
    /// Admitted and never started.
    pub waiting: u32,
    /// Holding a place.
    pub running: u32,
    /// Ready, by class: low, normal, VIP.
    pub queued: [u32; 3],
    /// Average time from a turn's start to the end of its call, milliseconds.
    pub turn_millis: u32,
    /// What a message that comes now would wait for its place, by class, milliseconds (see [`crate::overload`]).
    pub wait_millis: [u32; 3],
    /// Messages refused with `AGENT_BUSY` since the start.
    pub refused: u64,
}

impl Shard {
    /// What the model is asked in this turn; `None` once the turn is over.
    #[must_use]
    #[inline]
    pub fn prompt(&self, turn: TurnId) -> Option<Prompt<'_>> {
        let turn = self.turn(turn)?;
        let session = self.sessions.at(turn.session)?;
        let desk = self.places.desk(turn.desk);
        let past = turn.content.is_words();
        let history = desk.filter(|desk| past && desk.history);
        Some(Prompt {
            agent: desk.and_then(|desk| desk.id).unwrap_or(AgentId(u16::MAX)),
            address: self.address_of(session),
            variables: if past { session.variables() } else { Variables::default() },
            history: history.map_or_else(Past::default, |desk| session.history.excerpt(desk.excerpt)),
            content: turn.content,
            account: turn.account,
            name: turn.name(),
            text: turn.text(),
        })
    }

    /// The message that a turn answers and what it is, for whoever needs nothing else of its prompt; `None` once the turn
    /// is over.
    #[must_use]
    #[inline]
    pub fn message(&self, turn: TurnId) -> Option<(Content, &str)> {
        self.turn(turn).map(|turn| (turn.content, turn.text()))
    }

    /// Where the answers of this session go; of one that an effect says is forgotten until the next event.
    #[must_use]
    pub fn address(&self, session: SessionId) -> Option<Address<'_>> {
        self.sessions.get(session.slot, session.generation).map(|session| self.address_of(session))
    }

    /// Where the answer to this turn's message goes.
    #[must_use]
    pub fn destination(&self, turn: TurnId) -> Option<Address<'_>> {
        let turn = self.turn(turn)?;
        let address = self.address_of(self.sessions.at(turn.session)?);
        let Some(origin) = turn.origin() else { return Some(address) };
        let channel = self.places.id_named(&origin.channel).unwrap_or(ChannelId(u16::MAX));
        Some(Address { channel, peer: &origin.peer, chat: &origin.chat, ..address })
    }

    /// The channel that the answer to a turn's message goes to.
    pub(crate) fn channel_of(&self, slot: u32) -> Option<ChannelId> {
        let turn = self.turns.at(slot)?;
        match turn.origin() {
            Some(origin) => self.places.id_named(&origin.channel),
            None => self.places.post(self.sessions.at(turn.session)?.post)?.id,
        }
    }

    /// What a session remembers.
    #[must_use]
    pub fn memory(&self, session: SessionId) -> Option<Memory<'_>> {
        let session = self.sessions.get(session.slot, session.generation)?;
        Some(Memory { variables: session.variables(), history: session.history.iter() })
    }

    #[inline]
    fn address_of<'a>(&self, session: &'a Session) -> Address<'a> {
        Address {
            channel: self.places.post(session.post).and_then(|post| post.id).unwrap_or(ChannelId(u16::MAX)),
            scope: session.scope,
            chat: session.chat(),
            thread: session.thread(),
            peer: session.peer(),
        }
    }

    /// A turn's name for ever; `None` once it is over.
    #[must_use]
    pub fn uid(&self, turn: TurnId) -> Option<Uid> {
        self.turn(turn).map(|turn| turn.uid)
    }

    /// The session of a turn that is not over.
    #[must_use]
    #[inline]
    pub fn session_of(&self, turn: TurnId) -> Option<SessionId> {
        self.turn(turn).map(|turn| self.session_id(turn.session))
    }

    /// The session of this conversation, if it is in memory. `chat` does not count in a direct one, `peer` does not in
    /// a group.
    #[must_use]
    pub fn find(
        &self,
        channel: ChannelId,
        scope: Scope,
        peer: &str,
        chat: &str,
        thread: &str,
    ) -> Option<SessionId> {
        let post = self.places.post_of(channel)?;
        let inbound = Inbound { channel, scope, peer, chat, thread, ..Inbound::default() };
        self.whose(&inbound, post).session.map(|slot| self.session_id(slot))
    }

    /// The sessions, by slot, beginning at slot `from`.
    pub fn sessions(&self, from: u32) -> impl Iterator<Item = SessionView<'_>> {
        let living = self.sessions.iter_from(from).filter(|(_, _, session)| !session.dead);
        living.map(|(slot, generation, session)| self.view(SessionId { slot, generation }, session))
    }

    /// One session, if it is in memory.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<SessionView<'_>> {
        let session = self.sessions.get(id.slot, id.generation).filter(|session| !session.dead);
        session.map(|session| self.view(id, session))
    }

    /// As [`Self::session`], also of one that is forgotten, until the next event: what `Effect::Save` saves.
    #[must_use]
    pub fn session_to_save(&self, id: SessionId) -> Option<SessionView<'_>> {
        self.sessions.get(id.slot, id.generation).map(|session| self.view(id, session))
    }

    /// The name of a session's channel, which may be gone from the configuration.
    #[must_use]
    pub fn channel_name(&self, session: SessionId) -> &str {
        let session = self.sessions.get(session.slot, session.generation);
        session.and_then(|session| self.places.post(session.post)).map_or("", |post| &post.name)
    }

    fn view<'a>(&self, id: SessionId, session: &'a Session) -> SessionView<'a> {
        let state = match self.turns.at(session.current).map(|turn| turn.state) {
            None => State::Idle,
            Some(turn::State::Waiting | turn::State::Loading | turn::State::Ready) => State::Waiting,
            Some(turn::State::Running | turn::State::BackingOff | turn::State::Delivering) => {
                State::Processing
            }
        };
        SessionView {
            id,
            address: self.address_of(session),
            state,
            agent: self.agent_id(session.desk),
            assigned: session.assigned,
            running_mode: session.running_mode,
            messages: session.messages,
            waiting: u16::try_from(session.waiting.len()).unwrap_or(u16::MAX),
            known: session.memory == crate::load::Memory::Warm,
            stored: session.stored,
            created: session.born.time(),
            created_millis: session.born.unix_millis(),
            active: session.active,
        }
    }

    /// What the breaker of this model lets pass on this shard.
    #[must_use]
    pub fn breaker(&self, model: ModelId) -> breaker::State {
        self.places.line_of(model).map_or(breaker::State::Closed, |line| line.breaker.state())
    }

    /// How a model stands on this shard.
    #[must_use]
    pub fn model_standing(&self, model: ModelId, now: Time) -> ModelStanding {
        self.places.line_of(model).map_or_else(ModelStanding::default, |line| ModelStanding {
            breaker: line.breaker.state(),
            open: line.breaker.wait(now),
            calm: line.calm_until.since(now),
        })
    }

    /// How much there is to do. Counts everything: for metrics, not for the message path.
    #[must_use]
    pub fn load(&self) -> Load {
        let mut load = Load {
            sessions: self.sessions_lease.used(),
            lookups: u32::try_from(self.lookups.len()).unwrap_or(u32::MAX),
            dedup_ids: self.dedup.len(),
            dedup_filtered: u32::try_from(self.dedup.filtered()).unwrap_or(u32::MAX),
            dedup_evicted: self.dedup.evicted(),
            agents: self.plan.agents.iter().map(|_| AgentLoad::default()).collect(),
            ..Load::default()
        };
        for (_, _, turn) in self.turns.iter_from(0) {
            match turn.state {
                turn::State::Waiting | turn::State::Loading => load.waiting += 1,
                turn::State::Ready => load.ready += 1,
                turn::State::Running => load.running += 1,
                turn::State::BackingOff => load.backing_off += 1,
                turn::State::Delivering => load.delivering += 1,
            }
        }
        for desk in &self.places.desks {
            if let Some(agent) = desk.id.and_then(|id| load.agents.get_mut(usize::from(id.0))) {
                *agent = AgentLoad {
                    waiting: desk.waiting.used(),
                    running: desk.running.used(),
                    queued: desk.queue.lens(),
                    turn_millis: desk.turn_millis,
                    wait_millis: [Class::Low, Class::Normal, Class::Vip]
                        .map(|class| self.wait_of(desk, class)),
                    refused: desk.refused,
                };
            }
        }
        load
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}

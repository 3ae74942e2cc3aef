//! What the shell reads from a shard: borrowed views, never a handle to change it.
use crate::event::Scope;
use crate::id::{AgentId, ChannelId, SessionId};
use crate::time::Time;
use alloc::vec::Vec;

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
pub struct Variables<'a> {
    pub(crate) rest: &'a str,
    pub(crate) lens: &'a [(u32, u32)],
}

impl<'a> Iterator for Variables<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (&(name, value), lens) = self.lens.split_first()?;
        let (name, rest) = self.rest.split_at_checked(name as usize)?;
        let (value, rest) = rest.split_at_checked(value as usize)?;
        (self.rest, self.lens) = (rest, lens);
        Some((name, value))
    }
}

/// What was said before, oldest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    pub(crate) rest: &'a str,
    pub(crate) entries: &'a [(Role, u32)],
}

impl<'a> Iterator for Past<'a> {
    type Item = (Role, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (&(role, len), entries) = self.entries.split_first()?;
        let (text, rest) = self.rest.split_at_checked(len as usize)?;
        (self.rest, self.entries) = (rest, entries);
        Some((role, text))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.entries.len(), Some(self.entries.len()))
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
    /// Who wrote the message, as people see it; may be empty.
    pub name: &'a str,
    /// The message.
    pub text: &'a str,
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
    /// Messages admitted since it was made.
    pub messages: u32,
    /// Messages that wait behind the one that is being answered.
    pub waiting: u16,
    /// When it was made.
    pub created: Time,
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
}

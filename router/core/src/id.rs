//! Names for things that outlive a call. Whatever something late can arrive for carries a generation.

/// One shard, and the core that it is pinned to: `0..shards`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// One entry of `channels` in the configuration: a platform and an account on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u16);

/// One entry of `agents` in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(pub u16);

/// One entry of `models` in the configuration: an upstream that can be called, with its own breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u16);

/// Who pays for a message: the shell's number of a key, which stays the same over all configurations of the process. The
/// core never looks inside; 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u16);

/// A session on its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Place in the shard's slab.
    pub slot: u32,
    /// Which of the slot's tenants.
    pub generation: u32,
}

/// A turn on its shard: one admitted message and all that is done to answer it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnId {
    /// Place in the shard's slab.
    pub slot: u32,
    /// Which of the slot's tenants.
    pub generation: u32,
}

/// One call to a model for a turn. A retry is another call, so that what the first one still says is known to be late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    /// The turn it works for.
    pub turn: TurnId,
    /// Counts the turn's calls from 0.
    pub attempt: u16,
}

/// Who asked: one request on one connection of one core. The core never looks inside; it only hands it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// The core whose thread owns the connection.
    pub core: u16,
    /// The connection's place in that core's table.
    pub slot: u32,
    /// Which of the slot's tenants.
    pub generation: u32,
    /// Which request of the connection.
    pub ticket: u32,
}

impl Client {
    /// Nobody waits: what an operator's `send` or a replay is answered to.
    pub const NOBODY: Self = Self { core: u16::MAX, slot: u32::MAX, generation: u32::MAX, ticket: u32::MAX };
}

/// A turn for ever: over restarts, other numbers of shards, and in every file that tells of it. Later ones are greater
/// within a session; the number is a time in microseconds, made unique, and the shard that gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u64);

impl Uid {
    /// Bits that name the shard; the configuration allows no more shards than they hold.
    pub const SHARD_BITS: u32 = 10;

    /// The microsecond in it.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0 >> Self::SHARD_BITS
    }
}

//! The shard: one match on [`Event`], one handler each. It owns sessions and turns; it knows no clock and no socket.
use crate::bounds::Bounds;
use crate::breaker;
use crate::counters::Counters;
use crate::effect::Effects;
use crate::event::{Event, Scope};
use crate::id::{ChannelId, ModelId, SessionId, ShardId, TurnId};
use crate::plan::Plan;
use crate::time::Time;
use crate::view::{Address, Load, Prompt, SessionView};
use alloc::sync::Arc;

/// One shard: a part of all sessions, and everything that happens to them.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    shards: u16,
    plan: Arc<Plan>,
    bounds: Arc<Bounds>,
    counters: Counters,
    now: Time,
}

impl Shard {
    /// A shard without sessions. `seed` decides ties and jitter.
    #[must_use]
    pub fn new(id: ShardId, shards: u16, plan: Arc<Plan>, bounds: Arc<Bounds>, _seed: u64) -> Self {
        Self { id, shards, plan, bounds, counters: Counters::new(), now: Time::ZERO }
    }

    /// Takes in what happened; pushes what is to be done onto `out`, which the caller drains before the next call.
    pub fn handle(&mut self, now: Time, _event: Event<'_>, _out: &mut Effects) {
        self.now = self.now.max(now);
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Time, _out: &mut Effects) {
        self.now = self.now.max(now);
    }

    /// When to call [`Self::tick`] next, `None` for not until something happens. Ask again after each call.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Goes on with another plan. Ids may have moved: agents, models and channels are matched by name.
    pub fn reconfigure(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
    }

    /// What the model is asked in this turn; `None` once the turn is over.
    #[must_use]
    pub const fn prompt(&self, _turn: TurnId) -> Option<Prompt<'_>> {
        None
    }

    /// Where the answers of this session go.
    #[must_use]
    pub const fn address(&self, _session: SessionId) -> Option<Address<'_>> {
        None
    }

    /// The session of a turn that is not over.
    #[must_use]
    pub const fn session_of(&self, _turn: TurnId) -> Option<SessionId> {
        None
    }

    /// The session of this conversation, if it is in memory.
    #[must_use]
    pub const fn find(
        &self,
        _channel: ChannelId,
        _scope: Scope,
        _peer: &str,
        _chat: &str,
        _thread: &str,
    ) -> Option<SessionId> {
        None
    }

    /// The sessions, by slot, beginning at slot `from`.
    pub fn sessions(&self, _from: u32) -> impl Iterator<Item = SessionView<'_>> {
        core::iter::empty()
    }

    /// What the breaker of this model lets pass on this shard.
    #[must_use]
    pub const fn breaker(&self, _model: ModelId) -> breaker::State {
        breaker::State::Closed
    }

    /// How much there is to do.
    #[must_use]
    pub fn load(&self) -> Load {
        Load::default()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Checks every invariant over everything in memory.
    ///
    /// # Panics
    /// If one does not hold: that is a bug here, whatever the caller did.
    pub fn check(&self) {
        assert!(self.id.0 < self.shards.max(1) && self.bounds.shards() == self.shards.max(1));
    }
}

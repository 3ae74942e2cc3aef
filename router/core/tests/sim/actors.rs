//! The half of the world that answers: upstreams, platforms and clients, moved by the effects of the shards.
use crate::platform;
use crate::upstream::Call;
use crate::world::{Item, Waiting, World};
use clawgate_core::event::Mode;
use clawgate_core::id::{CallId, Client, ModelId, TurnId};
use std::time::Duration;

impl World {
    /// A call begins: its upstream decides how it will go.
    pub(crate) fn start(&mut self, shard: usize, id: CallId, model: ModelId) {
        let plan = self.shadow.plan(shard);
        let model = &plan.models[usize::from(model.0)];
        let name = format!("{}.{}.{}.{}", shard, id.turn.slot, id.turn.generation, id.attempt);
        let call = Call::draw(&mut self.dice, &self.weather, model, plan.limits.reply_bytes_max, &name);
        if call.stalls {
            self.shadow.will_stall(shard, id);
        }
        self.calls.insert((shard, id), call);
        self.schedule(shard, id);
    }

    /// Puts the next act of a call into the agenda, if it is about to act and is not there yet.
    fn schedule(&mut self, shard: usize, id: CallId) {
        let Some(call) = self.calls.get_mut(&(shard, id)) else { return };
        if call.scheduled {
            return;
        }
        if let Some(after) = call.next_after() {
            call.scheduled = true;
            self.agenda.add(self.now + after, (shard, Item::Act { call: id }));
        } else if call.spent() && call.over {
            self.calls.remove(&(shard, id));
        }
    }

    /// A call does what it does next.
    pub(crate) fn act(&mut self, shard: usize, id: CallId) {
        let Some(call) = self.calls.get_mut(&(shard, id)) else { return };
        call.scheduled = false;
        let was_over = call.over;
        if let Some(act) = call.act() {
            if !was_over && call.over && self.dice.chance(self.weather.echoing) {
                let wire = self.dice.between(1, 3) as u32;
                call.cancel(wire);
            }
            self.hand(shard, act.event(id));
        }
        self.schedule(shard, id);
    }

    /// Tells a call something, and lets it go on if it may.
    pub(crate) fn with_call(&mut self, shard: usize, id: CallId, tell: impl FnOnce(&mut Call)) {
        if let Some(call) = self.calls.get_mut(&(shard, id)) {
            tell(call);
        }
        self.schedule(shard, id);
    }

    /// A client learns that its message was taken.
    pub(crate) fn accepted(&mut self, shard: usize, client: Client, turn: TurnId) {
        if self.shadow.mode(shard, turn) == Some(Mode::Deliver) {
            return;
        }
        let full_after = self.dice.chance(self.weather.slow).then(|| self.dice.below(8) as u32);
        let room_after = (!self.dice.chance(self.weather.slow_for_ever)).then(|| self.dice.millis(1, 9_000));
        self.clients.insert((shard, turn), Waiting { full_after, room_after });
        if self.dice.chance(self.weather.leaving) {
            let patience = self.dice.millis(0, 6_000);
            self.later(client, shard, patience, Item::Left { turn });
        }
    }

    /// A piece reaches its client, whose outbox may be full with it.
    pub(crate) fn piece_sent(&mut self, shard: usize, client: Client, turn: TurnId, seq: u32) {
        let Some(waiting) = self.clients.get_mut(&(shard, turn)) else { return };
        if waiting.full_after.is_some_and(|after| after < seq) {
            let room_after = waiting.room_after;
            waiting.full_after = None;
            let lag = self.dice.millis(0, 3);
            self.later(client, shard, lag, Item::Pressure { turn, high: true });
            if let Some(after) = room_after {
                self.later(client, shard, lag + after, Item::Pressure { turn, high: false });
            }
        }
    }

    /// A client does something after a while, on its own core.
    fn later(&mut self, client: Client, shard: usize, after: Duration, item: Item) {
        let item = Item::Sent { from: usize::from(client.core), item: Box::new(item) };
        self.agenda.add(self.now + after, (shard, item));
    }

    /// A part is posted: its platform decides how that goes.
    pub(crate) fn deliver(&mut self, shard: usize, turn: TurnId, part: u16, attempt: u16) {
        let limit = self.shadow.plan(shard).limits.delivery_age_max;
        let course = platform::course(&mut self.dice, &self.weather, limit);
        if course.stalls {
            self.shadow.delivery_will_stall(shard, turn);
        }
        for (after, answer) in course.answers {
            self.agenda.add(self.now + after, (shard, Item::Answer { turn, part, attempt, answer }));
        }
    }
}

//! A turn gets its places, at its agent and at a model, and is started; or it waits, and somebody wakes it.
//!
//! [`crate::bounds`] says why no wake-up is lost. Here: [`Shard::serve`] hands on what was freed, to this shard only if
//! its turn is next, and tries to start what was queued. A shard whose queue is not empty has its bit set, or is owed
//! a nudge.
use crate::codes::Code;
use crate::effect::{Effect, Effects, Notice};
use crate::event::Mode;
use crate::id::AgentId;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::stage::Stage;
use crate::time::Time;
use crate::turn::{Call, Errand, Rounds, State, millis};
use crate::view;

/// What became of the one whose turn it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It took its places.
    Started,
    /// It left the queue without any.
    Dropped,
    /// There is no place for it.
    Blocked,
    /// Nobody waits.
    Empty,
}

impl Shard {
    /// Another shard says that a place is free. It took this shard's bit away. Around a reload it may know the agent by
    /// another id: what counts is whose bit is gone.
    pub(crate) fn on_nudged(&mut self, agent: AgentId) {
        let named = self.places.desk_of(agent);
        for place in 0..self.places.desks.len() {
            let place = u16::try_from(place).unwrap_or(0);
            let Some(desk) = self.places.desk_mut(place) else { return };
            let woken = desk.announced && !self.bounds.agent_at(desk.seat).is_announced(self.id);
            if woken || Some(place) == named {
                (desk.fresh, desk.nudged, desk.announced) = (true, true, false);
                self.mark(place);
            }
        }
    }

    /// The first model of a chain, from number `from` on, whose breaker lets a call pass: its number and place. One that
    /// asked for calm itself is only taken if there is no other.
    pub(crate) fn chosen(&self, chain: &[u16], from: u16) -> Option<(u16, u16)> {
        let mut asked_for_calm = None;
        for (number, &place) in (from..).zip(chain.iter().skip(usize::from(from))) {
            let Some(line) = self.places.line(place).filter(|line| line.lets(self.now)) else { continue };
            if line.calm_until <= self.now {
                return Some((number, place));
            }
            asked_for_calm = asked_for_calm.or(Some((number, place)));
        }
        asked_for_calm
    }

    /// Takes a place at the model, a call with so many tokens of what it grants in a minute, and a place at the agent unless
    /// the turn has that. All or none.
    pub(crate) fn take_places(&mut self, desk: u16, line: u16, agent_too: bool, tokens: u32) -> bool {
        let now = self.now;
        let bounds = &self.bounds;
        let (Some(desk), Some(line)) =
            (self.places.desks.get_mut(usize::from(desk)), self.places.lines.get_mut(usize::from(line)))
        else {
            return false;
        };
        // First what comes back by itself: whoever sees it missing for a moment asks again in time, and nobody need be told.
        let counts = bounds.model_at(line.seat);
        let quota = line.has_quota();
        if quota && !line.take_quota(counts, now, tokens) {
            let at = line.spent_until;
            self.look_at(at);
            return false;
        }
        let agent = &bounds.agent_at(desk.seat).running;
        if agent_too && !desk.running.take(agent) {
            if quota {
                line.give_quota(counts, tokens);
            }
            return false;
        }
        let got = line.running.take(&counts.running);
        if !got && quota {
            line.give_quota(counts, tokens);
        }
        if !got && agent_too {
            // Nobody is told of this place, or two shards that both lack the model would wake each other for ever.
            // Who frees the model tells all of its agents.
            desk.running.give(agent);
        }
        got
    }

    /// Starts a turn that has its places on the model of this number in its agent's chain.
    pub(crate) fn start(&mut self, slot: u32, chain: u16, place: u16, out: &mut Effects) {
        let now = self.now;
        self.free_waiting(slot);
        let (Some(turn), Some(line)) =
            (self.turns.at_mut(slot), self.places.lines.get_mut(usize::from(place)))
        else {
            return;
        };
        let desk = self.places.desks.get(usize::from(turn.desk));
        let agent = desk.and_then(|desk| Some((desk.id?, desk.history)));
        let (Some(model), Some((agent, history))) = (line.id, agent) else {
            debug_assert!(false, "nothing is started that the plan does not name");
            return;
        };
        let first = turn.calls == 0;
        // Listeners are told whole answers, also of turns that are streamed.
        let heard = history || turn.lsn != 0 || self.listening;
        turn.keeps = turn.mode != Mode::Stream || (heard && turn.content.is_words());
        if !first && turn.line == place {
            turn.tries = turn.tries.saturating_add(1);
            self.counters.retries += 1;
        } else {
            turn.tries = 1;
            self.counters.fallbacks += u64::from(chain != 0);
        }
        (turn.line, turn.chain, turn.state) = (place, chain, State::Running);
        turn.calls = turn.calls.saturating_add(1);
        let (pass, changed) = line.breaker.begin(now);
        turn.call = Call::new(now, line.ages, pass);
        if let Some(rare) = &mut turn.rare {
            rare.rounds = Rounds::default();
        }
        let pressed = turn.pressed;
        if pressed {
            turn.call.pause(now);
        }
        if changed {
            out.push(Effect::Breaker { model, state: line.breaker.state() });
        }
        if first {
            turn.began = now;
            self.counters.pass(Stage::Dispatch);
            self.publish_state(slot, out);
        }
        self.begin_preview(slot);
        let call = self.call_id(slot);
        out.push(Effect::Start { call, agent, model });
        if pressed {
            out.push(Effect::Pause { call });
        }
        self.arm(slot);
    }

    /// Puts the first turn of a session where it waits for its places.
    pub(crate) fn queue_up(&mut self, slot: u32) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        turn.state = State::Ready;
        if turn.errand.is_some() {
            self.errands.push(slot);
            return;
        }
        let (place, class, resumed) = (turn.desk, turn.class, turn.holds.agent);
        if let Some(desk) = self.places.desk_mut(place) {
            desk.fresh = true;
        }
        if let Some(desk) = self.places.desks.get_mut(usize::from(place)) {
            if resumed {
                desk.resumed.push_back(&mut self.turns, slot);
                self.bounds.agent_at(desk.seat).resumed.adopt(1);
            } else {
                if desk.queue.lens()[class as usize] == 0 {
                    desk.crowded[class as usize] = self.now;
                }
                desk.queue.push(&mut self.turns, slot, class);
            }
        }
        self.mark(place);
    }

    /// Takes a turn out of where it waits for its places. Whoever else waits there is looked after.
    pub(crate) fn leave_queue(&mut self, slot: u32) {
        let Some(turn) = self.turns.at(slot) else { return };
        if turn.state != State::Ready {
            return;
        }
        if turn.errand.is_some() {
            self.errands.retain(|&other| other != slot);
            return;
        }
        let (place, class, resumed) = (turn.desk, turn.class, turn.holds.agent);
        if let Some(desk) = self.places.desks.get_mut(usize::from(place)) {
            if resumed {
                desk.resumed.remove(&mut self.turns, slot);
                self.bounds.agent_at(desk.seat).resumed.give(1);
            } else {
                desk.queue.remove(&mut self.turns, slot, class);
            }
        }
        self.mark(place);
    }

    /// Sees to it that an agent is served at the end of the event.
    pub(crate) fn mark(&mut self, place: u16) {
        let Some(desk) = self.places.desk_mut(place) else { return };
        if !desk.marked {
            desk.marked = true;
            self.marked.push(place);
        }
    }

    /// What a model lets pass is another thing than before: those who wait for it, or for another because of it, are
    /// tried again.
    pub(crate) fn look_again(&mut self, place: u16) {
        let Some(line) = self.places.line_mut(place) else { return };
        let desks = core::mem::take(&mut line.desks);
        for &desk in &desks {
            if let Some(waiting) = self.places.desk_mut(desk).filter(|desk| !desk.is_empty()) {
                waiting.fresh = true;
                self.mark(desk);
            }
        }
        if let Some(line) = self.places.line_mut(place) {
            line.desks = desks;
        }
    }

    /// Time passed, and a model may take calls again, for which somebody waits or to which somebody who waits for another
    /// would rather go.
    pub(crate) fn look_around(&mut self) {
        for place in 0..self.places.lines.len() {
            self.look_again(u16::try_from(place).unwrap_or(0));
        }
        let now = self.now;
        let lines = self.places.lines.iter();
        let times = lines
            .flat_map(|line| [line.breaker.half_open_at(), Some(line.calm_until), Some(line.spent_until)]);
        self.look_at = times.flatten().filter(|&at| now < at).min();
    }

    /// Sees to it that [`Self::look_around`] comes at this time.
    pub(crate) fn look_at(&mut self, at: Time) {
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    /// After a new plan limits may be others and reserves have gone back: all that waits is tried again, here and on
    /// the other shards.
    pub(crate) fn mark_all(&mut self) {
        let shards = u32::from(self.bounds.shards());
        for place in 0..self.places.desks.len() {
            let desk = &mut self.places.desks[place];
            (desk.fresh, desk.freed) = (true, shards);
            // A nudge may have come under an id of the other plan: every shard says anew that it waits.
            if core::mem::take(&mut desk.announced) {
                self.bounds.agent_at(desk.seat).withdraw(self.id);
            }
            self.mark(u16::try_from(place).unwrap_or(0));
        }
    }

    /// Serves all that was marked, and what that marks in turn. Ends, because each round takes a turn from a queue or
    /// finds nothing to do.
    pub(crate) fn serve_marked(&mut self, out: &mut Effects) {
        loop {
            if let Some(slot) = self.errands.pop() {
                self.run_errand(slot, out);
            } else if let Some(place) = self.marked.pop() {
                self.serve(place, out);
            } else {
                return;
            }
        }
    }

    fn serve(&mut self, place: u16, out: &mut Effects) {
        let Some(desk) = self.places.desk_mut(place) else { return };
        desk.marked = false;
        let freed = core::mem::take(&mut desk.freed);
        let fresh = core::mem::take(&mut desk.fresh);
        let nudged = core::mem::take(&mut desk.nudged);
        for _ in 0..freed {
            if !self.hand_on(place, out) {
                break;
            }
        }
        if fresh {
            self.start_all(place, nudged, out);
        }
        if self.places.desk(place).is_some_and(|desk| desk.is_empty() && (desk.announced || nudged)) {
            self.withdraw(place);
        }
        if nudged && self.might_start(place) {
            // What was promised is not needed here, or not all of it; the next one that waits may use it.
            self.pass_on(place, out);
        }
    }

    /// Says that this shard waits for the agent no longer.
    fn withdraw(&mut self, place: u16) {
        if let Some(desk) = self.places.desk_mut(place) {
            desk.announced = false;
            self.bounds.agent_at(desk.seat).withdraw(self.id);
        }
    }

    /// Does it look as if somebody who waits for this agent could start? Where not, whoever gives a place back begins
    /// anew.
    pub(crate) fn might_start(&self, place: u16) -> bool {
        let Some(desk) = self.places.desk(place) else { return false };
        let counts = self.bounds.agent_at(desk.seat);
        let mut lines = desk.chain.iter().filter_map(|&line| self.places.line(line));
        (!desk.running.is_taken(&counts.running) || counts.resumed.is_some())
            && lines.any(|line| {
                let spent = self.now < line.spent_until;
                !spent && !line.running.is_taken(&self.bounds.model_at(line.seat).running)
            })
    }

    /// A place was given back: finds out who is next. False if nobody waits who could use it.
    fn hand_on(&mut self, place: u16, out: &mut Effects) -> bool {
        let Some(desk) = self.places.desk(place) else { return false };
        self.bounds.agent_at(desk.seat).recall();
        self.pass_on(place, out)
    }

    /// Wakes the next one that waits and has not found since the last place was freed that it cannot use one. So a
    /// promise goes round once at most.
    fn pass_on(&mut self, place: u16, out: &mut Effects) -> bool {
        let Some(desk) = self.places.desk(place) else { return false };
        // Of one that is gone here the others will hear themselves, and then all that waits for it fails.
        let Some(agent) = desk.id else { return false };
        match self.bounds.agent_at(desk.seat).next_waiter(self.id) {
            None => false,
            // Its own bit comes last: nobody else waits.
            Some(shard) if shard == self.id => {
                let mut started = false;
                loop {
                    match self.start_next(place, out) {
                        // A turn that ends frees a place at its agent and one at its model. One that goes on takes the
                        // second and leaves the first to the next.
                        Step::Started => started = true,
                        Step::Dropped => {}
                        Step::Blocked => return started,
                        Step::Empty => {
                            // The bit came back from another shard's hands after it was withdrawn.
                            self.withdraw(place);
                            return started;
                        }
                    }
                }
            }
            Some(shard) => {
                self.give_reserves(place);
                out.push(Effect::Nudge { shard, agent });
                true
            }
        }
    }

    /// What this shard keeps in reserve of an agent and its models goes back for those who wait.
    fn give_reserves(&mut self, place: u16) {
        let Some(desk) = self.places.desks.get_mut(usize::from(place)) else { return };
        desk.running.give_spare(&self.bounds.agent_at(desk.seat).running);
        for &line in &desk.chain {
            if let Some(line) = self.places.lines.get_mut(usize::from(line)) {
                line.running.give_spare(&self.bounds.model_at(line.seat).running);
            }
        }
    }

    /// All reserves go back, because limits changed. Whoever waits for them is told at the next tick.
    pub(crate) fn give_all_reserves(&mut self) {
        let bounds = &self.bounds;
        self.sessions_lease.renew(&bounds.sessions);
        self.turns_lease.renew(&bounds.turns);
        for desk in &mut self.places.desks {
            let counts = bounds.agent_at(desk.seat);
            desk.waiting.renew(&counts.waiting);
            desk.running.renew(&counts.running);
        }
        for line in &mut self.places.lines {
            line.running.renew(&bounds.model_at(line.seat).running);
        }
    }

    /// Starts what can be started. Says that this shard waits, if anything is left, and then tries once more: a place
    /// that was given back before the bit was set is found by this, one given back after it by the other shard.
    fn start_all(&mut self, place: u16, nudged: bool, out: &mut Effects) {
        loop {
            loop {
                match self.start_next(place, out) {
                    Step::Started | Step::Dropped => {}
                    Step::Blocked => break,
                    Step::Empty => return,
                }
            }
            let Some(desk) = self.places.desk_mut(place) else { return };
            if core::mem::replace(&mut desk.announced, true) {
                return;
            }
            let counts = self.bounds.agent_at(desk.seat);
            if nudged { counts.announce_tried(self.id) } else { counts.announce(self.id) }
        }
    }

    /// Starts one turn. Those that were started before go first; where they must wait for their models they hold up
    /// nobody else, nor each other if they wait for different ones.
    fn start_next(&mut self, place: u16, out: &mut Effects) -> Step {
        let Some(desk) = self.places.desk_mut(place) else { return Step::Empty };
        let (mut resumed, first) = (desk.resumed.head(), desk.queue.first());
        let mut blocked = if resumed == NONE { Step::Empty } else { Step::Blocked };
        // One bit for each model that is known to be full; those beyond the 64th are asked each time.
        let mut full = 0_u64;
        while let Some(turn) = self.turns.at(resumed) {
            let next = turn.link.next();
            let line = self.places.desk(place).and_then(|desk| self.chosen(&desk.chain, turn.chain));
            let bit = line.and_then(|(_, line)| 1_u64.checked_shl(line.into())).unwrap_or(0);
            if full & bit == 0 {
                let step = self.try_start(resumed, out);
                if step != Step::Blocked {
                    return step;
                }
                full |= bit;
            }
            resumed = next;
        }
        if let Some(first) = first {
            blocked = self.try_start(first, out);
        }
        blocked
    }

    fn try_start(&mut self, slot: u32, out: &mut Effects) -> Step {
        let Some(turn) = self.turns.at(slot) else { return Step::Empty };
        let (place, from, agent_too) = (turn.desk, turn.chain, !turn.holds.agent);
        let Some(desk) = self.places.desk(place) else { return Step::Empty };
        if desk.id.is_none() {
            self.fail(slot, Code::NotFound, "", 0, out);
            return Step::Dropped;
        }
        let Some((chain, line)) = self.chosen(&desk.chain, from) else {
            self.on_unavailable(slot, out);
            return Step::Dropped;
        };
        let tokens = self.prompt_tokens(slot, line);
        if !self.take_places(place, line, agent_too, tokens) {
            return Step::Blocked;
        }
        self.take_from_queue(slot);
        if let Some(turn) = self.turns.at_mut(slot) {
            (turn.holds.agent, turn.holds.model) = (true, true);
        }
        self.start(slot, chain, line, out);
        Step::Started
    }

    /// As [`Self::leave_queue`], for the one whose turn it was.
    fn take_from_queue(&mut self, slot: u32) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (place, class, resumed) = (turn.desk, turn.class, turn.holds.agent);
        let Some(desk) = self.places.desks.get_mut(usize::from(place)) else { return };
        if resumed {
            desk.resumed.remove(&mut self.turns, slot);
            self.bounds.agent_at(desk.seat).resumed.give(1);
        } else {
            desk.queue.take(&mut self.turns, slot, class);
        }
    }

    /// None of the models that are left to a turn takes calls. A client is told; what came from a platform and is
    /// acknowledged waits until one may, if its time allows.
    fn on_unavailable(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let wait = self.half_open_after(turn.desk, turn.chain);
        let until = self.now + core::time::Duration::from_millis(wait.into());
        let patient = turn.mode == Mode::Deliver && until < turn.admitted + self.plan.limits.waiting_age_max;
        if !patient {
            self.fail(slot, Code::UpstreamUnavailable, "", wait, out);
            return;
        }
        self.leave_queue(slot);
        if let Some(turn) = self.turns.at_mut(slot) {
            (turn.state, turn.until) = (State::BackingOff, until);
        }
        self.arm(slot);
    }

    /// Milliseconds until the first breaker of an agent's chain, from number `from` on, is half open; at least the least
    /// pause, for one that is, but has its probes out.
    pub(crate) fn half_open_after(&self, place: u16, from: u16) -> u32 {
        let chain = self.places.desk(place).map_or(&[][..], |desk| &desk.chain);
        let lines = chain
            .iter()
            .skip(usize::from(from))
            .filter_map(|&line| self.places.line(line))
            .filter(|line| line.id.is_some());
        let wait = lines.map(|line| millis(line.breaker.wait(self.now))).min();
        wait.unwrap_or(0).saturating_add(1).max(millis(self.plan.limits.backoff_min)).max(1)
    }

    /// Gives back the place of a turn that waits no longer.
    pub(crate) fn free_waiting(&mut self, slot: u32) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let held = core::mem::take(&mut turn.holds.waiting);
        if held && let Some(desk) = self.places.desks.get_mut(usize::from(turn.desk)) {
            desk.waiting.give(&self.bounds.agent_at(desk.seat).waiting);
        }
    }

    /// Gives back a turn's place at its model, and the one at its agent if it needs that no longer. Whoever waits for
    /// one of them hears of it at the end of the event.
    pub(crate) fn free_places(&mut self, slot: u32, agent_too: bool) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let model = core::mem::take(&mut turn.holds.model);
        let agent = agent_too && core::mem::take(&mut turn.holds.agent);
        let (own, place_of_line) = (turn.desk, turn.line);
        let mut told = false;
        if agent && let Some(desk) = self.places.desks.get_mut(usize::from(own)) {
            let counts = self.bounds.agent_at(desk.seat);
            desk.running.give(&counts.running);
            told = desk.running.is_bounded() && counts.is_awaited();
            desk.freed += u32::from(told);
        }
        if told {
            self.mark(own);
        }
        let Some(line) = self.places.line_mut(place_of_line).filter(|_| model) else { return };
        line.running.give(&self.bounds.model_at(line.seat).running);
        if !line.running.is_bounded() {
            return;
        }
        let desks = core::mem::take(&mut line.desks);
        for &place in desks.iter().filter(|&&place| place != own || !told) {
            let Some(desk) = self.places.desk_mut(place) else { continue };
            if self.bounds.agent_at(desk.seat).is_awaited() {
                desk.freed += 1;
                self.mark(place);
            }
        }
        if let Some(line) = self.places.line_mut(place_of_line) {
            line.desks = desks;
        }
    }

    /// Carries out a turn that asks no model, now that it is first of its session.
    fn run_errand(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        match turn.errand {
            Some(Errand::Outbound) => self.speak(slot, out),
            Some(Errand::Apology(outcome)) => self.apologise(slot, outcome, out),
            Some(Errand::Resume(verdict)) => self.resume(slot, verdict, out),
            Some(Errand::Recite) => self.recite(slot, out),
            Some(Errand::Fail(code)) => self.fail(slot, code, code.advice(), 0, out),
            None => {}
        }
    }

    /// Tells the listeners what a turn's session does from here on.
    #[inline]
    pub(crate) fn publish_state(&self, slot: u32, out: &mut Effects) {
        if !self.listening {
            return;
        }
        let Some(turn) = self.turns.at(slot) else { return };
        let state = if matches!(turn.state, State::Ready | State::Loading) {
            view::State::Waiting
        } else {
            view::State::Processing
        };
        self.publish(Notice::Updated, turn.session, Some(slot), state.name(), out);
    }
}

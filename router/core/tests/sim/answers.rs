//! The judgement of what those who wait are told: whether a message is taken, its pieces, its end.
use crate::admission::{self, Answer};
use crate::board::{Board, Cause, Claim, Session, Step};
use crate::plans::{Name, known};
use crate::turn::{Cut, Finale, Phase, Turn, fired};
use clawgate_core::codes::Code;
use clawgate_core::effect::{Ignored, Outcome};
use clawgate_core::event::{Class, Event, Inbound, Mode, Operation, Piece, Retry, Scope, Stop, Usage};
use clawgate_core::id::{Client, SessionId, TurnId};
use clawgate_core::time::Time;
use clawgate_core::view::{Address, Role};
use std::collections::BTreeMap;

/// `Effect::Finish`, with its text read.
pub(crate) struct Finish<'a> {
    pub(crate) client: Client,
    pub(crate) seq: u32,
    pub(crate) text: &'a str,
    pub(crate) usage: Usage,
    pub(crate) model: Name,
    pub(crate) stop: Stop,
}

/// `Effect::Fail`, with its text read.
pub(crate) struct Fail<'a> {
    pub(crate) client: Client,
    pub(crate) seq: u32,
    pub(crate) code: Code,
    pub(crate) detail: &'a str,
    pub(crate) retry_after_millis: u32,
}

impl Board {
    // ---- is it taken? ----

    /// A message gets exactly one answer, and the right one.
    pub(crate) fn answered(&mut self, step: &mut Step<'_>, client: Client, answer: Answer) {
        let Cause::Event(Event::Inbound { client: asked, inbound }) = step.cause else {
            panic!("{answer:?}, and nobody asked");
        };
        assert_eq!(client, asked, "another client is answered");
        assert_eq!(step.answer, None, "a message is answered twice: {answer:?}");
        step.answer = Some(answer);
        if let Some(expected) = step.expected {
            assert_eq!(answer, expected, "{inbound:?}");
        }
        step.mark(match answer {
            Answer::Accepted => "effect Accepted".to_owned(),
            Answer::Duplicate => "effect Duplicate".to_owned(),
            Answer::Ignored(why) => format!("effect Ignored {why:?}"),
            Answer::Refused(code) => format!("effect Refused {code:?}"),
        });
        match answer {
            // An empty text is ignored again if it comes again: that needs no memory.
            Answer::Ignored(Ignored::Empty) => {}
            Answer::Accepted | Answer::Ignored(_) => {
                if !inbound.id.is_empty() {
                    let id = self.memory_key(&inbound);
                    self.memory.remember(self.now, id);
                }
            }
            Answer::Duplicate | Answer::Refused(_) => {}
        }
        self.tally.duplicate += u64::from(answer == Answer::Duplicate);
        self.tally.ignored += u64::from(matches!(answer, Answer::Ignored(_)));
        if step.expected.is_none() && matches!(answer, Answer::Duplicate | Answer::Ignored(_)) {
            panic!("{answer:?} without a reason: {inbound:?}");
        }
    }

    pub(crate) fn on_refused(&mut self, step: &mut Step<'_>, code: Code, retry_after_millis: u32) {
        if step.expected.is_some() {
            return;
        }
        let Cause::Event(Event::Inbound { inbound, .. }) = step.cause else { return };
        if code == Code::NotFound {
            let known = inbound.agent.is_none_or(|agent| usize::from(agent.0) < self.plan.agents.len());
            assert!(!known && retry_after_millis == 0, "nothing is missing: {inbound:?}");
            return;
        }
        assert!(
            matches!(retry_after_millis, 1_000..=60_000) || code == Code::UpstreamUnavailable,
            "come back after {retry_after_millis} ms"
        );
        let agents = self.routes(&inbound);
        if code == Code::SessionFull {
            let session = self.keys.get(&self.key(&inbound)).copied();
            let full = |agent: &Name| session.is_some_and(|id| !self.has_room(id, agent, &inbound));
            assert!(agents.iter().any(full), "the session has room: {inbound:?}");
        } else if code == Code::UpstreamUnavailable {
            assert!(
                agents.iter().any(|agent| self.unavailable(agent, 0)),
                "{agents:?} have models that work"
            );
        } else {
            let class = self.class_of(&inbound);
            let crowded = agents.iter().any(|agent| self.is_crowded(agent, class));
            step.claims.push(Claim::Refused { code, agents, crowded });
        }
    }

    /// Who may answer this message.
    fn routes(&self, inbound: &Inbound<'_>) -> Vec<Name> {
        if let Some(agent) = inbound.agent {
            return vec![known(&self.plan.agent(agent).name)];
        }
        let session = self.keys.get(&self.key(inbound)).map(|id| &self.sessions[id]);
        let kept = session.and_then(|session| session.agent.filter(|name| self.employs(name)));
        if let Some(agent) = kept.filter(|_| session.is_some_and(|session| session.assigned)) {
            return vec![agent];
        }
        if let Some(agent) = self.plan.channel(inbound.channel).agent {
            return vec![known(&self.plan.agent(agent).name)];
        }
        match kept {
            Some(agent) if self.route.keeps() => vec![agent],
            _ => self.route.agents(inbound.text),
        }
    }

    pub(crate) fn on_accepted(
        &mut self,
        step: &mut Step<'_>,
        client: Client,
        id: TurnId,
        session: SessionId,
        ahead: u16,
    ) {
        assert!(!self.turns.contains_key(&id) && !self.dead_turns.contains(&id), "{id:?} is used again");
        let turn = match step.cause {
            Cause::Event(Event::Inbound { inbound, .. }) => {
                self.answered(step, client, Answer::Accepted);
                self.admit(step, client, id, session, &inbound)
            }
            Cause::Event(Event::Operate { session: of, operation: Operation::Send(text), .. }) => {
                assert_eq!((of, client), (session, Client::NOBODY), "an operator's words go elsewhere");
                step.mark("operator speaks");
                self.tally.spoken += 1;
                let mode = self.sessions[&session].mode;
                self.new_turn(client, session, mode, Class::Normal, "", text)
            }
            cause @ (Cause::Event(_) | Cause::Tick) => panic!("{id:?} is accepted for {cause:?}"),
        };
        let order = self.next_order();
        let now = self.now;
        self.check_room(step, &turn);
        let Some(owner) = self.sessions.get_mut(&session) else { panic!("{session:?} is not known") };
        assert_eq!(usize::from(ahead), owner.queue.len(), "{id:?}: how many are ahead");
        let ready = owner.queue.is_empty().then_some(order);
        owner.queue.push_back(id);
        owner.active = now;
        self.turns.insert(id, Turn { ready, ..turn });
        self.tally.accepted += 1;
        step.claims.push(Claim::Accepted);
        step.owed.push(id);
        if matches!(step.cause, Cause::Event(Event::Inbound { .. })) {
            self.meet_running(step, id);
        }
    }

    fn admit(
        &mut self,
        step: &mut Step<'_>,
        client: Client,
        id: TurnId,
        session: SessionId,
        inbound: &Inbound<'_>,
    ) -> Turn {
        let agents = self.routes(inbound);
        self.meet(session, inbound);
        let agent = step.shard.prompt(id).map(|prompt| known(&self.plan.agent(prompt.agent).name));
        // A turn that is over by the end of its first step asked one of them; the session may know which.
        let kept = step
            .shard
            .session(session)
            .and_then(|view| view.agent)
            .map(|id| known(&self.plan.agent(id).name));
        let others = if agent.is_none() { agents.clone() } else { Vec::new() };
        let agent = agent.or(kept.filter(|agent| agents.contains(agent)));
        let agent = agent.unwrap_or(agents[0]);
        assert!(agents.contains(&agent), "{id:?} goes to {agent}, not to one of {agents:?}");
        step.mark(format!("class {:?}", inbound.class));
        let keeps = self.route.keeps()
            && self.plan.channel(inbound.channel).agent.is_none()
            && inbound.agent.is_none();
        let Some(owner) = self.sessions.get_mut(&session) else { panic!("meet made it") };
        owner.mode = inbound.mode;
        if inbound.scope == Scope::Direct && !inbound.chat.is_empty() {
            inbound.chat.clone_into(&mut owner.chat);
        }
        if keeps && !owner.assigned {
            owner.agent = Some(agent);
        }
        let address = step.shard.address(session);
        self.check_address(
            &address.unwrap_or_else(|| panic!("{session:?} has no address")),
            &self.sessions[&session],
        );
        let name = admission::clip(inbound.name, usize::from(self.limits().name_bytes_max));
        let class = self.class_of(inbound);
        let turn = self.new_turn(client, session, inbound.mode, class, name, inbound.text);
        Turn { agent: Some(agent), others, outbound: false, ..turn }
    }

    fn class_of(&self, inbound: &Inbound<'_>) -> Class {
        match inbound.class {
            Class::Normal => self.plan.channel(inbound.channel).class,
            other @ (Class::Low | Class::Vip) => other,
        }
    }

    fn new_turn(
        &self,
        client: Client,
        session: SessionId,
        mode: Mode,
        class: Class,
        name: &str,
        text: &str,
    ) -> Turn {
        Turn {
            client,
            mode,
            outbound: true,
            session,
            name: name.to_owned(),
            text: text.to_owned(),
            class,
            admitted: self.now,
            began: self.now,
            agent: None,
            others: Vec::new(),
            seq: 0,
            calls: 0,
            tried: BTreeMap::new(),
            last: None,
            high: false,
            forgets: false,
            phase: Phase::Waiting,
            told: None,
            ready: None,
            failed_behind: false,
            parked_until: Time::ZERO,
        }
    }

    /// The session of a conversation: the same as before, or a new one.
    pub(crate) fn meet(&mut self, session: SessionId, inbound: &Inbound<'_>) {
        let key = self.key(inbound);
        if let Some(known) = self.keys.get(&key) {
            assert_eq!(*known, session, "{key:?} has two sessions");
            return;
        }
        assert!(!self.sessions.contains_key(&session), "{session:?} is two conversations");
        assert!(!self.dead_sessions.contains(&session), "{session:?} is used again");
        let idle = self.next_order();
        let made = Session {
            key: key.clone(),
            chat: inbound.chat.to_owned(),
            agent: None,
            assigned: false,
            mode: inbound.mode,
            running_mode: None,
            queue: std::collections::VecDeque::new(),
            history: None,
            context: Vec::new(),
            active: self.now,
            idle,
        };
        self.sessions.insert(session, made);
        self.keys.insert(key, session);
    }

    pub(crate) fn check_address(&self, address: &Address<'_>, owner: &Session) {
        let (channel, group, party, thread) = &owner.key;
        assert_eq!(&*self.plan.channel(address.channel).name, *channel, "the address's channel");
        assert_eq!(address.thread, thread, "the address's thread");
        assert_eq!(address.scope == Scope::Group, *group, "the address's scope");
        if *group {
            assert_eq!((address.chat, address.peer), (party.as_str(), ""), "a group's address");
        } else {
            assert_eq!(
                (address.peer, address.chat),
                (party.as_str(), owner.chat.as_str()),
                "a peer's address"
            );
        }
    }

    /// Each message was answered, and each operator.
    pub(crate) fn check_answers(&self, step: &Step<'_>) {
        match step.cause {
            Cause::Event(Event::Inbound { inbound, .. }) => {
                assert!(step.answer.is_some(), "a message is not answered: {inbound:?}");
            }
            Cause::Event(Event::Operate { operation, .. }) => {
                assert!(step.operated.is_some(), "an operator is not answered: {operation:?}");
            }
            Cause::Event(_) | Cause::Tick => {}
        }
    }

    // ---- what is said ----

    pub(crate) fn on_send(&mut self, step: &mut Step<'_>, client: Client, id: TurnId, seq: u32, text: &str) {
        step.mark("effect Send");
        let Cause::Event(Event::Piece { call, piece: Piece::Text(piece) }) = step.cause else {
            panic!("{id:?}: something is sent, but nothing was said");
        };
        assert!(step.subject == Some(id) && call.turn == id, "{id:?} is sent what another call said");
        step.sends += 1;
        let most = self.limits().reply_bytes_max as usize;
        let turn = self.turn(id);
        turn.speak(client, seq);
        assert_eq!(turn.mode, Mode::Stream, "{id:?} does not stream");
        let Some(live) = turn.live(call) else { panic!("{id:?} is sent what its call did not say") };
        let before = live.said.len() - piece.len();
        let fits = admission::clip(piece, most.saturating_sub(before));
        assert_eq!(text, fits, "{id:?} is sent something else than was said");
    }

    pub(crate) fn on_finish(&mut self, step: &mut Step<'_>, id: TurnId, finish: &Finish<'_>) {
        step.mark("effect Finish");
        let turn = self.turn(id);
        turn.speak(finish.client, finish.seq);
        let Phase::Ended(live, Finale::Finished(stop)) = &turn.phase else {
            panic!("{id:?} is finished in {:?}", turn.phase);
        };
        assert_eq!(finish.stop, *stop, "{id:?} stopped otherwise");
        assert_eq!(finish.model, live.model, "{id:?} was answered by another model");
        match turn.mode {
            Mode::Stream => assert_eq!(finish.text, "", "{id:?} was streamed"),
            Mode::Whole => assert_eq!(finish.text, live.said, "{id:?} is told something else than was said"),
            Mode::Deliver => panic!("{id:?} is delivered, not finished"),
        }
        match live.usage {
            Some(usage) => assert_eq!(finish.usage, usage, "{id:?}: the token counts"),
            None => {
                let tokens = live.said.chars().count().div_ceil(4) as u32;
                assert!(finish.usage.estimated, "{id:?}: token counts out of nowhere");
                assert_eq!(finish.usage.completion, tokens, "{id:?}: the estimate");
            }
        }
        turn.end(Outcome::Answered);
    }

    pub(crate) fn on_fail(&mut self, step: &mut Step<'_>, id: TurnId, fail: &Fail<'_>) {
        step.mark(format!("effect Fail {:?}", fail.code));
        let (now, waiting_age_max) = (self.now, self.limits().waiting_age_max);
        let (stopped, dropped) = (self.is_stopped(step, id), step.meeting.dropped);
        let (may_give_up, cut_off) = (self.may_give_up(id), self.is_cut_off(id));
        let gone = self.turns.get(&id).and_then(|turn| turn.agent).is_some_and(|agent| !self.employs(agent));
        let turn = self.turn(id);
        turn.speak(fail.client, fail.seq);
        assert_ne!(turn.mode, Mode::Deliver, "{id:?}: nobody waits for this failure");
        match (&turn.phase, fail.code) {
            (Phase::Waiting | Phase::Resting(_), Code::Cancelled) => {
                assert!(stopped, "{id:?}: nobody cancelled it")
            }
            (Phase::Waiting, Code::WaitedTooLong) => {
                let due = turn.admitted + waiting_age_max;
                assert!(fired(due, now), "{id:?} did not wait too long: {now:?}, not {due:?}");
                assert!(
                    matches!(step.cause, Cause::Tick),
                    "{id:?} waited too long because of {:?}",
                    step.cause
                );
            }
            (Phase::Waiting, Code::SessionFull) => {
                assert_eq!(dropped, Some(id), "{id:?} gives way, and need not");
                assert!(fail.retry_after_millis > 0, "{id:?} is not told when to come back");
            }
            (Phase::Waiting | Phase::Resting(_), Code::NotFound) => {
                assert!(gone, "{id:?}: its agent is there")
            }
            // The next model may have broken before the turn's next call was started.
            (Phase::Waiting | Phase::Resting(_) | Phase::Ended(..), Code::UpstreamUnavailable) => {
                assert!(cut_off, "{id:?} has models that take calls");
                assert!(fail.retry_after_millis > 0, "{id:?} is not told when to come back");
            }
            (Phase::Ended(_, finale), code) => {
                assert_eq!(Some(code), finale.code(), "{id:?} is told something else than happened");
                if let Finale::Failed { detail, .. } = finale {
                    assert_eq!(fail.detail, detail, "{id:?}: the upstream's own words");
                }
                if let Retry::After(wait) = finale.retry() {
                    assert_eq!(
                        u128::from(fail.retry_after_millis),
                        wait.as_millis(),
                        "{id:?}: when to come back"
                    );
                }
                assert!(may_give_up.is_ok(), "{id:?} gave up after {finale:?}: {may_give_up:?}");
            }
            (phase, code) => panic!("{id:?} is told {code:?} in {phase:?}"),
        }
        turn.end(if fail.code == Code::Cancelled { Outcome::Cancelled } else { Outcome::Failed(fail.code) });
    }

    /// Did an operator stop this turn, or a newer message?
    pub(crate) fn is_stopped(&self, step: &Step<'_>, id: TurnId) -> bool {
        if step.meeting.interrupted == Some(id) {
            return true;
        }
        let Cause::Event(Event::Operate { session, operation, .. }) = step.cause else { return false };
        let Some(turn) = self.turns.get(&id).filter(|turn| turn.session == session) else { return false };
        match operation {
            Operation::Close => true,
            Operation::Stop => self.sessions[&turn.session].queue.front() == Some(&id),
            Operation::Reset
            | Operation::Send(_)
            | Operation::Set { .. }
            | Operation::Assign(_)
            | Operation::Mode(_) => false,
        }
    }

    // ---- the end ----

    pub(crate) fn on_settled(
        &mut self,
        step: &mut Step<'_>,
        id: TurnId,
        session: SessionId,
        outcome: Outcome,
    ) {
        if self.turn(id).told.is_none() {
            self.check_silent_end(step, id, outcome);
            self.turn(id).end(outcome);
        }
        let turn = self.turn(id);
        assert_eq!(turn.session, session, "{id:?} is settled in another session");
        assert_eq!(Some(outcome), turn.told, "{id:?} was told another end");
        match outcome {
            Outcome::Answered => self.tally.answered += 1,
            Outcome::Cancelled => self.tally.cancelled += 1,
            Outcome::Merged => self.tally.merged += 1,
            Outcome::Failed(_) => self.tally.failed += 1,
            Outcome::Dead(_) => {
                (self.tally.dead, self.tally.failed) = (self.tally.dead + 1, self.tally.failed + 1)
            }
        }
        step.mark(match outcome {
            Outcome::Answered => "settled Answered".to_owned(),
            Outcome::Cancelled => "settled Cancelled".to_owned(),
            Outcome::Merged => "settled Merged".to_owned(),
            Outcome::Failed(code) => format!("settled Failed {code:?}"),
            Outcome::Dead(code) => format!("settled Dead {code:?}"),
        });
        let front = self.bury(id);
        if front && outcome != Outcome::Merged {
            self.collect(step, session);
        }
    }

    /// True if it was the first of its session.
    fn bury(&mut self, id: TurnId) -> bool {
        let order = self.next_order();
        let now = self.now;
        let Some(turn) = self.turns.remove(&id) else { return false };
        self.dead_turns.insert(id);
        let Some(owner) = self.sessions.get_mut(&turn.session) else { panic!("{id:?} outlived its session") };
        let front = owner.queue.front() == Some(&id);
        owner.queue.retain(|other| *other != id);
        if !front {
            return false;
        }
        owner.active = now;
        if let Some(next) = owner.queue.front() {
            let next = *next;
            self.turn(next).ready = Some(order);
        } else {
            owner.idle = order;
        }
        true
    }

    /// Some turns end without a word: those whose client left, those that are delivered, those that nobody waits for.
    fn check_silent_end(&mut self, step: &mut Step<'_>, id: TurnId, outcome: Outcome) {
        let left = matches!(step.cause, Cause::Event(Event::Left { turn }) if turn == id);
        let stopped = self.is_stopped(step, id);
        let (now, waiting_age_max) = (self.now, self.limits().waiting_age_max);
        let (may_give_up, cut_off) = (self.may_give_up(id), self.is_cut_off(id));
        let (owes, gone) = {
            let turn = &self.turns[&id];
            (self.owes_apology(turn), turn.agent.is_some_and(|agent| !self.employs(agent)))
        };
        let front = self.sessions[&self.turns[&id].session].queue.front() == Some(&id);
        if self.turns[&id].outbound && outcome == Outcome::Answered && self.turns[&id].mode != Mode::Deliver {
            assert!(front, "{id:?} speaks out of turn");
            self.speak(id);
            return;
        }
        let turn = &self.turns[&id];
        let delivered = turn.mode == Mode::Deliver;
        match (&turn.phase, outcome) {
            (Phase::Waiting, Outcome::Merged) => {
                assert!(delivered, "{id:?} is merged without a word");
                assert!(step.meeting.into.contains_key(&id), "{id:?} is merged, and need not be");
            }
            (Phase::Waiting, Outcome::Dead(Code::SessionFull)) if delivered => {
                assert_eq!(step.meeting.dropped, Some(id), "{id:?} gives way, and need not");
            }
            (_, Outcome::Cancelled) if left => assert!(!delivered, "{id:?} goes on whoever leaves"),
            (_, Outcome::Cancelled) => {
                assert!(
                    stopped && (delivered || turn.outbound),
                    "{id:?}: nobody cancelled it without a word"
                );
            }
            (Phase::Posting(post), _) => crate::posts::check_end(id, post, outcome),
            (Phase::Ended(live, Finale::Finished(_)), Outcome::Answered) if delivered => {
                assert_eq!(live.said.trim(), "", "{id:?}: what was said is not delivered");
            }
            (Phase::Ended(_, Finale::Cut(Cut::TooLong)), Outcome::Failed(Code::ReplyTooLong))
                if delivered => {}
            (Phase::Ended(_, finale), Outcome::Dead(code)) if delivered && !owes => {
                let broken = code == Code::UpstreamUnavailable && cut_off;
                assert!(
                    broken || Some(code) == finale.code(),
                    "{id:?} is settled with {code:?} after {finale:?}"
                );
                assert!(broken || may_give_up.is_ok(), "{id:?} gave up: {may_give_up:?}");
            }
            (Phase::Waiting, Outcome::Dead(Code::WaitedTooLong)) if delivered && !owes => {
                assert!(fired(turn.admitted + waiting_age_max, now), "{id:?} did not wait too long");
            }
            (Phase::Waiting | Phase::Resting(_), Outcome::Dead(Code::UpstreamUnavailable))
                if delivered && !owes =>
            {
                assert!(cut_off, "{id:?} has models that take calls");
            }
            (Phase::Waiting | Phase::Resting(_), Outcome::Dead(Code::NotFound)) if delivered && !owes => {
                assert!(gone, "{id:?}: its agent is there");
            }
            (phase, outcome) => panic!("{id:?} is settled as {outcome:?} without a word, in {phase:?}"),
        }
    }

    /// Do people read something when this turn fails?
    pub(crate) fn owes_apology(&self, turn: &Turn) -> bool {
        turn.mode == Mode::Deliver && turn.agent.is_some_and(|agent| self.agent(agent).failure_text)
    }

    // ---- the history ----

    /// What was said in a turn that was answered in full joins the history.
    pub(crate) fn keep_history(&mut self, id: TurnId) {
        let limits = self.plan.limits.clone();
        let turn = &self.turns[&id];
        let (Some(agent), Phase::Calling(live)) = (turn.agent, &turn.phase) else { return };
        if !self.agent(agent).history || turn.forgets {
            return;
        }
        let (asked, said) = (turn.text.clone(), live.said.clone());
        if let Some(owner) = self.sessions.get_mut(&turn.session) {
            let history = owner.history.get_or_insert_default();
            remember(history, Role::User, asked, &limits);
            remember(history, Role::Agent, said, &limits);
        }
    }

    /// What an operator says joins a history that there is.
    pub(crate) fn speak(&mut self, id: TurnId) {
        let limits = self.plan.limits.clone();
        let turn = &self.turns[&id];
        if let Some(history) = self.sessions.get_mut(&turn.session).and_then(|owner| owner.history.as_mut()) {
            remember(history, Role::Agent, turn.text.clone(), &limits);
        }
    }
}

/// Adds to a history; the oldest goes whole where there is no room, and nothing is kept before a hole.
fn remember(
    history: &mut Vec<(Role, String)>,
    role: Role,
    text: String,
    limits: &clawgate_core::limits::Limits,
) {
    history.push((role, text));
    let fits = |of: &[(Role, String)]| {
        of.len() <= usize::from(limits.history_messages_max)
            && of.iter().map(|(_, text)| text.len()).sum::<usize>() <= limits.history_bytes_max as usize
    };
    let from = (0..=history.len()).find(|from| fits(&history[*from..])).unwrap_or(history.len());
    history.drain(..from);
}

//! A message comes in: its shape, repetition, policy, session, agent, and whether there is room for it. The order is
//! that of the stages, and each that is passed is counted. What is refused leaves nothing behind.
use crate::bounds::{Count, Lease};
use crate::call::{prompt_chars, tokens};
use crate::codes::Code;
use crate::dedup::{At, Mark, Share};
use crate::effect::{Effect, Effects, Ignored, Notice, Outcome};
use crate::event::{Class, Content, Inbound, Mode, Scope, Stop};
use crate::home::session_hash;
use crate::id::{AccountId, AgentId, Client};
use crate::limits::Limits;
use crate::links::Origin;
use crate::list::Link;
use crate::load::Memory;
use crate::log::Await;
use crate::overload;
use crate::places::Desk;
use crate::policy;
use crate::route::{self, Question, Standing};
use crate::session::Session;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::stage::Stage;
use crate::time::Time;
use crate::timers::Key;
use crate::turn::{Call, Delivering, Errand, Holds, NOWHERE, State, Turn};
use alloc::string::String;

/// How a message that is not admitted is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Duplicate,
    Ignored(Ignored),
    Refused(Code, u32),
    /// Not yet: see [`crate::lookup`].
    Waits,
}

/// When to come back where nothing is known that would tell, milliseconds.
pub(crate) const SOON: u32 = 1_000;

/// Where an admitted message begins.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    /// It has its places and starts at once: the model's number in the chain, and its place.
    Start(u16, u16),
    /// It has a waiting place.
    Queue,
}

/// What is known of a message once it is let in.
struct Known<'a> {
    inbound: &'a Inbound<'a>,
    post: u16,
    hash: u64,
    mark: Option<Mark>,
    /// Its session's slot, if it has one.
    session: Option<u32>,
    /// The account that it came from, where its conversation is one of several accounts.
    origin: Option<Origin>,
}

/// Where the conversation of a message is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose {
    pub(crate) hash: u64,
    /// The place of its channel; that of linked conversations where it is one.
    pub(crate) post: u16,
    /// Its session's slot, if it has one.
    pub(crate) session: Option<u32>,
    /// It is a conversation of several accounts.
    pub(crate) is_linked: bool,
}

/// Nobody is told to come back later than this because of what a model grants in a minute, milliseconds.
const QUOTA_WAIT_TOLD_MAX: u32 = 600_000;

/// What becomes a turn.
pub(crate) struct Message<'a> {
    pub(crate) client: Client,
    pub(crate) mode: Mode,
    pub(crate) class: Class,
    pub(crate) desk: u16,
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    pub(crate) content: Content,
    pub(crate) errand: Option<Errand>,
}

impl<'a> Message<'a> {
    const fn of(inbound: &Inbound<'a>) -> Self {
        let Inbound { mode, class, name, text, content, .. } = *inbound;
        Self { client: Client::NOBODY, mode, class, desk: NOWHERE, name, text, content, errand: None }
    }
}

/// What a session was found to have room for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// It is there.
    Found,
    /// A unit of the bound was taken for it.
    Taken,
    /// The longest idle one must go.
    Evict,
}

impl Shard {
    pub(crate) fn on_inbound(&mut self, client: Client, inbound: &Inbound<'_>, out: &mut Effects) {
        self.counters.pass(Stage::Ingest);
        if let Err(answer) = self.admit(client, inbound, false, out) {
            self.answer(client, inbound, answer, out);
        }
    }

    /// Answers a message that was not admitted.
    pub(crate) fn answer(
        &mut self,
        client: Client,
        inbound: &Inbound<'_>,
        answer: Answer,
        out: &mut Effects,
    ) {
        match answer {
            Answer::Duplicate => {
                self.counters.duplicate += 1;
                if self.answer_again(client, inbound, out) {
                    return;
                }
                // The message that it repeats may not be on disk yet: until then it is not acknowledged either.
                match self.log.behind().filter(|_| self.is_written(inbound.mode, inbound.receipt)) {
                    Some(lsn) => self.log.wait(lsn, Await::Repeated { client }),
                    None => out.push(Effect::Duplicate { client }),
                }
            }
            Answer::Ignored(why) => {
                self.counters.ignore(why);
                out.push(Effect::Ignored { client, why });
            }
            Answer::Refused(code, retry_after_millis) => {
                self.counters.refuse(code);
                out.push(Effect::Refused { client, code, retry_after_millis });
            }
            Answer::Waits => {}
        }
    }

    /// `asked`: it has waited for the store's word on its id, and that is new.
    pub(crate) fn admit(
        &mut self,
        client: Client,
        inbound: &Inbound<'_>,
        asked: bool,
        out: &mut Effects,
    ) -> Result<(), Answer> {
        let mut known = self.validate(inbound, out)?;
        let written = self.is_written(inbound.mode, inbound.receipt);
        if !asked && self.must_wait(known.hash, known.mark, written) {
            // Of its own channel, also where its conversation is kept under another one.
            let post = self.places.post_of(inbound.channel).unwrap_or(known.post);
            let place = (post, known.hash, known.mark);
            return Err(self.wait_for_word(client, inbound, place, out));
        }
        self.counters.pass(Stage::Validate);
        let room = self.room(known.session)?;
        self.counters.pass(Stage::Enrich);
        let placed = self.route(&known).and_then(|(desk, keep)| {
            self.counters.pass(Stage::Route);
            self.place(&known, desk).map(|beginning| (desk, keep, beginning))
        });
        if placed.is_err() && room == Room::Taken {
            self.sessions_lease.give(&self.bounds.sessions);
        }
        let (desk, keep, beginning) = placed?;
        let session = self.session_for(&known, room, out);
        self.remember(&known);
        if let Some(session) = self.sessions.at_mut(session) {
            if keep && !session.assigned {
                session.desk = desk;
            }
            session.mode = inbound.mode;
            session.fleeting &= inbound.fleeting;
            match &known.origin {
                None => session.remember_chat(inbound.chat),
                Some(origin) => session.remember_chat(&origin.write()),
            }
        }
        let class = self.class_of(inbound);
        let turn = self.turn_for(session, Message { client, class, desk, ..Message::of(inbound) });
        if let Some(turn) = self.turns.at_mut(turn) {
            (turn.asked, turn.account) = (inbound.agent.is_some(), inbound.account);
        }
        self.comes_from(turn, known.origin.take());
        let place = self.place_in_queue(turn, &beginning);
        self.accept(turn, written, place, out);
        if written {
            let lsn = self.write_accepted(turn, inbound.id, out);
            self.log.wait(lsn, Await::Ack { client, turn: self.turn_id(turn) });
            if let Some(mark) = known.mark {
                self.log.wait_to_save(lsn, lsn, Await::Seen { mark: mark.words() });
                self.dedup.is_kept(mark, lsn, self.log.unsaved_from());
                if let Some(turn) = self.turns.at_mut(turn) {
                    turn.mark = mark;
                    if inbound.mode != Mode::Deliver {
                        turn.set_id(inbound.id);
                    }
                }
            }
        }
        let said = if inbound.content.is_words() { inbound.text } else { "" };
        self.publish(Notice::Received, session, Some(turn), said, out);
        if self.listening {
            let name = self.places.desk(desk).map_or("", |desk| &desk.name);
            self.publish(Notice::Routed, session, Some(turn), name, out);
        }
        self.set_off(turn, beginning, out);
        Ok(())
    }

    /// Everything that needs no session.
    fn validate<'a>(&mut self, inbound: &'a Inbound<'a>, out: &mut Effects) -> Result<Known<'a>, Answer> {
        let Some(post) = self.places.post_of(inbound.channel) else {
            return Err(Answer::Refused(Code::NotFound, 0));
        };
        let limits = &self.plan.limits;
        check_shape(limits, inbound)?;
        let channel = self.plan.channel(inbound.channel);
        let Whose { hash, post, session, is_linked } = self.whose(inbound, post);
        let mark = (!inbound.id.is_empty()).then(|| self.mark_of(inbound, hash));
        if mark.is_some_and(|mark| self.dedup.knows(mark, self.now, limits.dedup_age_max)) {
            return Err(Answer::Duplicate);
        }
        let judged = policy::judge(channel, inbound);
        let origin = is_linked.then(|| Origin::of(&channel.name, inbound));
        let known = Known { inbound, post, hash, mark, session, origin };
        let ignored = match judged {
            Err(why) => why,
            Ok(()) if policy::is_asked(inbound.kind) => {
                let written = self.is_written(inbound.mode, inbound.receipt);
                let shut =
                    if self.draining { Some(Code::Draining) } else { self.unwritable().filter(|_| written) };
                return shut.map_or(Ok(known), |code| Err(Answer::Refused(code, SOON)));
            }
            Ok(()) => {
                self.only_publish(&known, out);
                Ignored::Kind
            }
        };
        self.remember(&known);
        Err(Answer::Ignored(ignored))
    }

    /// What no agent is asked about reaches the listeners, under a session because that is how they filter.
    fn only_publish(&mut self, known: &Known<'_>, out: &mut Effects) {
        if !self.listening {
            return;
        }
        // Nobody is forgotten for the sake of a reaction.
        if let Ok(room @ (Room::Found | Room::Taken)) = self.room(known.session) {
            let session = self.session_for(known, room, out);
            self.publish(Notice::Received, session, None, known.inbound.text, out);
        }
    }

    /// Remembers the event id of a message from before a restart, so that its repetition is known for one.
    pub fn remember_before(&mut self, now: Time, inbound: &Inbound<'_>) {
        self.now = self.now.max(now);
        let Some(post) = self.places.post_of(inbound.channel) else { return };
        let Whose { hash, post, .. } = self.whose(inbound, post);
        let mark = (!inbound.id.is_empty()).then(|| self.mark_of(inbound, hash));
        let age_max = self.plan.limits.dedup_age_max;
        if mark.is_some_and(|mark| !self.dedup.knows(mark, self.now, age_max)) {
            self.remember(&Known { inbound, post, hash, mark, session: None, origin: None });
        }
    }

    fn remember(&mut self, known: &Known<'_>) {
        if let Some(mark) = known.mark {
            let share = self.dedup_share();
            self.dedup.remember(mark, At::now(self.now), self.now, &share);
        }
    }

    /// How many event ids this shard remembers, and for how long.
    pub(crate) fn dedup_share(&self) -> Share {
        let (limits, shards) = (&self.plan.limits, u32::from(self.bounds.shards()));
        Share {
            age_max: limits.dedup_age_max,
            ids_max: limits.dedup_ids_max / shards,
            filter_bytes_max: (limits.dedup_filter_bytes_max / shards) as usize,
            unsaved_from: self.log.unsaved_from(),
        }
    }

    /// Whose conversation a message belongs to; `post` is the place of its own channel.
    pub(crate) fn whose(&self, inbound: &Inbound<'_>, post: u16) -> Whose {
        let Inbound { channel, scope, peer, chat, thread, .. } = *inbound;
        let linked = self.plan.links.person(channel, scope, peer);
        let (post, peer) = match linked {
            None => (post, peer),
            Some((owner, person)) => (self.places.post_of(owner).unwrap_or(post), person),
        };
        let name = self.places.post(post).map_or("", |post| &*post.name);
        let hash = session_hash(&self.secret, name, scope, peer, chat, thread);
        let session = self.lookup(hash, post, scope, peer, chat, thread);
        Whose { hash, post, session, is_linked: linked.is_some() }
    }

    /// The mark of a message's event id, in the conversation of this hash.
    pub(crate) fn mark_of(&self, inbound: &Inbound<'_>, hash: u64) -> Mark {
        let Inbound { channel, scope, peer, id, .. } = *inbound;
        Mark::from_words(self.plan.mark(&self.secret, channel, scope, peer, (hash, id)))
    }

    /// A turn's message came from one of the accounts that share its conversation.
    pub(crate) fn comes_from(&mut self, slot: u32, origin: Option<Origin>) {
        if let Some(origin) = origin
            && let Some(turn) = self.turns.at_mut(slot)
        {
            turn.rare().origin = Some(origin);
        }
    }

    /// Makes the session of the conversation that a message belongs to; its unit of the bound was taken before.
    pub(crate) fn make_session(
        &mut self,
        hash: u64,
        post: u16,
        inbound: &Inbound<'_>,
        origin: Option<&Origin>,
        out: &mut Effects,
    ) -> u32 {
        let (now, stored) = (self.now, self.log.store);
        let session = match origin {
            None => Session::new(hash, post, inbound, now, stored),
            Some(origin) => {
                let (_, peer) = self.plan.owner(inbound.channel, inbound.scope, inbound.peer);
                let chat = origin.write();
                Session::new(hash, post, &Inbound { peer, chat: &chat, ..*inbound }, now, stored)
            }
        };
        self.insert_session(session, out)
    }

    /// The session of this conversation.
    pub(crate) fn lookup(
        &self,
        hash: u64,
        post: u16,
        scope: Scope,
        peer: &str,
        chat: &str,
        thread: &str,
    ) -> Option<u32> {
        let is =
            |slot| self.sessions.at(slot).is_some_and(|session| session.is(post, scope, peer, chat, thread));
        self.index.find(hash, is)
    }

    fn room(&mut self, session: Option<u32>) -> Result<Room, Answer> {
        if session.is_some() {
            Ok(Room::Found)
        } else if self.sessions_lease.take(&self.bounds.sessions) {
            Ok(Room::Taken)
        } else if self.idle.is_empty() {
            Err(Answer::Refused(Code::Busy, SOON))
        } else {
            Ok(Room::Evict)
        }
    }

    /// The session's slot; makes the session if there is none.
    fn session_for(&mut self, known: &Known<'_>, room: Room, out: &mut Effects) -> u32 {
        if let Some(slot) = known.session {
            return slot;
        }
        if room == Room::Evict {
            // Its unit passes to the new one.
            self.counters.evicted += 1;
            self.remove_session(self.idle.head(), "evicted", out);
        }
        self.make_session(known.hash, known.post, known.inbound, known.origin.as_ref(), out)
    }

    /// The session of a conversation that an earlier message began, if there is room for it.
    pub(crate) fn session_again(
        &mut self,
        hash: u64,
        post: u16,
        inbound: &Inbound<'_>,
        out: &mut Effects,
    ) -> Option<u32> {
        let own = self.places.post_of(inbound.channel).unwrap_or(post);
        let Whose { session, is_linked, .. } = self.whose(inbound, own);
        let room = self.room(session).ok()?;
        let origin = is_linked.then(|| Origin::of(&self.plan.channel(inbound.channel).name, inbound));
        Some(self.session_for(&Known { inbound, post, hash, mark: None, session, origin }, room, out))
    }

    /// Takes a new session in, idle. Its unit of the bound was taken before.
    pub(crate) fn insert_session(&mut self, mut session: Session, out: &mut Effects) -> u32 {
        let hash = session.hash;
        session.history_from = self.closed.history_from(hash);
        let (slot, _) = self.sessions.insert(session);
        self.index.insert(hash, slot);
        self.idle.push_back(&mut self.sessions, slot);
        self.publish(Notice::Created, slot, None, "", out);
        slot
    }

    /// Which agent answers, and whether the session keeps it.
    fn route(&mut self, known: &Known<'_>) -> Result<(u16, bool), Answer> {
        if let Some(agent) = known.inbound.agent {
            return self
                .places
                .desk_of(agent)
                .map(|desk| (desk, false))
                .ok_or(Answer::Refused(Code::NotFound, 0));
        }
        let session = known.session.and_then(|slot| self.sessions.at(slot));
        let kept = session.filter(|session| self.agent_id(session.desk).is_some());
        if let Some(session) = kept
            && session.assigned
        {
            return Ok((session.desk, false));
        }
        let channel = self.plan.channel(known.inbound.channel);
        if let Some(desk) = channel.agent.and_then(|agent| self.places.desk_of(agent)) {
            return Ok((desk, false));
        }
        let party = match known.inbound.scope {
            Scope::Direct => known.inbound.peer,
            Scope::Group => known.inbound.chat,
        };
        let question = Question {
            text: known.inbound.text,
            channel: &channel.name,
            party,
            kept: kept.and_then(|session| self.agent_id(session.desk)),
        };
        let mut random = self.random.clone();
        let choice = route::choose(&self.route, &question, |agent| self.standing(agent), &mut random);
        self.random = random;
        let desk = self.places.desk_of(choice.agent).ok_or(Answer::Refused(Code::NotFound, 0))?;
        Ok((desk, choice.keep))
    }

    /// The agent that would answer this message of a session now.
    pub(crate) fn route_again(&mut self, inbound: &Inbound<'_>, session: u32) -> Option<u16> {
        let own = self.sessions.at(session)?;
        let (post, hash) = (own.post, own.hash);
        let known = Known { inbound, post, hash, mark: None, session: Some(session), origin: None };
        self.route(&known).ok().map(|(desk, _)| desk)
    }

    /// How an agent stands, over the process where it has limits.
    fn standing(&self, agent: AgentId) -> Standing {
        let Some(desk) = self.places.desk_of(agent).and_then(|place| self.places.desk(place)) else {
            return Standing { load: u32::MAX, broken: true };
        };
        let counts = self.bounds.agent_at(desk.seat);
        let of = |lease: &Lease, count: &Count| if lease.is_bounded() { count.read() } else { lease.used() };
        let load = of(&desk.waiting, &counts.waiting).saturating_add(of(&desk.running, &counts.running));
        Standing { load, broken: self.chosen(&desk.chain, 0).is_none() }
    }

    /// Whether there is room for one more turn of the session at this agent, and takes it.
    fn place(&mut self, known: &Known<'_>, place: u16) -> Result<Beginning, Answer> {
        let session = known.session.and_then(|slot| self.sessions.at(slot));
        let (busy, behind, warm) = session.map_or((false, 0, !self.log.store), |session| {
            (session.current != NONE, session.waiting.len(), session.memory == Memory::Warm)
        });
        // What needs no past waits for none.
        let warm = warm || !known.inbound.content.is_words();
        let Some(desk) = self.places.desk(place) else { return Err(Answer::Refused(Code::NotFound, 0)) };
        if busy && session.is_some_and(|session| !self.has_room(session, place, known.inbound)) {
            return Err(Answer::Refused(Code::SessionFull, self.session_wait(place, behind)));
        }
        if !self.turns_lease.take(&self.bounds.turns) {
            return Err(Answer::Refused(Code::Busy, desk.retry_after_millis(self.turns.len())));
        }
        let refused = self.beginning(known, place, !busy && warm);
        if refused.is_err() {
            self.turns_lease.give(&self.bounds.turns);
        }
        refused
    }

    fn beginning(&mut self, known: &Known<'_>, place: u16, ready: bool) -> Result<Beginning, Answer> {
        let Some(desk) = self.places.desk(place) else { return Err(Answer::Refused(Code::NotFound, 0)) };
        let choice = self.chosen(&desk.chain, 0);
        if let Some((chain, line)) = choice
            && ready
            && desk.is_empty()
            && self.take_places(place, line, true, self.coming_tokens(known, place, line))
        {
            return Ok(Beginning::Start(chain, line));
        }
        self.queue(known, place, choice.is_some())
    }

    /// Tokens of the prompt of a message that comes, estimated; 0 where nobody counts.
    fn coming_tokens(&self, known: &Known<'_>, place: u16, line: u16) -> u32 {
        if self.places.line(line).is_none_or(|line| line.per_minute.1 == 0) {
            return 0;
        }
        let past = self.excerpt(place).filter(|_| known.inbound.content.is_words());
        let session = known.session.and_then(|slot| self.sessions.at(slot));
        tokens(prompt_chars(known.inbound.text, session, past))
    }

    /// Takes a waiting place, if the message would not wait too long there.
    #[cold]
    fn queue(&mut self, known: &Known<'_>, place: u16, has_model: bool) -> Result<Beginning, Answer> {
        let class = self.class_of(known.inbound);
        let early = self.places.desk(place).and_then(|desk| self.refuses_early(desk, class));
        let Some(desk) = self.places.desk_mut(place) else { return Err(Answer::Refused(Code::NotFound, 0)) };
        let counts = self.bounds.agent_at(desk.seat);
        if early.is_some() || !desk.waiting.take(&counts.waiting) {
            desk.refused += 1;
            let wait = early.unwrap_or_else(|| desk.retry_after_millis(desk.waiting.used()));
            let ahead = desk.queue.lens().iter().sum();
            let granted = self.places.desk(place).map_or(0, |desk| self.quota_wait(desk, ahead));
            return Err(Answer::Refused(Code::AgentBusy, wait.max(granted.min(QUOTA_WAIT_TOLD_MAX))));
        }
        if !has_model {
            desk.waiting.give(&counts.waiting);
            let wait = self.half_open_after(place, 0);
            return Err(Answer::Refused(Code::UpstreamUnavailable, wait));
        }
        Ok(Beginning::Queue)
    }

    fn class_of(&self, inbound: &Inbound<'_>) -> Class {
        if inbound.class == Class::Normal { self.plan.channel(inbound.channel).class } else { inbound.class }
    }

    /// Makes a turn, the last of its session. Its unit of the bound was taken before.
    pub(crate) fn turn_for(&mut self, session: u32, message: Message<'_>) -> u32 {
        let mut words = self.texts.take();
        let name = clip(message.name, usize::from(self.plan.limits.name_bytes_max));
        words.push_str(name);
        words.push_str(message.text);
        let (slot, _) = self.turns.insert(Turn {
            link: Link::NONE,
            uid: self.log.uid(self.now),
            lsn: 0,
            mark: Mark::default(),
            receipt: None,
            session,
            client: message.client,
            mode: message.mode,
            class: message.class,
            state: State::Waiting,
            errand: message.errand,
            content: message.content,
            holds: Holds::default(),
            desk: message.desk,
            line: NOWHERE,
            chain: 0,
            tries: 0,
            calls: 0,
            keeps: false,
            pressed: false,
            asked: false,
            account: AccountId::default(),
            replayed: false,
            restored: false,
            forgets: false,
            outbound: message.errand == Some(Errand::Outbound),
            history: false,
            unsaid: false,
            stop: Stop::Complete,
            seq: 0,
            words,
            name_len: u32::try_from(name.len()).unwrap_or(0),
            reply: String::new(),
            reply_bytes: 0,
            reply_chars: 0,
            usage: None,
            admitted: self.now,
            began: Time::ZERO,
            until: Time::ZERO,
            call: Call::default(),
            delivering: Delivering::default(),
            verdict: Outcome::Answered,
            rare: None,
            timer: Key::NONE,
            armed: Time::ZERO,
        });
        slot
    }

    /// The place of a new turn among those that wait for its agent, if it is about to wait there.
    fn place_in_queue(&self, slot: u32, beginning: &Beginning) -> u32 {
        let (Beginning::Queue, Some(turn)) = (beginning, self.turns.at(slot)) else { return 0 };
        let Some(session) = self.sessions.at(turn.session).filter(|session| session.current == NONE) else {
            return 0;
        };
        let warm = session.memory == Memory::Warm || !turn.content.is_words();
        // One that is loaded first may find that it need not wait at all.
        let waits = |desk: &Desk| {
            warm || !desk.is_empty() || !self.might_start(turn.desk) || self.quota_wait(desk, 1) != 0
        };
        let desk = self.places.desk(turn.desk).filter(|desk| waits(desk));
        let ahead = desk.map(|desk| overload::ahead(desk.queue.lens(), turn.class));
        ahead.map_or(0, |ahead| u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Puts a new turn into its session and says that it is admitted.
    pub(crate) fn accept(&mut self, slot: u32, durable: bool, position: u32, out: &mut Effects) {
        let now = self.now;
        let Some(turn) = self.turns.at(slot) else { return };
        let (client, place, again) = (turn.client, turn.session, turn.errand == Some(Errand::Recite));
        let Some(session) = self.sessions.at_mut(place) else { return };
        let ahead = session.turns();
        session.messages = session.messages.saturating_add(1);
        session.active = now;
        session.unsaved = true;
        if session.current == NONE {
            session.current = slot;
            self.idle.remove(&mut self.sessions, place);
        } else {
            session.waiting.push_back(&mut self.turns, slot);
        }
        self.counters.accepted += 1;
        let ahead = u16::try_from(ahead).unwrap_or(u16::MAX);
        out.push(Effect::Accepted {
            client,
            turn: self.turn_id(slot),
            session: self.session_id(place),
            ahead,
            place: position,
            durable,
            again,
        });
    }

    fn set_off(&mut self, slot: u32, beginning: Beginning, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        match beginning {
            Beginning::Start(chain, line) => {
                (turn.holds.agent, turn.holds.model) = (true, true);
                self.start(slot, chain, line, out);
            }
            Beginning::Queue => {
                turn.holds.waiting = true;
                self.set_off_waiting(slot, out);
                self.meet_running(slot, out);
            }
        }
    }

    /// A turn that begins by waiting.
    pub(crate) fn set_off_waiting(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let first = self.sessions.at(turn.session).is_some_and(|session| session.current == slot);
        if first {
            self.come_forward(slot, out);
            self.publish_state(slot, out);
        }
        self.arm(slot);
    }
}

/// What can be said of a message without knowing anything else.
fn check_shape(limits: &Limits, inbound: &Inbound<'_>) -> Result<(), Answer> {
    let refused = |code| Err(Answer::Refused(code, 0));
    let name_max = usize::from(limits.name_bytes_max);
    let text_max = if inbound.content.is_words() { limits.text_bytes_max } else { limits.request_bytes_max };
    if (text_max as usize) < inbound.text.len() || name_max < inbound.id.len() {
        return refused(Code::TooLarge);
    }
    let names = [inbound.peer, inbound.chat, inbound.thread];
    let party = match inbound.scope {
        Scope::Direct => inbound.peer,
        Scope::Group => inbound.chat,
    };
    let nobody = party.is_empty() && inbound.thread.is_empty();
    if nobody || names.iter().any(|name| name_max < name.len() || has_control(name)) {
        return refused(Code::InvalidSession);
    }
    if policy::is_asked(inbound.kind) && is_blank(inbound.text) {
        return match inbound.mode {
            Mode::Deliver => Err(Answer::Ignored(Ignored::Empty)),
            Mode::Stream | Mode::Whole => refused(Code::TextEmpty),
        };
    }
    Ok(())
}

/// Is there nothing but white space? Nearly every text shows by its first byte that there is more.
fn is_blank(text: &str) -> bool {
    !text.as_bytes().first().is_some_and(u8::is_ascii_graphic) && text.trim().is_empty()
}

/// Is there a control character of ASCII in it? Looks at eight bytes at a time.
fn has_control(name: &str) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // A borrow may mark the byte after a control character too: for the word as a whole that changes nothing.
    let holds_one = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        let delete = word ^ (0x7F * ONES);
        (word.wrapping_sub(0x20 * ONES) & !word | delete.wrapping_sub(ONES) & !delete) & (0x80 * ONES) != 0
    };
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    words.iter().any(holds_one)
        || match name.as_bytes().last_chunk() {
            _ if rest.is_empty() => false,
            Some(last) => holds_one(last),
            None => rest.iter().any(u8::is_ascii_control),
        }
}

/// As much of a display name as there is room for: nobody goes unanswered because of a long one.
pub(crate) fn clip(name: &str, max: usize) -> &str {
    &name[..name.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn control_characters_are_found_wherever_they_stand() {
        for byte in 0..=0x7F_u8 {
            let control = byte < 0x20 || byte == 0x7F;
            for before in 0..20 {
                for fill in ["~", " ", "é"] {
                    let name = format!("{}{}{fill}", fill.repeat(before), char::from(byte));
                    assert_eq!(has_control(&name), control, "{name:?}");
                }
            }
        }
        assert!(!has_control("") && !has_control("\u{80}\u{9f}"));
    }

    #[test]
    fn blank_is_what_trims_to_nothing() {
        for text in ["", " ", "\t\n", "\u{3000}", "a", " a", "\u{7}", "é", "\u{a0}é"] {
            assert_eq!(is_blank(text), text.trim().is_empty(), "{text:?}");
        }
    }
}

//! What operators do to sessions.
use crate::admit::Message;
use crate::codes::Code;
use crate::effect::{Effect, Effects, Notice, Saved};
use crate::event::{Class, Content, Operation, Scope};
use crate::history::Unset;
use crate::id::{AgentId, Client, SessionId, Uid};
use crate::links::{CHANNEL, Origin};
use crate::load::Memory;
use crate::log::Await;
use crate::plan::RunningMode;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::turn::{Errand, NOWHERE, State};

impl Shard {
    pub(crate) fn on_operate(
        &mut self,
        client: Client,
        session: SessionId,
        operation: Operation<'_>,
        out: &mut Effects,
    ) {
        let slot = session.slot;
        let here = self.sessions.get(slot, session.generation).is_some_and(|session| !session.dead);
        let done = if here {
            match operation {
                Operation::Reset => self.reset(slot, out),
                Operation::Close => self.close(slot, out),
                Operation::Send(text) => self.send(slot, text, out),
                Operation::Set { name, value } => self.set(slot, name, value, out),
                Operation::Assign(agent) => self.assign(slot, agent, out),
                Operation::Stop => self.stop(slot, out),
                Operation::Mode(mode) => self.set_mode(slot, mode, out),
            }
        } else {
            Err(Code::NotFound)
        };
        let written = match operation {
            Operation::Send(_) => true,
            Operation::Reset | Operation::Close => self.log.journal && self.log.store,
            Operation::Set { .. } | Operation::Assign(_) | Operation::Stop | Operation::Mode(_) => false,
        };
        match (done, self.log.behind()) {
            // What the bot says for an operator, and what it forgets for one, is acknowledged as any message is: once it
            // is on disk.
            (Ok(()), Some(lsn)) if written => self.log.wait(lsn, Await::Operated { client }),
            (done, _) => out.push(Effect::Operated { client, refused: done.err() }),
        }
    }

    /// What is forgotten must not come back from the journal.
    fn may_forget(&self) -> Result<(), Code> {
        self.unwritable().filter(|_| self.log.journal && self.log.store).map_or(Ok(()), Err)
    }

    fn reset(&mut self, slot: u32, out: &mut Effects) -> Result<(), Code> {
        self.may_forget()?;
        let Some(session) = self.sessions.at_mut(slot) else { return Err(Code::NotFound) };
        session.forget_all();
        if let Some(turn) = self.turns.at_mut(session.current) {
            // A message that only waits begins the new history; one that is being answered belongs to the old.
            turn.forgets = turn.calls != 0;
        }
        self.publish(Notice::Updated, slot, None, "reset", out);
        let mut from = self.first_kept(slot);
        if let Some(session) = self.sessions.at_mut(slot) {
            // A dead letter that is tried again may be older than what was forgotten before.
            from = from.max(session.history_from);
            // Nothing that the store may know of it counts any more.
            (session.history_from, session.memory) = (from, Memory::Warm);
        }
        let revision = self.log.uid(self.now);
        let floor = self.write_forgot(slot, (revision, from), false, out);
        self.save_session_as(slot, revision, floor, out);
        let current = self.sessions.at(slot).map_or(NONE, |session| session.current);
        if self.turns.at(current).is_some_and(|turn| turn.state == State::Loading) {
            self.queue_up(current);
            self.arm(current);
        }
        Ok(())
    }

    /// From where on history counts that begins now: what waits was named before, and belongs to it.
    fn first_kept(&mut self, slot: u32) -> Uid {
        let now = self.log.uid(self.now);
        let Some(session) = self.sessions.at(slot) else { return now };
        let current = self.turns.at(session.current);
        // Dead letters that are tried again may be older than what is forgotten.
        let (after, mut from) = match current {
            Some(turn) if turn.forgets => (turn.uid, now),
            Some(turn) => (turn.uid, turn.uid),
            None => (now, now),
        };
        let mut next = session.waiting.head();
        while let Some(turn) = self.turns.at(next) {
            if after < turn.uid {
                from = from.min(turn.uid);
            }
            next = turn.link.next();
        }
        from
    }

    fn close(&mut self, slot: u32, out: &mut Effects) -> Result<(), Code> {
        self.may_forget()?;
        // Those behind go first: none of them must become the first.
        while let Some(waiting) = self.sessions.at(slot).map(|session| session.waiting.head())
            && waiting != NONE
        {
            self.cancel(waiting, true, out);
        }
        self.stop(slot, out)?;
        if let Some(session) = self.sessions.at_mut(slot) {
            session.unsaved = false;
        }
        if self.log.store {
            let (session, revision) = (self.session_id(slot), self.log.uid(self.now));
            // After all that its turns wrote: what they said counts no more.
            let floor = self.write_forgot(slot, (revision, revision), true, out);
            let (save, needed) = (self.log.save(floor), floor != 0);
            out.push(Effect::Save { save, session, needed, saved: Saved::Closed { revision } });
            if let Some(session) = self.sessions.at(slot) {
                self.closed.remember(session.hash, revision);
            }
        }
        self.forget(slot, "closed", out);
        Ok(())
    }

    fn stop(&mut self, slot: u32, out: &mut Effects) -> Result<(), Code> {
        let current = self.sessions.at(slot).map_or(NONE, |session| session.current);
        if current != NONE {
            self.cancel(current, true, out);
        }
        Ok(())
    }

    /// A turn without a call, in the order of the session.
    fn send(&mut self, slot: u32, text: &str, out: &mut Effects) -> Result<(), Code> {
        let limits = &self.plan.limits;
        let Some(session) = self.sessions.at(slot) else { return Err(Code::NotFound) };
        if text.trim().is_empty() {
            return Err(Code::TextEmpty);
        }
        if (limits.text_bytes_max as usize) < text.len() {
            return Err(Code::TooLarge);
        }
        if self.draining {
            return Err(Code::Draining);
        }
        if let Some(code) = self.unwritable().filter(|_| self.is_written(session.mode, false)) {
            return Err(code);
        }
        // Where its person wrote from last, where it is a conversation of several accounts.
        let is_linked = self.places.post(session.post).is_some_and(|post| *post.name == *CHANNEL);
        let origin = is_linked.then(|| Origin::read(session.chat())).flatten();
        if origin.as_ref().is_some_and(|origin| !self.is_account_of(origin, session.peer())) {
            return Err(Code::ChannelGone);
        }
        let idle = session.current == NONE;
        if !idle && u32::from(limits.session_waiting_max) <= session.waiting.len() {
            return Err(Code::SessionFull);
        }
        if !self.turns_lease.take(&self.bounds.turns) {
            return Err(Code::Busy);
        }
        let (mode, errand) = (session.mode, Some(Errand::Outbound));
        let (client, class, desk) = (Client::NOBODY, Class::Normal, NOWHERE);
        let turn = self.turn_for(
            slot,
            Message { client, mode, class, desk, name: "", text, content: Content::WORDS, errand },
        );
        self.comes_from(turn, origin);
        let written = self.is_written(mode, false);
        self.accept(turn, written, 0, out);
        if written {
            self.write_accepted(turn, "", out);
        }
        if idle {
            self.come_forward(turn, out);
        }
        Ok(())
    }

    /// Is this account the person's? A session that was loaded may know one that was linked in an earlier life: it is
    /// somebody else's now, or nobody's.
    fn is_account_of(&self, origin: &Origin, person: &str) -> bool {
        let channel = self.places.id_named(&origin.channel);
        let owner = channel.and_then(|id| self.plan.links.person(id, Scope::Direct, &origin.peer));
        owner.is_some_and(|(_, name)| name == person)
    }

    fn set(&mut self, slot: u32, name: &str, value: &str, out: &mut Effects) -> Result<(), Code> {
        let Some(session) = self.sessions.at_mut(slot) else { return Err(Code::NotFound) };
        session.set(name, value, &self.plan.limits).map_err(|why| match why {
            Unset::Nameless => Code::MissingField,
            Unset::Full => Code::TooLarge,
        })?;
        self.publish(Notice::Updated, slot, None, "context", out);
        self.save_change(slot, out);
        Ok(())
    }

    fn assign(&mut self, slot: u32, agent: AgentId, out: &mut Effects) -> Result<(), Code> {
        let desk = self.places.desk_of(agent).ok_or(Code::NotFound)?;
        let Some(session) = self.sessions.at_mut(slot) else { return Err(Code::NotFound) };
        (session.desk, session.assigned) = (desk, true);
        self.publish(Notice::Updated, slot, None, "assigned", out);
        self.save_change(slot, out);
        Ok(())
    }

    fn set_mode(&mut self, slot: u32, mode: Option<RunningMode>, out: &mut Effects) -> Result<(), Code> {
        let Some(session) = self.sessions.at_mut(slot) else { return Err(Code::NotFound) };
        session.running_mode = mode;
        self.publish(Notice::Updated, slot, None, "mode", out);
        self.save_session(slot, out);
        Ok(())
    }
}

//! A turn of the last run goes on, or a dead letter is tried again: it takes its place in its session as if it had just
//! been admitted, with the name for ever that it had. What was admitted before is not refused for want of room.
use crate::admit::{Message, Whose};
use crate::codes::Code;
use crate::dedup::{At, Mark};
use crate::effect::{Effect, Effects, Outcome};
use crate::event::{Content, Inbound, Mode, Restored};
use crate::id::{ChannelId, Client, Uid};
use crate::links::Origin;
use crate::log::Await;
use crate::record::Accepted;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::split::{self, Cursor};
use crate::turn::{Errand, NOWHERE};
use alloc::vec::Vec;

impl Shard {
    pub(crate) fn on_restore(&mut self, client: Client, restored: &Restored<'_>, out: &mut Effects) {
        let done = if client == Client::NOBODY { Ok(()) } else { self.may_replay() };
        let done = done.and_then(|()| self.restore(client, restored, out));
        if client != Client::NOBODY {
            match done {
                Err(code) => out.push(Effect::Operated { client, refused: Some(code) }),
                Ok(_) if self.log.journal => {}
                Ok(_) => out.push(Effect::Operated { client, refused: None }),
            }
        }
    }

    /// An operator's wish is admitted as any message is.
    fn may_replay(&mut self) -> Result<(), Code> {
        if self.draining {
            return Err(Code::Draining);
        }
        self.unwritable().filter(|_| self.log.journal).map_or(Ok(()), Err)
    }

    fn restore(&mut self, client: Client, restored: &Restored<'_>, out: &mut Effects) -> Result<(), Code> {
        let accepted = &restored.accepted;
        let is_gone =
            !self.places.posts.iter().any(|post| post.id.is_some() && *post.name == *accepted.channel);
        let is_asked = client != Client::NOBODY;
        if is_gone && is_asked {
            return Err(Code::ChannelGone);
        }
        let (session, origin) = self.restore_session(accepted, out);
        if self.has_turn(session, accepted.uid) {
            return Err(Code::Duplicate);
        }
        let desk =
            if is_gone { NOWHERE } else { self.restore_desk(session, accepted, restored.reply.is_some()) };
        let errand = match restored.reply {
            Some((verdict, _)) => Some(Errand::Resume(verdict)),
            // What was acknowledged ends, in words, where nobody is left to answer it.
            None if is_gone => Some(Errand::Fail(Code::ChannelGone)),
            None if accepted.outbound => Some(Errand::Outbound),
            None if desk == NOWHERE && is_asked => return Err(Code::NotFound),
            None => (desk == NOWHERE).then_some(Errand::Fail(Code::NotFound)),
        };
        if is_asked && !self.log.revive(accepted.uid) {
            // It was answered since, and the store has not heard of that.
            return Err(Code::Duplicate);
        }
        self.turns_lease.force(&self.bounds.turns);
        let Accepted { mode, class, name, text, .. } = *accepted;
        let message = Message {
            client: Client::NOBODY,
            mode,
            class,
            desk,
            name,
            text,
            content: Content::WORDS,
            errand,
        };
        let slot = self.turn_for(session, message);
        self.fill_restored(slot, client == Client::NOBODY, restored);
        self.comes_from(slot, origin);
        if errand.is_none() {
            self.force_waiting(slot, desk);
        }
        self.accept(slot, self.log.journal, 0, out);
        if self.log.journal {
            self.write_again(slot, out);
            if is_asked {
                let floor = self.turns.at(slot).map_or(0, |turn| turn.lsn);
                let replayed = Await::Replayed { client, turn: self.turn_id(slot) };
                // All of it, its answer too: without that the record counts for nothing.
                self.log.wait_to_save(self.log.last(), floor, replayed);
            } else {
                self.mend_store(slot, out);
            }
        }
        self.set_off_waiting(slot, out);
        Ok(())
    }

    /// All that is known of a turn of an earlier run; `is_past` if it was left there, and nobody asks for it.
    fn fill_restored(&mut self, slot: u32, is_past: bool, restored: &Restored<'_>) {
        let accepted = &restored.accepted;
        let session = self.turns.at(slot).and_then(|turn| self.sessions.at(turn.session));
        let mark = self.mark_of(&self.inbound_of(accepted), session.map_or(0, |session| session.hash));
        if let Some(turn) = self.turns.at_mut(slot) {
            // With the power a disk that is not synced at once may have lost an end that the store knows: then there is a
            // dead letter of its name.
            let may_be_dead = is_past && accepted.mode == Mode::Deliver;
            (turn.uid, turn.replayed) = (accepted.uid, accepted.replayed || may_be_dead);
            turn.restored = is_past;
            turn.outbound = accepted.outbound;
            turn.set_id(accepted.id);
            // Who waits for an answer together with others asks for it by his own message.
            let marks: Vec<Mark> = accepted.seen.iter().map(Mark::from_words).collect();
            turn.take_in(&marks);
            turn.history = restored.history;
            turn.goes_on_in(restored.shown);
            if accepted.mode != Mode::Deliver && !accepted.id.is_empty() {
                turn.mark = mark;
            }
            if let Some((_, reply)) = restored.reply {
                turn.reply.push_str(reply);
                turn.reply_bytes = u32::try_from(reply.len()).unwrap_or(u32::MAX);
                turn.delivering.part = restored.parts;
            }
        }
    }

    /// The store may have heard less of a turn than the journal, or more: an answer that was not saved yet; a dead letter
    /// of an end that the disk lost.
    fn mend_store(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let (uid, floor, history) = (turn.uid, turn.lsn, turn.history);
        if core::mem::take(&mut turn.replayed) {
            // Until the store knows, nobody can try that letter again.
            self.log.revive(uid);
            self.save_revived(uid, floor, out);
        }
        if history {
            self.save_said(slot, out);
        }
    }

    /// Its session, and the account that it came from where that is one of several.
    fn restore_session(&mut self, accepted: &Accepted<'_>, out: &mut Effects) -> (u32, Option<Origin>) {
        let post = self.places.post_named(accepted.channel);
        let inbound = self.inbound_of(accepted);
        let Whose { hash, post, session, is_linked } = self.whose(&inbound, post);
        let origin = is_linked.then(|| Origin::of(accepted.channel, &inbound));
        let session = session.unwrap_or_else(|| {
            self.sessions_lease.force(&self.bounds.sessions);
            self.make_session(hash, post, &inbound, origin.as_ref(), out)
        });
        (session, origin)
    }

    /// The message of a record. Where its channel is gone from the configuration, of none.
    fn inbound_of<'a>(&self, accepted: &Accepted<'a>) -> Inbound<'a> {
        let Accepted { scope, mode, peer, chat, thread, id, text, .. } = *accepted;
        let channel = self.places.id_named(accepted.channel).unwrap_or(ChannelId(u16::MAX));
        Inbound { channel, scope, mode, peer, chat, thread, id, text, ..Inbound::default() }
    }

    /// The agent that was to answer, if there still is one of its name; else the one that would be asked now.
    fn restore_desk(&mut self, session: u32, accepted: &Accepted<'_>, answered: bool) -> u16 {
        let named = self.places.desks.iter().position(|desk| *desk.name == *accepted.agent);
        let named = named.filter(|&at| self.places.desks[at].id.is_some());
        if let Some(at) = named.and_then(|at| u16::try_from(at).ok()) {
            return at;
        }
        if accepted.outbound || answered {
            return NOWHERE;
        }
        let inbound = self.inbound_of(accepted);
        self.route_again(&inbound, session).unwrap_or(NOWHERE)
    }

    /// A turn of this name is under way already.
    fn has_turn(&self, session: u32, uid: Uid) -> bool {
        let Some(session) = self.sessions.at(session) else { return false };
        let is = |slot: u32| self.turns.at(slot).is_some_and(|turn| turn.uid == uid);
        let mut next = session.waiting.head();
        while let Some(turn) = self.turns.at(next) {
            if is(next) {
                return true;
            }
            next = turn.link.next();
        }
        session.current != NONE && is(session.current)
    }

    fn force_waiting(&mut self, slot: u32, desk: u16) {
        if let Some(desk) = self.places.desks.get_mut(usize::from(desk)) {
            desk.waiting.force(&self.bounds.agent_at(desk.seat).waiting);
        }
        if let Some(turn) = self.turns.at_mut(slot) {
            turn.holds.waiting = true;
        }
    }

    /// Goes on with an answer that was known before the restart, from the part that was not confirmed.
    pub(crate) fn resume(&mut self, slot: u32, verdict: Outcome, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        if turn.mode != Mode::Deliver {
            // Whoever asked is gone with the connection, and gets it by asking again, or has done so.
            self.hand_over(slot, out);
            return;
        }
        let (parts, replayed) = (turn.delivering.part, turn.replayed);
        let Some(channel) = self.channel_of(slot) else {
            // What people have read already is known to whoever tries the letter again.
            self.deliver_from(slot, verdict, Cursor::default(), parts, out);
            return;
        };
        let plan = self.plan.channel(channel);
        let mut at = Cursor::default();
        for _ in 0..parts {
            let Some((_, next)) = split::part(&turn.reply, plan.unit, plan.text_max, at) else { break };
            at = next;
        }
        match self.log.behind().filter(|_| replayed) {
            // Until that is on disk the letter stays, and whoever asked may ask again.
            Some(lsn) => {
                self.begin_delivery(slot, verdict, at, parts);
                self.deliver_after(slot, lsn);
            }
            None => self.deliver_from(slot, verdict, at, parts, out),
        }
    }

    /// Remembers an event id of an earlier run, which the store has or will have, by its mark, and when it was seen. The
    /// oldest first.
    pub fn remember_mark(&mut self, mark: [u64; 2], unix_millis: u64) {
        let (mark, at, share) = (Mark::from_words(mark), self.log.at(unix_millis), self.dedup_share());
        if at.is_fresh(At::now(self.now), share.age_max) && !self.dedup.knows(mark, self.now, share.age_max) {
            self.dedup.remember(mark, at, self.now, &share);
            self.dedup.is_kept(mark, 0, None);
        }
    }

    /// A session of this hash was closed under this name in an earlier run.
    pub fn remember_closed(&mut self, hash: u64, uid: Uid) {
        self.closed.remember(hash, uid);
    }

    /// As [`Self::remember_mark`], in any order, where there is no room but in the filter.
    pub fn remember_older_mark(&mut self, mark: [u64; 2], unix_millis: u64) {
        let (at, share) = (self.log.at(unix_millis), self.dedup_share());
        if at.is_fresh(At::now(self.now), share.age_max) {
            self.dedup.remember_older(Mark::from_words(mark), at, &share);
        }
    }

    /// All that the store has of earlier runs, from this time on, was told to this shard; `None`: simply all. Before
    /// that it is asked about each event id that is not known.
    pub fn remembers_since(&mut self, unix_millis: Option<u64>) {
        let before = unix_millis.map(|since| self.log.at(since));
        self.dedup.is_untold(before);
    }
}

//! The requests of one connection that are not answered yet. A ticket's number carries a generation, so that what a
//! cancelled turn still says cannot reach the request that came after it.
use clawgate_core::id::{ShardId, TurnId};
use clawgate_core::time::Time;

/// Requests of one connection at once; the number's other bits are the generation.
const SLOT_BITS: u32 = 16;

/// How a request wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// WebSocket: chunks, then `done`.
    Pieces,
    /// WebSocket: one `message`, then `done`.
    Message,
    /// HTTP: the JSON envelope.
    Envelope,
    /// HTTP: server-sent events.
    Events,
    /// HTTP: a whole request to a model, answered by one body in the client's own format.
    Request,
    /// HTTP: the same, answered by a stream in that format.
    RequestEvents,
    /// HTTP: a platform's webhook, acknowledged once all of its messages are admitted.
    Webhook,
    /// HTTP: an operator's call.
    Operation,
}

/// One request that waits.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Session id and the client's own id, one after the other: one reused allocation.
    names: String,
    session_len: usize,
    /// The turn that answers it, once it is admitted.
    pub(crate) turn: Option<(ShardId, TurnId)>,
    pub(crate) form: Form,
    /// The client asked to be told that the message was admitted.
    pub(crate) receipt: bool,
    /// Its receipt waits for the disk.
    pub(crate) unwritten: bool,
    /// Its answer ended.
    pub(crate) ended: bool,
    /// The shard was told that this client's outbox is full.
    pub(crate) clogged: bool,
    /// A piece was sent, so that the head of the answer is out.
    pub(crate) started: bool,
    /// The number of the last piece that was sent.
    pub(crate) shown: u32,
    /// Events of its stream that were sent, where a client's format numbers them.
    pub(crate) events: u32,
    /// When it came.
    pub(crate) began: Time,
    /// Messages of a webhook that are not admitted yet, and one for the decoding itself.
    pub(crate) waits: u32,
    /// One of a webhook's messages was refused with this many milliseconds to wait.
    pub(crate) refused: Option<u32>,
}

impl Ticket {
    const fn new(names: String, session_len: usize, form: Form, began: Time) -> Self {
        Self {
            names,
            session_len,
            turn: None,
            form,
            receipt: false,
            unwritten: false,
            ended: false,
            clogged: false,
            started: false,
            shown: 0,
            events: 0,
            began,
            waits: 0,
            refused: None,
        }
    }

    /// Is nothing more to come? `last` if its answer has ended; its receipt may follow that.
    pub(crate) const fn is_over(&mut self, last: bool) -> bool {
        self.ended |= last;
        self.ended && !self.unwritten
    }

    /// It has its receipt; had it its answer before?
    pub(crate) const fn is_over_once_written(&mut self) -> bool {
        self.unwritten = false;
        self.ended
    }

    /// The session id as the client gave it, or as we made it up.
    pub(crate) fn session(&self) -> &str {
        self.names.get(..self.session_len).unwrap_or_default()
    }

    /// The client's own id of the message; empty for none.
    pub(crate) fn id(&self) -> &str {
        self.names.get(self.session_len..).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Slot {
    generation: u16,
    live: bool,
    ticket: Ticket,
}

/// The tickets of a connection.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Tickets {
    /// Opens a ticket; `None` when too many are open.
    pub(crate) fn open(&mut self, form: Form, session: &str, id: &str, began: Time) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot {
                    generation: 0,
                    live: false,
                    ticket: Ticket::new(String::new(), 0, form, began),
                });
                slot
            }
        };
        let entry = &mut self.slots[usize::from(slot)];
        entry.live = true;
        let mut names = std::mem::take(&mut entry.ticket.names);
        names.clear();
        names.push_str(session);
        names.push_str(id);
        entry.ticket = Ticket::new(names, session.len(), form, began);
        Some(u32::from(entry.generation) << SLOT_BITS | u32::from(slot))
    }

    /// The ticket of this number, unless it was closed.
    pub(crate) fn get(&mut self, number: u32) -> Option<&mut Ticket> {
        let slot = self.slots.get_mut((number & 0xFFFF) as usize)?;
        (slot.live && u32::from(slot.generation) == number >> SLOT_BITS).then_some(&mut slot.ticket)
    }

    /// The ticket that this turn answers, unless it was closed.
    pub(crate) fn of(&mut self, shard: ShardId, turn: TurnId) -> Option<&mut Ticket> {
        self.open_ones().find(|ticket| ticket.turn == Some((shard, turn)))
    }

    /// Closes it; what still comes for it is dropped.
    pub(crate) fn close(&mut self, number: u32) {
        if self.get(number).is_none() {
            return;
        }
        let slot = number & 0xFFFF;
        let entry = &mut self.slots[slot as usize];
        entry.live = false;
        entry.generation = entry.generation.wrapping_add(1);
        // A long id must not stay with an idle connection.
        entry.ticket.names.clear();
        entry.ticket.names.shrink_to(256);
        self.free.push(u16::try_from(slot).unwrap_or(u16::MAX));
    }

    /// Closes those that are meant.
    pub(crate) fn close_where(&mut self, mut is_meant: impl FnMut(&Ticket) -> bool) {
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            if slot.live && is_meant(&slot.ticket) {
                let slot = u32::try_from(at).unwrap_or(u32::MAX);
                self.close(u32::from(self.slots[at].generation) << SLOT_BITS | slot);
            }
        }
    }

    /// The numbers of the open ones.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let open = self.slots.iter().zip(0u32..).filter(|(slot, _)| slot.live);
        open.map(|(slot, at)| u32::from(slot.generation) << SLOT_BITS | at).collect()
    }

    /// The open ones.
    pub(crate) fn open_ones(&mut self) -> impl Iterator<Item = &mut Ticket> {
        self.slots.iter_mut().filter(|slot| slot.live).map(|slot| &mut slot.ticket)
    }

    /// Is none open?
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(tickets: &mut Tickets, number: u32) -> Option<(String, String)> {
        tickets.get(number).map(|ticket| (ticket.session().to_owned(), ticket.id().to_owned()))
    }

    #[test]
    fn a_closed_number_never_finds_its_successor() {
        let mut tickets = Tickets::default();
        let first = tickets.open(Form::Pieces, "s1", "m1", Time::ZERO).unwrap();
        assert_eq!(names(&mut tickets, first), Some(("s1".to_owned(), "m1".to_owned())));
        tickets.close(first);
        tickets.close(first);
        assert!(tickets.is_empty());
        let second = tickets.open(Form::Message, "s2", "", Time::ZERO).unwrap();
        assert_ne!(first, second);
        assert_eq!(names(&mut tickets, first), None);
        assert_eq!(tickets.numbers(), [second]);
        assert_eq!(names(&mut tickets, second), Some(("s2".to_owned(), String::new())));
        assert!(!tickets.is_empty());
    }
}

//! At the end everything is there and nothing fails: all that was promised must come true, and nothing be left over.
use super::ledger::{Kind, Told, Turn, numbers_of};
use super::store::Mood;
use super::world::World;
use crate::disk::Troubles;
use clawgate_core::effect::Outcome;
use std::collections::BTreeSet;

/// Steps in which all must be done.
const STEPS_MAX: u64 = 40_000;

impl World {
    pub(crate) fn rest(&mut self) {
        self.is_resting = true;
        self.disk.troubles = Troubles { bytes_max: u64::MAX, ..Troubles::default() };
        self.store.set_mood(Mood::Quick);
        // The last life has all channels and agents.
        self.restart();
        for _ in 0..STEPS_MAX {
            self.advance();
            self.run_inputs();
            if self.is_done() {
                break;
            }
        }
        self.check_done();
        self.check_ends();
        self.check_letters();
        self.check_rows();
        // And it stays so.
        self.restart();
        assert!(self.life.turns.is_empty(), "a turn comes back after all were over");
    }

    fn is_done(&mut self) -> bool {
        self.life.turns.is_empty()
            && self.is_quiet()
            && self.life.older.is_empty()
            && self.store.taken == self.store.done
            && self.life.writers.iter().all(|writer| writer.buffered() == 0)
            && self.life.shards.iter_mut().all(|shard| {
                let load = shard.load();
                load.waiting + load.ready + load.running + load.backing_off + load.delivering == 0
            })
    }

    fn check_done(&mut self) {
        assert!(self.life.turns.is_empty(), "turns never end: {:?}", self.life.turns);
        assert!(self.is_done(), "something never comes to rest");
        for (shard, last) in self.life.shards.iter_mut().zip(&self.life.appended) {
            assert_eq!(shard.released(), *last, "nobody needs a record any more, and one is kept");
        }
        let doubled = self.ledger.doubled;
        self.marks.add("parts in doubt at a crash", doubled);
    }

    fn check_ends(&self) {
        for (number, message) in self.ledger.messages.iter().enumerate() {
            let turn = self.ledger.answered_by(number);
            match message.kind {
                Kind::Update => assert!(message.acked, "update {number} was never acknowledged"),
                Kind::Receipt => {
                    let told = message.told.as_ref();
                    assert!(told.is_some(), "the client of {number} was never told");
                    let answered = turn.is_some_and(|turn| turn.settled == Some(Outcome::Answered));
                    assert!(
                        told != Some(&Told::Merged) || turn.is_some(),
                        "{number} was merged with nothing"
                    );
                    let failed = told == Some(&Told::Failure) && !message.is_failure_moot;
                    assert!(!(answered && failed), "{number} was answered, and called failed");
                }
                Kind::Plain | Kind::Operator => {}
            }
            if message.acked && !message.is_past {
                let settled = turn.and_then(|turn| turn.settled);
                assert!(settled.is_some(), "{number} was acknowledged and never ended");
            }
        }
    }

    fn check_letters(&self) {
        let there: BTreeSet<_> = self.store.letters.keys().copied().collect();
        let owed = self.ledger.owed();
        let name = |uid: &_| self.ledger.turns.get(uid).map(|turn| turn.number);
        let (may_be_gone, must_be_gone) = self.ledger.dropped();
        let back: Vec<_> = must_be_gone.intersection(&there).map(name).collect();
        assert!(back.is_empty(), "letters were dropped, and come back: {back:?}");
        let missing: Vec<_> =
            owed.difference(&there).filter(|uid| !may_be_gone.contains(uid)).map(name).collect();
        assert!(missing.is_empty(), "dead letters are missing: {missing:?}");
        for uid in owed.intersection(&there) {
            let (turn, letter) = (&self.ledger.turns[uid], &self.store.letters[uid]);
            assert_eq!(numbers_of(&letter.text), turn.numbers, "the letter of {} says else", turn.number);
        }
        let extra: Vec<_> = there.difference(&owed).map(name).collect();
        assert!(extra.is_empty(), "letters are there and not owed: {extra:?}");
    }

    /// Did the links of where it was said change?
    fn has_moved(&self, turn: &Turn) -> bool {
        self.ledger.places(turn.number).into_iter().any(|place| self.kinship.changes(place) != 0)
    }

    fn check_rows(&self) {
        let rows = self.store.rows();
        for uid in &self.ledger.forgotten {
            // What the journal still holds is told by the links of the next life, also where it was forgotten before.
            if self.ledger.turns.get(uid).is_some_and(|turn| self.has_moved(turn)) {
                continue;
            }
            let back = rows.keys().find(|(_, other)| other == uid);
            assert!(back.is_none(), "{back:?} was forgotten, and came back");
        }
        for (uid, turn) in &self.ledger.turns {
            let is_cancelled = matches!(turn.settled, Some(Outcome::Cancelled | Outcome::Merged) | None);
            let is_overlapped = |number: &usize| self.ledger.messages[*number].is_overlapped;
            if turn.numbers.iter().any(is_overlapped) || is_cancelled {
                continue;
            }
            let wanted = match &turn.reply {
                Some((Outcome::Answered, reply)) if turn.remembers => {
                    let texts: Vec<String> =
                        turn.numbers.iter().map(|number| self.words(*number).1).collect();
                    let text = if turn.is_outbound { String::new() } else { texts.join("\n") };
                    Some((text, reply.clone()))
                }
                Some(_) | None => None,
            };
            // After a crash what was said is told to the store by the links that hold then.
            let place = self.ledger.messages[turn.number].place;
            let kinship = &self.kinship;
            let sessions = if turn.is_outbound { kinship.kin(place) } else { kinship.ever(place) };
            let found: Vec<_> = sessions.iter().filter_map(|session| rows.get(&(*session, *uid))).collect();
            let is_reset = sessions.iter().any(|session| self.ledger.reset.contains(session));
            if found.is_empty() && is_reset && self.has_moved(turn) {
                // It was told to a conversation that began anew since.
                continue;
            }
            let is_right =
                found.is_empty() == wanted.is_none() && found.iter().all(|row| Some(*row) == wanted.as_ref());
            assert!(is_right, "what is remembered of {}: {found:?}, and should be {wanted:?}", turn.number);
        }
    }
}

//! What the records of earlier runs add up to: the turns that are not over, and what the store may not know yet.
//!
//! Records come in the order of their numbers over all shards: those of a later run follow those of an earlier one, and
//! all of a turn's records of one run are one shard's. The same record may come twice, because turns are written again
//! when the journal wants to forget: what is known is only ever added to. What is told of settled turns may be known to
//! the store already: there it changes nothing.
use crate::codes::Code;
use crate::effect::Outcome;
use crate::event::{Mode, Restored};
use crate::id::Uid;
use crate::record::{Accepted, Forgot, Record};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Something that the store must know before the records that say so are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<'a> {
    /// This message's event id was seen.
    Seen(Accepted<'a>),
    /// A message was answered, and its session's agent remembers that.
    Said {
        /// The message; its text is empty where an operator spoke.
        accepted: Accepted<'a>,
        /// The answer.
        reply: &'a str,
    },
    /// A dead letter.
    Dead {
        /// The message.
        accepted: Accepted<'a>,
        /// Why.
        code: Code,
        /// Attempts at what failed.
        attempts: u16,
        /// Whoever failed in its own words.
        detail: &'a str,
        /// The answer, where only its delivery failed.
        reply: Option<&'a str>,
        /// Parts of it that were confirmed.
        parts: u16,
    },
    /// A dead letter was tried again, or dropped: it is none any more.
    Revived(Uid),
    /// A client has a receipt for this message, and may ask again how it ended: for the shards, not for the store.
    Ended {
        /// The message.
        accepted: Accepted<'a>,
        /// Its answer, or why there is none.
        ending: Result<&'a str, Code>,
    },
    /// As [`Self::Ended`], of a message that became part of another one's turn.
    EndedAs {
        /// The mark of its event id.
        mark: [u64; 2],
        /// The answer to all of them, or why there is none.
        ending: Result<&'a str, Code>,
    },
    /// A session was reset, or closed: what facts before this one say of it is forgotten.
    Forgot(Forgot<'a>),
    /// An event id was seen, of which nothing else is known.
    Mark {
        /// Its mark.
        mark: [u64; 2],
        /// When: Unix milliseconds.
        unix_millis: u64,
    },
    /// A channel was read up to here.
    Cursor {
        /// Its name.
        channel: &'a str,
        /// The platform's word for the place.
        value: &'a str,
    },
}

/// A turn that was not over.
#[derive(Debug, Default)]
pub struct Left {
    accepted: Box<[u8]>,
    reply: Box<[u8]>,
    parts: u16,
    /// The message that its answer is shown in.
    shown: Box<str>,
}

impl Left {
    /// The turn, as a shard takes it up again. `None` never comes of what [`Past::take`] was given.
    #[must_use]
    pub fn restored(&self) -> Option<Restored<'_>> {
        let Some(Record::Accepted(accepted)) = Record::decode(&self.accepted) else { return None };
        let (reply, history) = match Record::decode(&self.reply) {
            Some(Record::Reply { verdict, text, history, .. }) => (Some((verdict, text)), history),
            Some(_) | None => (None, false),
        };
        // Whoever comes after a crash finds no letter: that it was taken up is known, see `Fact::Revived`.
        let accepted = Accepted { replayed: false, ..accepted };
        Some(Restored { accepted, reply, history, parts: self.parts, shown: &self.shown })
    }

    /// Bytes of its message.
    fn asked(&self) -> u32 {
        match Record::decode(&self.accepted) {
            Some(Record::Accepted(accepted)) => u32::try_from(accepted.text.len()).unwrap_or(u32::MAX),
            Some(_) | None => 0,
        }
    }

    /// Is the answer of a dead letter that is tried again there, if there should be one? Where it is not, the letter is
    /// there still.
    fn is_whole(&self) -> bool {
        let answered = match Record::decode(&self.accepted) {
            Some(Record::Accepted(accepted)) => accepted.replayed && accepted.answered,
            Some(_) | None => false,
        };
        !answered || !self.reply.is_empty()
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub struct Past {
    left: BTreeMap<Uid, Left>,
    /// Records that count once the end is there which they are of.
    endings: BTreeMap<Uid, Vec<Box<[u8]>>>,
    last: Uid,
    orphans: u64,
}

impl Past {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { left: BTreeMap::new(), endings: BTreeMap::new(), last: Uid(0), orphans: 0 }
    }

    /// Takes the next record in, and tells what follows from it. False for bytes that are no record of this version.
    pub fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(Fact<'_>)) -> bool {
        let Some(record) = Record::decode(bytes) else { return false };
        if !self.waits_for_its_end(&record, bytes) {
            self.add_up(record, bytes, tell);
        } else if let Record::Settled { uid, .. } = record {
            for bytes in self.endings.remove(&uid).unwrap_or_default() {
                if let Some(record) = Record::decode(&bytes) {
                    self.add_up(record, &bytes, tell);
                }
            }
        }
        true
    }

    /// Puts the record aside, if it is of an end that is told once more.
    fn waits_for_its_end(&mut self, record: &Record<'_>, bytes: &[u8]) -> bool {
        let uid = match *record {
            Record::Accepted(Accepted { uid, ending, .. }) => {
                // One of before broke off.
                self.endings.remove(&uid);
                if ending {
                    self.last = self.last.max(uid);
                    self.endings.insert(uid, Vec::new());
                }
                uid
            }
            Record::Reply { uid, .. }
            | Record::Delivered { uid, .. }
            | Record::Shown { uid, .. }
            | Record::Settled { uid, .. } => uid,
            Record::Cursor { .. } | Record::Forgot(_) | Record::Seen { .. } | Record::Dropped { .. } => {
                return false;
            }
        };
        match self.endings.get_mut(&uid) {
            Some(of) => of.push(bytes.into()),
            None => return false,
        }
        true
    }

    fn add_up(&mut self, record: Record<'_>, bytes: &[u8], tell: &mut impl FnMut(Fact<'_>)) {
        match record {
            Record::Accepted(accepted) => {
                self.last = self.last.max(accepted.uid);
                if !accepted.id.is_empty() {
                    tell(Fact::Seen(accepted));
                }
                let unix_millis = accepted.unix_millis;
                accepted.seen.iter().for_each(|mark| tell(Fact::Mark { mark, unix_millis }));
                let left = self.left.entry(accepted.uid).or_default();
                left.accepted = bytes.into();
                if accepted.replayed && !accepted.answered {
                    // An answer from before is that of a dead letter which is tried again, where a full journal left out
                    // how that had ended.
                    (left.reply, left.parts) = (Box::default(), 0);
                }
                if accepted.replayed && left.is_whole() {
                    tell(Fact::Revived(accepted.uid));
                }
                // Their messages are part of this one: with it they are over, whether they were settled or not, and none is
                // a dead letter any more.
                for uid in accepted.took.iter() {
                    let shown = self.left.remove(&uid).map(|taken| taken.shown).unwrap_or_default();
                    if let Some(left) = self.left.get_mut(&accepted.uid).filter(|left| left.shown.is_empty())
                    {
                        left.shown = shown;
                    }
                    tell(Fact::Revived(uid));
                }
            }
            Record::Reply { uid, asked, .. } => self.add(uid, |left| {
                if left.asked() != asked {
                    // It is to more messages than are known to be answered by this turn: those stand for themselves.
                    return;
                }
                let was_whole = left.is_whole();
                left.reply = bytes.into();
                if !was_whole {
                    tell(Fact::Revived(uid));
                }
            }),
            Record::Delivered { uid, part, .. } => {
                self.add(uid, |left| left.parts = left.parts.max(part.saturating_add(1)));
            }
            Record::Shown { uid, message } => self.add(uid, |left| left.shown = message.into()),
            // Only the record that took it in ends it: that may have been lost where this one was not.
            Record::Settled { outcome: Outcome::Merged, .. } => {}
            Record::Settled { uid, outcome, attempts, detail } => match self.left.remove(&uid) {
                Some(left) => tell_end(&left, outcome, attempts, detail, tell),
                None => self.orphans += 1,
            },
            Record::Cursor { channel, value } => tell(Fact::Cursor { channel, value }),
            Record::Forgot(forgot) => {
                self.last = self.last.max(forgot.uid);
                tell(Fact::Forgot(forgot));
            }
            Record::Seen { mark, unix_millis } => tell(Fact::Mark { mark, unix_millis }),
            // Should it be tried again all the same, that turn goes on.
            Record::Dropped { uid } => tell(Fact::Revived(uid)),
        }
    }

    fn add(&mut self, uid: Uid, change: impl FnOnce(&mut Left)) {
        match self.left.get_mut(&uid) {
            Some(left) => change(left),
            None => self.orphans += 1,
        }
    }

    /// No turn has a later name.
    #[must_use]
    pub const fn last(&self) -> Uid {
        self.last
    }

    /// Records about turns that none had admitted: they were forgotten before, or damaged.
    #[must_use]
    pub const fn orphans(&self) -> u64 {
        self.orphans
    }

    /// The turns that were not over, in the order in which they were admitted.
    pub fn into_left(mut self) -> impl ExactSizeIterator<Item = Left> {
        // A dead letter was to be tried again, and its answer did not reach the disk: it is still one.
        self.left.retain(|_, left| left.is_whole());
        self.left.into_values()
    }
}

fn tell_end(left: &Left, outcome: Outcome, attempts: u16, detail: &str, tell: &mut impl FnMut(Fact<'_>)) {
    let Some(Record::Accepted(accepted)) = Record::decode(&left.accepted) else { return };
    let answer = match Record::decode(&left.reply) {
        Some(Record::Reply { verdict, history, text, .. }) => Some((verdict, history, text)),
        Some(_) | None => None,
    };
    if let Some((Outcome::Answered, true, reply)) = answer {
        let text = if accepted.outbound { "" } else { accepted.text };
        tell(Fact::Said { accepted: Accepted { text, ..accepted }, reply });
    }
    if accepted.mode != Mode::Deliver && outcome != Outcome::Merged {
        let ending = match (outcome, answer) {
            (Outcome::Answered, Some((_, _, reply))) => Ok(reply),
            (Outcome::Answered, None) | (Outcome::Cancelled | Outcome::Merged, _) => Err(Code::Cancelled),
            (Outcome::Failed(code) | Outcome::Dead(code), _) => Err(code),
        };
        if !accepted.id.is_empty() {
            tell(Fact::Ended { accepted, ending });
        }
        accepted.seen.iter().for_each(|mark| tell(Fact::EndedAs { mark, ending }));
    }
    if let Outcome::Dead(code) = outcome {
        // What was delivered for a turn that had failed before was an apology.
        let reply = answer.filter(|(verdict, ..)| !matches!(verdict, Outcome::Dead(_)));
        let parts = if reply.is_some() { left.parts } else { 0 };
        let reply = reply.map(|(_, _, text)| text);
        tell(Fact::Dead { accepted, code, attempts, detail, reply, parts });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::record::Marks;
    use alloc::borrow::ToOwned;
    use alloc::format;
    use alloc::string::String;

    fn accepted(uid: u64, id: &'static str) -> Accepted<'static> {
        Accepted {
            uid: Uid(uid),
            mode: Mode::Deliver,
            channel: "c",
            peer: "ann",
            text: "hi",
            id,
            ..Accepted::default()
        }
    }

    fn reply(uid: u64, verdict: Outcome, history: bool) -> Record<'static> {
        Record::Reply { uid: Uid(uid), verdict, history, asked: 2, text: "so" }
    }

    fn delivered(uid: u64, part: u16) -> Record<'static> {
        Record::Delivered { uid: Uid(uid), part, message: "" }
    }

    fn settled(uid: u64, outcome: Outcome) -> Record<'static> {
        Record::Settled { uid: Uid(uid), outcome, attempts: 2, detail: "why" }
    }

    fn fold(records: &[Record<'_>]) -> (Past, Vec<String>) {
        let (mut past, mut facts) = (Past::new(), Vec::new());
        for record in records {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let took = past.take(&bytes, &mut |fact| {
                facts.push(match fact {
                    Fact::Seen(accepted) => format!("seen {}", accepted.id),
                    Fact::Said { accepted, reply } => format!("said {:?} {reply}", accepted.text),
                    Fact::Dead { accepted, code, attempts, detail, reply, parts } => {
                        format!(
                            "dead {} {} {attempts} {detail} {reply:?} {parts}",
                            accepted.uid.0,
                            code.name()
                        )
                    }
                    Fact::Revived(uid) => format!("revived {}", uid.0),
                    Fact::Ended { accepted, ending } => format!("ended {} {ending:?}", accepted.id),
                    Fact::EndedAs { mark, ending } => format!("ended {mark:?} {ending:?}"),
                    Fact::Cursor { channel, value } => format!("cursor {channel} {value}"),
                    Fact::Forgot(forgot) => format!("forgot {} closed {}", forgot.peer, forgot.closed),
                    Fact::Mark { mark, unix_millis } => format!("mark {mark:?} {unix_millis}"),
                });
            });
            assert!(took);
        }
        (past, facts)
    }

    #[test]
    fn what_is_not_over_is_left_with_all_that_is_known_of_it() {
        let (past, facts) = fold(&[
            Record::Accepted(accepted(5, "e5")),
            Record::Accepted(accepted(3, "e3")),
            reply(5, Outcome::Answered, false),
            delivered(5, 0),
            Record::Accepted(accepted(9, "")),
            settled(9, Outcome::Cancelled),
            // Written again: nothing is lost by it.
            Record::Accepted(accepted(5, "")),
            reply(7, Outcome::Answered, false),
        ]);
        assert_eq!(facts, ["seen e5", "seen e3"]);
        assert_eq!((past.last(), past.orphans()), (Uid(9), 1));
        let left: Vec<_> = past.into_left().collect();
        let restored: Vec<_> = left.iter().map(|left| left.restored().unwrap()).collect();
        assert_eq!(restored.len(), 2);
        assert_eq!((restored[0].accepted.uid.0, restored[0].reply, restored[0].parts), (3, None, 0));
        let second = restored[1];
        assert_eq!((second.accepted.uid.0, second.reply), (5, Some((Outcome::Answered, "so"))));
        assert_eq!(second.parts, 1);
    }

    #[test]
    fn a_letter_that_is_tried_again_does_not_keep_the_apology_for_the_first_time() {
        let (past, _) = fold(&[
            Record::Accepted(accepted(1, "")),
            reply(1, Outcome::Dead(Code::UpstreamFailed), false),
            // Here the journal was full: how the first time ended was left out.
            Record::Accepted(Accepted { replayed: true, ..accepted(1, "") }),
        ]);
        let left: Vec<_> = past.into_left().collect();
        assert_eq!(left[0].restored().unwrap().reply, None, "a model is asked again");
    }

    #[test]
    fn what_is_over_is_told_to_the_store() {
        let outbound = Accepted { outbound: true, ..accepted(2, "") };
        let (past, facts) = fold(&[
            Record::Accepted(accepted(1, "")),
            reply(1, Outcome::Answered, true),
            settled(1, Outcome::Answered),
            Record::Accepted(outbound),
            reply(2, Outcome::Answered, true),
            settled(2, Outcome::Answered),
            Record::Accepted(accepted(3, "")),
            reply(3, Outcome::Answered, true),
            delivered(3, 0),
            settled(3, Outcome::Dead(Code::DeliveryFailed)),
            Record::Accepted(accepted(4, "")),
            reply(4, Outcome::Dead(Code::UpstreamFailed), false),
            delivered(4, 0),
            settled(4, Outcome::Dead(Code::UpstreamFailed)),
            Record::Accepted(Accepted { replayed: true, ..accepted(4, "") }),
            Record::Dropped { uid: Uid(3) },
            Record::Cursor { channel: "c", value: "8" },
            Record::Forgot(Forgot { uid: Uid(9), closed: true, peer: "ann", ..Forgot::default() }),
        ]);
        assert_eq!(past.last(), Uid(9), "no later turn takes that name");
        assert_eq!(
            facts,
            [
                "said \"hi\" so",
                "said \"\" so",
                "said \"hi\" so",
                "dead 3 DELIVERY_FAILED 2 why Some(\"so\") 1",
                "dead 4 UPSTREAM_FAILED 2 why None 0",
                "revived 4",
                "revived 3",
                "cursor c 8",
                "forgot ann closed true"
            ]
        );
        let left: Vec<_> = past.into_left().collect();
        assert!(!left[0].restored().unwrap().accepted.replayed, "its letter is gone by then");
        assert!(!Past::new().take(&[77], &mut |_| {}));
    }

    #[test]
    fn an_answer_to_more_than_is_known_to_be_joined_is_none() {
        const TOOK: [[u8; 8]; 1] = [crate::record::uid_bytes(Uid(1))];
        let joined = Accepted { took: crate::record::Uids::new(&TOOK), text: "hi\nho", ..accepted(2, "") };
        let answer = Record::Reply {
            uid: Uid(2),
            verdict: Outcome::Answered,
            history: false,
            asked: 5,
            text: "to both",
        };
        let all = [
            Record::Accepted(accepted(1, "")),
            Record::Accepted(accepted(2, "")),
            Record::Accepted(joined),
            answer,
        ];
        let texts = |records: &[Record<'_>]| {
            let left: Vec<_> = fold(records).0.into_left().collect();
            let text = |left: &Left| {
                let restored = left.restored().unwrap();
                format!("{} {:?}", restored.accepted.text, restored.reply.map(|(_, reply)| reply))
            };
            left.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(texts(&all), ["hi\nho Some(\"to both\")"]);
        assert_eq!(texts(&[all[0], all[1], answer]), ["hi None", "hi None"], "the record between was lost");
    }

    /// Who has a receipt, and asks again after a restart, hears how his message ended; also if it became part of another
    /// one's turn.
    #[test]
    fn clients_are_told_how_their_messages_ended() {
        let marks = [[7; 16], [8; 16]];
        let asks = Accepted { mode: Mode::Whole, ..accepted(1, "e1") };
        let joined = Accepted { mode: Mode::Whole, id: "e2", seen: Marks::new(&marks), ..accepted(2, "") };
        let (past, facts) = fold(&[
            Record::Accepted(asks),
            reply(1, Outcome::Answered, false),
            settled(1, Outcome::Answered),
            Record::Accepted(joined),
            settled(2, Outcome::Failed(Code::UpstreamFailed)),
            // A platform asks nothing.
            Record::Accepted(accepted(3, "e3")),
            reply(3, Outcome::Answered, false),
            settled(3, Outcome::Answered),
        ]);
        assert_eq!(past.into_left().count(), 0);
        let told: Vec<_> = facts.iter().filter(|fact| fact.starts_with("ended")).collect();
        let of = |mark: u8| u64::from_le_bytes([mark; 8]);
        let failed = "Err(UpstreamFailed)";
        assert_eq!(
            told,
            [
                "ended e1 Ok(\"so\")".to_owned(),
                format!("ended e2 {failed}"),
                format!("ended [{0}, {0}] {failed}", of(7)),
                format!("ended [{0}, {0}] {failed}", of(8)),
            ]
            .iter()
            .collect::<Vec<_>>()
        );
    }

    /// The disk tears what is written: a dead letter whose end was told once more came back as a message.
    #[test]
    fn an_end_that_is_told_once_more_counts_as_a_whole_or_not_at_all() {
        let again = Accepted { ending: true, text: "hi again", ..accepted(1, "") };
        let dead = settled(1, Outcome::Dead(Code::SessionFull));
        let whole = [
            Record::Accepted(accepted(1, "")),
            dead,
            Record::Accepted(again),
            reply(1, Outcome::Answered, false),
            delivered(1, 0),
            dead,
        ];
        for until in 2..whole.len() {
            let (past, facts) = fold(&whole[..until]);
            assert_eq!((past.into_left().count(), facts.len()), (0, 1), "{until}: {facts:?}");
        }
        assert_eq!(fold(&whole).1.len(), 2, "said twice, to a store that knows it");
        // Where its first end was lost it is as it was before, until the second is there.
        let lost = [whole[0], whole[2], whole[3]];
        let (past, _) = fold(&lost);
        let left: Vec<_> = past.into_left().collect();
        let restored = left[0].restored().unwrap();
        assert_eq!((left.len(), restored.accepted.text, restored.reply), (1, "hi", None));
        let (past, facts) = fold(&[whole[0], whole[2], dead]);
        assert_eq!((past.into_left().count(), facts.len()), (0, 1));
        // A later run took it up, and told nothing of an end.
        let (past, _) = fold(&[whole[0], whole[2], whole[0], reply(1, Outcome::Answered, false)]);
        assert!(past.into_left().next().unwrap().restored().unwrap().reply.is_some());
    }

    #[test]
    fn a_message_is_not_over_by_the_word_that_it_was_taken_in() {
        let (past, _) = fold(&[Record::Accepted(accepted(1, "")), settled(1, Outcome::Merged)]);
        assert_eq!(past.into_left().count(), 1, "what took it in was lost");
    }

    #[test]
    fn a_letter_is_one_until_its_answer_is_beside_it_and_another_turn_is_never_lost() {
        let answered = Accepted { answered: true, ..accepted(1, "") };
        let tried = Accepted { answered: true, replayed: true, ..accepted(2, "") };
        let (past, facts) = fold(&[Record::Accepted(answered), Record::Accepted(tried)]);
        assert_eq!(facts, [""; 0]);
        let left: Vec<_> = past.into_left().map(|left| left.restored().unwrap().accepted.uid).collect();
        assert_eq!(left, [Uid(1)], "written again, and the answer was lost: it is given again");
        let (past, facts) = fold(&[Record::Accepted(tried), reply(2, Outcome::Answered, false)]);
        assert_eq!((past.into_left().count(), facts), (1, alloc::vec![String::from("revived 2")]));
    }
}

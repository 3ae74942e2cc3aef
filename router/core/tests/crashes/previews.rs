//! What people see of an answer while it is written: messages on the platform, which of them a turn may edit, and that
//! none is left over beside the answer but for a reason.
use super::ledger::{Ledger, Turn};
use clawgate_core::id::Uid;
use clawgate_core::record::Record;
use std::collections::BTreeMap;

/// A message on the platform that showed an answer before it was whole.
#[derive(Clone, Copy, Debug)]
struct Draft {
    /// The turn that posted it, and the one that shows its answer in it now.
    from: Uid,
    uid: Uid,
    /// The shard knows its name.
    is_known: bool,
    /// The answer took its place.
    is_answer: bool,
    /// It may be left over: nobody knew of it, or it could not be edited.
    is_excused: bool,
}

/// All of them, by their names.
#[derive(Debug, Default)]
pub(crate) struct Previews(BTreeMap<String, Draft>);

impl Previews {
    /// May this message be left over?
    pub(crate) fn is_excused(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|draft| draft.is_excused)
    }

    /// What was shown of a turn may be left over.
    pub(crate) fn excuse(&mut self, uid: Uid) {
        self.0.values_mut().filter(|draft| draft.uid == uid).for_each(|draft| draft.is_excused = true);
    }
}

impl Ledger {
    /// A shard asks to show what was said so far.
    pub(crate) fn on_show(&mut self, uid: Uid, text: &str, edits: &str) {
        let Some(turn) = self.turns.get(&uid) else { panic!("a preview of a turn that nobody admitted") };
        let number = turn.number;
        assert!(!text.is_empty(), "nothing is shown for {number}");
        assert!(
            turn.reply.is_none() || turn.reviving(),
            "{number} is answered, and shows what was said before"
        );
        assert!(!turn.is_over(), "{number} is over, and shows something");
        let is_one = !edits.is_empty() || turn.shown.is_none() || turn.is_replayed();
        assert!(is_one, "{number} shows its answer in {:?}, and posts another message", turn.shown);
        self.check_edits(uid, edits);
    }

    /// Is this turn the other one, or part of it by now?
    fn became(&self, mut turn: Uid, other: Uid) -> bool {
        while turn != other {
            let Some(into) = self.turns.get(&turn).and_then(Turn::into) else { return false };
            turn = into;
        }
        true
    }

    /// What is edited is a message of the turn's own, or of one that became part of it.
    pub(crate) fn check_edits(&mut self, uid: Uid, edits: &str) {
        if edits.is_empty() {
            return;
        }
        let Some(draft) = self.previews.0.get_mut(edits) else { panic!("{edits} was never posted") };
        let owner = draft.from;
        draft.uid = uid;
        assert!(self.became(owner, uid), "{uid:?} edits {edits}, which shows the answer of {owner:?}");
    }

    /// The platform takes a preview; the name of its message.
    pub(crate) fn on_show_taken(&mut self, uid: Uid, edits: &str, heard: bool) -> String {
        if !edits.is_empty() {
            return edits.to_owned();
        }
        let name = format!("p{}", self.previews.0.len() + 1);
        let draft = Draft { from: uid, uid, is_known: false, is_answer: false, is_excused: !heard };
        self.previews.0.insert(name.clone(), draft);
        name
    }

    /// A shard was told of a preview's message, and has thought about that: if it writes nothing down it was too late.
    pub(crate) fn on_show_told(&mut self, name: &str) {
        if let Some(draft) = self.previews.0.get_mut(name) {
            draft.is_excused |= !draft.is_known;
        }
    }

    /// The name of a message is written down.
    pub(crate) fn on_shown(&mut self, record: &Record<'_>) {
        let Record::Shown { uid, message } = *record else { return };
        let Some(draft) = self.previews.0.get_mut(message) else { panic!("{message} was never posted") };
        let owner = draft.from;
        (draft.uid, draft.is_known) = (uid, true);
        assert!(self.became(owner, uid), "{uid:?} shows its answer where {owner:?} did");
    }

    /// The answer's first part takes the place of a message. True if it had done so before: people read it once.
    pub(crate) fn on_edit_taken(&mut self, edits: &str) -> bool {
        self.previews.0.get_mut(edits).is_some_and(|draft| std::mem::replace(&mut draft.is_answer, true))
    }

    /// A message cannot be edited any more: people deleted it.
    pub(crate) fn on_edit_refused(&mut self, edits: &str) {
        if let Some(draft) = self.previews.0.get_mut(edits) {
            draft.is_excused = true;
        }
    }

    /// May the first part of an answer be posted as a new message?
    pub(crate) fn may_post(&self, uid: Uid) -> bool {
        let Some(turn) = self.turns.get(&uid).filter(|turn| !turn.is_replayed()) else { return true };
        turn.shown.as_ref().is_none_or(|name| self.previews.is_excused(name))
    }

    /// A turn is answered: nothing else of its answer is left to be seen.
    pub(crate) fn check_left_over(&self, uid: Uid) {
        let left = |draft: &Draft| draft.uid == uid && !draft.is_answer && !draft.is_excused;
        let over = self.previews.0.iter().find(|(_, draft)| left(draft));
        assert!(over.is_none(), "{uid:?} is answered, and beside that is {over:?}");
    }

    /// The process began anew: who is not told of a message by what is on disk knows nothing of it.
    pub(crate) fn forget_previews(&mut self) {
        for (name, draft) in &mut self.previews.0 {
            let is_known = self.turns.get(&draft.uid).is_some_and(|turn| turn.shown.as_ref() == Some(name));
            draft.is_excused |= !is_known;
        }
    }
}

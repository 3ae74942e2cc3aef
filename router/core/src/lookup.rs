//! Messages that wait until the store has said whether their event id was seen: memory alone cannot tell, because it had no
//! room for all ids of the time that they are remembered for (see [`crate::dedup`]).
//!
//! Whatever else its conversation lets in meanwhile waits behind such a message, so that the order stays. A message that
//! waits is not admitted: nobody was told anything, and it takes no place but one of `lookups_max`. Where the store does
//! not say in time, it is refused: its sender repeats it, and perhaps it was answered. While memory knows all ids, nothing
//! here runs.
use crate::admit::{Answer, SOON};
use crate::codes::Code;
use crate::dedup::{At, Mark};
use crate::effect::{Effect, Effects};
use crate::event::{Head, Inbound, Mode, Sight};
use crate::id::{ChannelId, Client};
use crate::shard::Shard;
use crate::time::Time;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

/// What is known of the event id of a message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The store was asked.
    Awaited,
    /// It is new, or has none, or memory will know: as long as none of its conversation is admitted under the same id.
    New,
    /// It was seen, or is that of a message that was admitted while this one waited.
    Seen,
    /// The store does not say.
    Unknown,
}

/// A message, with texts of its own.
#[derive(Debug)]
struct Owned {
    /// Id, chat, thread, peer, name, text.
    texts: Box<str>,
    lens: [u32; 6],
    /// The rest of it; its channel and its agent are found again by their places, for ids may move meanwhile.
    head: Head,
    post: u16,
    desk: Option<u16>,
}

impl Owned {
    fn new(inbound: &Inbound<'_>, post: u16, desk: Option<u16>) -> Self {
        let (head, all) = inbound.split();
        let mut texts = String::with_capacity(all.iter().map(|text| text.len()).sum());
        all.iter().for_each(|text| texts.push_str(text));
        let lens = all.map(|text| u32::try_from(text.len()).unwrap_or(0));
        Self { texts: texts.into_boxed_str(), lens, head, post, desk }
    }

    fn borrow(&self) -> Inbound<'_> {
        let mut rest = &*self.texts;
        self.head.with(self.lens.map(|len| {
            let (text, after) = rest.split_at_checked(len as usize).unwrap_or_default();
            rest = after;
            text
        }))
    }
}

#[derive(Debug)]
struct Waiting {
    client: Client,
    hash: u64,
    mark: Option<Mark>,
    word: Word,
    message: Owned,
}

/// The messages of one shard that wait.
#[derive(Debug)]
pub(crate) struct Lookups {
    /// By number, which is the order in which they came.
    waiting: BTreeMap<u64, Waiting>,
    /// The numbers of those of each conversation.
    conversations: BTreeMap<u64, VecDeque<u64>>,
    /// When the store must have said it. Those that have their word are left in until they are first.
    due: VecDeque<(Time, u64)>,
    next: u64,
}

impl Lookups {
    pub(crate) const fn new() -> Self {
        Self { waiting: BTreeMap::new(), conversations: BTreeMap::new(), due: VecDeque::new(), next: 1 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.due.front().map(|(at, _)| *at)
    }

    fn holds(&self, hash: u64) -> bool {
        self.conversations.contains_key(&hash)
    }

    fn push(&mut self, waiting: Waiting) -> u64 {
        let number = self.next;
        self.next += 1;
        self.conversations.entry(waiting.hash).or_default().push_back(number);
        self.waiting.insert(number, waiting);
        number
    }

    fn is_awaited(&self, number: u64) -> bool {
        self.waiting.get(&number).is_some_and(|waiting| waiting.word == Word::Awaited)
    }

    /// The first of a conversation, if its word is there.
    fn pop_ready(&mut self, hash: u64) -> Option<Waiting> {
        let line = self.conversations.get_mut(&hash)?;
        let first = *line.front()?;
        if self.waiting.get(&first)?.word == Word::Awaited {
            return None;
        }
        line.pop_front();
        if line.is_empty() {
            self.conversations.remove(&hash);
        }
        self.waiting.remove(&first)
    }

    /// The last of a conversation that repeats this message.
    fn last_of(&mut self, hash: u64, mark: Mark, mode: Mode) -> Option<&mut Waiting> {
        let is_same = |waiting: &Waiting| (waiting.mark, waiting.message.borrow().mode) == (Some(mark), mode);
        let line = self.conversations.get(&hash)?;
        let is_last = |number: &&u64| self.waiting.get(number).is_some_and(is_same);
        let last = line.iter().rfind(is_last).copied()?;
        self.waiting.get_mut(&last)
    }

    /// This message was admitted: what waits of its conversation under the same id repeats it, and the store, which may
    /// have been asked before, has no word in that.
    fn is_admitted(&mut self, hash: u64, mark: Mark) {
        for number in self.conversations.get(&hash).into_iter().flatten() {
            if let Some(waiting) = self.waiting.get_mut(number).filter(|waiting| waiting.mark == Some(mark)) {
                waiting.word = Word::Seen;
            }
        }
    }

    pub(crate) fn check(&self) {
        let lined: usize = self.conversations.values().map(VecDeque::len).sum();
        assert_eq!(lined, self.waiting.len(), "each that waits has its conversation");
        let due = |number: &u64| self.due.iter().any(|(_, other)| other == number);
        assert!(
            self.conversations.values().all(|line| line.front().is_some_and(due)),
            "the first of each conversation waits for the store, and not for ever"
        );
    }
}

impl Shard {
    /// Must this message, which is let in otherwise, wait for the store's word, or behind one that does?
    #[inline]
    pub(crate) fn must_wait(&self, hash: u64, mark: Option<Mark>, is_written: bool) -> bool {
        let may = self.dedup.has_gaps() || !self.lookups.is_empty();
        may && (self.lookups.holds(hash) || self.is_in_doubt(mark, is_written))
    }

    /// The ids of messages that are not written are not in the store.
    fn is_in_doubt(&self, mark: Option<Mark>, is_written: bool) -> bool {
        let age_max = self.plan.limits.dedup_age_max;
        is_written && mark.is_some_and(|mark| self.dedup.is_in_doubt(mark, self.now, age_max))
    }

    /// Takes a message in to wait.
    #[cold]
    pub(crate) fn wait_for_word(
        &mut self,
        client: Client,
        inbound: &Inbound<'_>,
        (post, hash, mark): (u16, u64, Option<Mark>),
        out: &mut Effects,
    ) -> Answer {
        let limits = &self.plan.limits;
        let most = (limits.lookups_max / u32::from(self.bounds.shards())).max(1) as usize;
        if most <= self.lookups.len() {
            return Answer::Refused(Code::Busy, SOON);
        }
        let until = self.now + limits.load_age_max;
        let age_millis = u64::try_from(limits.dedup_age_max.as_millis()).unwrap_or(u64::MAX);
        let since_millis = self.log.unix_millis(self.now).saturating_sub(age_millis);
        let is_written = self.is_written(inbound.mode, inbound.receipt);
        let asked = mark.filter(|_| self.is_in_doubt(mark, is_written));
        let desk = inbound.agent.and_then(|agent| self.places.desk_of(agent));
        let message = Owned::new(inbound, post, desk);
        let word = if asked.is_some() { Word::Awaited } else { Word::New };
        let lookup = self.lookups.push(Waiting { client, hash, mark, word, message });
        if let Some(mark) = asked {
            self.counters.lookups += 1;
            self.lookups.due.push_back((until, lookup));
            out.push(Effect::LookUp { lookup, mark: mark.words(), since_millis });
        }
        Answer::Waits
    }

    /// The store has said what it knows.
    pub(crate) fn on_sighted(&mut self, lookup: u64, sight: Sight, out: &mut Effects) {
        if !self.lookups.is_awaited(lookup) {
            return;
        }
        let word = match sight {
            Sight::Never => Word::New,
            Sight::At { unix_millis } => {
                let (at, age_max) = (self.log.at(unix_millis), self.plan.limits.dedup_age_max);
                if at.is_fresh(At::now(self.now), age_max) { Word::Seen } else { Word::New }
            }
            Sight::Unknown => Word::Unknown,
        };
        self.hear(lookup, word, out);
        self.forget_due();
    }

    /// Those that waited for too long are not admitted.
    pub(crate) fn on_lookups_due(&mut self, out: &mut Effects) {
        while let Some((_, lookup)) = self.lookups.due.pop_front_if(|(at, _)| *at <= self.now) {
            if self.lookups.is_awaited(lookup) {
                self.hear(lookup, Word::Unknown, out);
            }
        }
        self.forget_due();
    }

    /// The next deadline is one that somebody waits for.
    fn forget_due(&mut self) {
        let lookups = &mut self.lookups;
        while let Some((_, first)) = lookups.due.front()
            && !lookups.is_awaited(*first)
        {
            lookups.due.pop_front();
        }
    }

    /// The conversation goes on as far as all is known of its messages.
    fn hear(&mut self, lookup: u64, word: Word, out: &mut Effects) {
        match word {
            Word::Seen => self.counters.lookups_seen += 1,
            Word::Unknown => self.counters.lookups_failed += 1,
            Word::New | Word::Awaited => {}
        }
        let Some(waiting) = self.lookups.waiting.get_mut(&lookup) else { return };
        waiting.word = word;
        let hash = waiting.hash;
        while let Some(waiting) = self.lookups.pop_ready(hash) {
            self.hear_first(waiting, out);
        }
    }

    /// All is known of a message and of those before it.
    fn hear_first(&mut self, Waiting { client, hash, mark, word, message }: Waiting, out: &mut Effects) {
        let inbound = message.borrow();
        // Whoever asks again may have lost the first connection: the answer is for the one that asked last.
        let client = match mark.and_then(|mark| self.lookups.last_of(hash, mark, inbound.mode)) {
            Some(later) => core::mem::replace(&mut later.client, client),
            None => client,
        };
        let (Some(channel), Some(agent)) = self.ids_of(&message) else {
            let gone = Answer::Refused(Code::NotFound, 0);
            return self.answer(client, &inbound, gone, out);
        };
        let inbound = Inbound { channel, agent, ..inbound };
        let answer = match word {
            Word::Seen => Err(Answer::Duplicate),
            Word::Unknown => Err(Answer::Refused(Code::StoreUnavailable, SOON)),
            Word::New | Word::Awaited => self.admit(client, &inbound, true, out),
        };
        match (answer, mark) {
            (Err(answer), _) => self.answer(client, &inbound, answer, out),
            (Ok(()), Some(mark)) => self.lookups.is_admitted(hash, mark),
            (Ok(()), None) => {}
        }
    }

    /// The present ids of a message's channel and of the agent that it asks for, if they are there.
    fn ids_of(&self, message: &Owned) -> (Option<ChannelId>, Option<Option<crate::id::AgentId>>) {
        let channel = self.places.post(message.post).and_then(|post| post.id);
        let agent = match message.desk {
            None => Some(None),
            Some(desk) => self.agent_id(desk).map(Some),
        };
        (channel, agent)
    }
}

//! Accounts of one person on two channels, which share a conversation. They are drawn by dice of their own: a seed without
//! links has the history that it would have if there were none of this.
use super::people::Place;
use super::world::World;
use crate::dice::Dice;
use clawgate_core::dedup::mark;
use clawgate_core::event::Scope;
use clawgate_core::home::{Secret, home, session_hash};
use clawgate_core::id::{ChannelId, ShardId, TurnId, Uid};
use clawgate_core::links::{CHANNEL, Links};
use clawgate_core::plan::{Channel, Plan};
use clawgate_core::record::Accepted;
use std::collections::{BTreeMap, BTreeSet};

/// Direct chats on platforms, without threads: the accounts that may be linked. The first is on another channel than the
/// third.
const ACCOUNTS: [usize; 6] = [0, 1, 2, 5, 6, 8];
const PERSONS: usize = 2;

/// Who is who: by the configuration of this life, and of the others. It changes between two lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kinship {
    /// Where nobody is ever linked, there are none.
    dice: Option<Dice>,
    /// The places of persons.
    persons: Vec<usize>,
    /// By account: the place of the conversation that it shares.
    owners: BTreeMap<usize, usize>,
    /// By account: the places of all conversations that were ever its own.
    ever: BTreeMap<usize, BTreeSet<usize>>,
    /// By account: how often it changed.
    changes: BTreeMap<usize, usize>,
}

impl Kinship {
    /// Draws who is who, and adds the conversations of persons to the places.
    pub(crate) fn draw(seed: u64, places: &mut Vec<Place>) -> Self {
        let mut dice = Dice::new(seed ^ 0x0001_14B5);
        let first = places.len();
        let person = |n| Place {
            channel: CHANNEL,
            scope: Scope::Direct,
            chat: String::new(),
            thread: String::new(),
            peer: format!("p{}", first + n),
        };
        places.extend((0..PERSONS).map(person));
        let mut owners = BTreeMap::from([(ACCOUNTS[0], first), (ACCOUNTS[2], first)]);
        for account in ACCOUNTS {
            let person = dice.index(PERSONS + 1);
            if person < PERSONS {
                owners.entry(account).or_insert(first + person);
            }
        }
        let persons = (first..first + PERSONS).collect();
        let mut kinship = Self { dice: Some(dice), persons, owners, ..Self::default() };
        kinship.remember();
        kinship
    }

    /// Before a life begins, the configuration may say something else: an account more, or less, or another person's. True
    /// if it does.
    pub(crate) fn turn(&mut self) -> bool {
        let before = self.clone();
        let Some(dice) = &mut self.dice else { return false };
        if !dice.chance(350) {
            return false;
        }
        for _ in 0..=dice.index(2) {
            let account = *dice.pick(&ACCOUNTS);
            match self.persons.get(dice.index(PERSONS + 1)) {
                Some(person) => drop(self.owners.insert(account, *person)),
                None => drop(self.owners.remove(&account)),
            }
        }
        self.remember();
        let changed = ACCOUNTS.into_iter().filter(|account| self.owner(*account) != before.owner(*account));
        let changed: Vec<usize> = changed.collect();
        changed.iter().for_each(|account| *self.changes.entry(*account).or_default() += 1);
        !changed.is_empty()
    }

    /// How often it was linked, unlinked, or linked to somebody else.
    pub(crate) fn changes(&self, place: usize) -> usize {
        self.changes.get(&place).copied().unwrap_or(0)
    }

    fn remember(&mut self) {
        if self.dice.is_some() {
            for account in ACCOUNTS {
                let owner = self.owner(account);
                self.ever.entry(account).or_default().insert(owner);
            }
        }
    }

    /// May anybody be linked in this history?
    pub(crate) const fn is_there(&self) -> bool {
        self.dice.is_some()
    }

    pub(crate) fn is_linked(&self, place: usize) -> bool {
        self.owners.contains_key(&place)
    }

    /// Is this an account that may be linked in some life?
    pub(crate) fn is_account(&self, place: usize) -> bool {
        self.is_there() && ACCOUNTS.contains(&place)
    }

    /// The conversation that what is said at this place belongs to.
    pub(crate) fn owner(&self, place: usize) -> usize {
        self.owners.get(&place).copied().unwrap_or(place)
    }

    /// All that it ever belonged to.
    pub(crate) fn ever(&self, place: usize) -> BTreeSet<usize> {
        self.ever.get(&place).cloned().unwrap_or_else(|| BTreeSet::from([place]))
    }

    /// And those of all accounts that it ever shared one with.
    pub(crate) fn kin(&self, place: usize) -> BTreeSet<usize> {
        let own = self.ever(place);
        let others = self.ever.values().filter(|other| !other.is_disjoint(&own)).flatten();
        own.iter().chain(others).copied().collect()
    }

    /// As the configuration says it.
    pub(crate) fn links(&self, places: &[Place], channels: &[Channel]) -> Links {
        let id = |name: &str| {
            let at = channels.iter().position(|channel| *channel.name == *name).unwrap();
            ChannelId(u16::try_from(at).unwrap())
        };
        if !self.is_there() {
            return Links::default();
        }
        let account = |(account, owner): (&usize, &usize)| {
            let place = &places[*account];
            (id(place.channel), place.peer.as_str().into(), places[*owner].peer.as_str().into())
        };
        Links::new(id(CHANNEL), self.owners.iter().map(account))
    }
}

/// The hash of a message's conversation, as whoever reads the journal has it.
pub(crate) fn hash_of(plan: &Plan, secret: &Secret, accepted: &Accepted<'_>) -> u64 {
    let Accepted { channel, scope, peer, chat, thread, .. } = *accepted;
    match id_of(plan, channel) {
        Some(id) => plan.hash(secret, id, scope, peer, chat, thread),
        None => session_hash(secret, channel, scope, peer, chat, thread),
    }
}

/// The mark of its event id.
pub(crate) fn mark_of(plan: &Plan, secret: &Secret, accepted: &Accepted<'_>) -> [u64; 2] {
    let (hash, Accepted { channel, scope, peer, id, .. }) = (hash_of(plan, secret, accepted), *accepted);
    match id_of(plan, channel) {
        Some(channel) => plan.mark(secret, channel, scope, peer, (hash, id)),
        None => mark(secret, hash, id),
    }
}

fn id_of(plan: &Plan, name: &str) -> Option<ChannelId> {
    let at = plan.channels.iter().position(|channel| *channel.name == *name)?;
    Some(ChannelId(u16::try_from(at).unwrap()))
}

impl World {
    /// The shard where what is said at this place lives in this life: told by what is kept there, and not by the links.
    pub(crate) fn home_of(&self, place: usize) -> usize {
        let Place { channel, scope, chat, thread, peer } = &self.places[self.kinship.owner(place)];
        let hash = session_hash(&self.secret, channel, *scope, peer, chat, thread);
        let ShardId(shard) = home(hash, u16::try_from(self.life.shards.len()).unwrap());
        usize::from(shard)
    }

    /// Remembers whose event id this is. No other message has the same mark.
    pub(crate) fn note_id(&mut self, number: usize, id: &str) {
        let Place { channel, scope, chat, thread, peer } = &self.places[self.ledger.messages[number].place];
        let (scope, channel) = (*scope, *channel);
        let accepted = Accepted { channel, scope, chat, thread, peer, id, ..Accepted::default() };
        let mark = mark_of(&self.life.plan, &self.secret, &accepted);
        let before = self.ledger.ids.insert(mark, number);
        assert!(before.is_none_or(|before| before == number), "{number} has the id of {before:?}");
    }

    /// An answer goes to where its message came from; what the bot says by itself, to an account of its conversation.
    pub(crate) fn check_destination(&mut self, shard: usize, turn: TurnId, uid: Uid) {
        let (Some(known), Some(to)) =
            (self.ledger.turns.get(&uid), self.life.shards[shard].destination(turn))
        else {
            return;
        };
        let is_to = |place: &Place| {
            let channel = self.life.plan.channel(to.channel);
            (&*channel.name, to.peer, to.chat) == (place.channel, &place.peer, &place.chat)
        };
        let place = self.ledger.messages[known.number].place;
        let is_right = if known.is_outbound {
            let kin = self.kinship.kin(place);
            (0..self.places.len()).any(|n| !self.kinship.ever(n).is_disjoint(&kin) && is_to(&self.places[n]))
        } else {
            is_to(&self.places[place])
        };
        assert!(is_right, "the answer to {} goes to {} {}", known.number, to.peer, to.chat);
        if self.kinship.is_linked(place) {
            self.marks.hit("answers to linked accounts");
        }
    }
}

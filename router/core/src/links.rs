//! Accounts of one person on several channels, which share one conversation. Only direct chats are linked, and only what
//! is configured: everybody else's conversations are apart, by channel and peer.
//!
//! A shared conversation is kept under a channel of its own, [`CHANNEL`], with the person's name for the peer. What
//! belongs to a message and not to the conversation stays with its turn: the account that it came from, which is where
//! its answer goes.
use crate::event::{Inbound, Scope};
use crate::id::ChannelId;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// The name of the channel that linked conversations are kept under. No other channel has it.
pub const CHANNEL: &str = "person";

/// Between the parts of an origin. No name has a control character in it.
const SEPARATOR: char = '\u{1f}';

/// Whose accounts are whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    channel: ChannelId,
    /// By channel: peer and person.
    persons: Vec<BTreeMap<Box<str>, Box<str>>>,
}

impl Links {
    /// Accounts as channel, peer and person; `channel` is the id of [`CHANNEL`].
    #[must_use]
    pub fn new(
        channel: ChannelId,
        accounts: impl IntoIterator<Item = (ChannelId, Box<str>, Box<str>)>,
    ) -> Self {
        let mut persons = Vec::new();
        for (of, peer, person) in accounts {
            let at = usize::from(of.0);
            if persons.len() <= at {
                persons.resize(at + 1, BTreeMap::new());
            }
            persons[at].insert(peer, person);
        }
        Self { channel, persons }
    }

    /// Under which channel and peer the conversation with this one is kept, if that is not its own.
    #[must_use]
    pub fn person(&self, channel: ChannelId, scope: Scope, peer: &str) -> Option<(ChannelId, &str)> {
        if self.persons.is_empty() || scope != Scope::Direct {
            return None;
        }
        let person = self.persons.get(usize::from(channel.0))?.get(peer)?;
        Some((self.channel, person))
    }
}

/// Where a person wrote from last, as a linked session keeps it in the place of a chat.
#[must_use]
pub fn origin(channel: &str, peer: &str, chat: &str) -> String {
    Origin { channel: channel.into(), peer: peer.into(), chat: chat.into() }.write()
}

/// The account that a message of a linked conversation came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The channel's name.
    pub(crate) channel: Box<str>,
    pub(crate) peer: Box<str>,
    pub(crate) chat: Box<str>,
}

impl Origin {
    pub(crate) fn of(channel: &str, inbound: &Inbound<'_>) -> Self {
        Self { channel: channel.into(), peer: inbound.peer.into(), chat: inbound.chat.into() }
    }

    /// As a session keeps it in the place of a chat: where its person wrote from last.
    pub(crate) fn write(&self) -> String {
        let mut text = String::with_capacity(self.channel.len() + self.peer.len() + self.chat.len() + 2);
        for (part, end) in
            [(&self.channel, Some(SEPARATOR)), (&self.peer, Some(SEPARATOR)), (&self.chat, None)]
        {
            text.push_str(part);
            text.extend(end);
        }
        text
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        let (channel, rest) = text.split_once(SEPARATOR)?;
        let (peer, chat) = rest.split_once(SEPARATOR)?;
        Some(Self { channel: channel.into(), peer: peer.into(), chat: chat.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_direct_chats_of_named_accounts_are_linked() {
        let account = |channel, peer: &str| (ChannelId(channel), peer.into(), "ana".into());
        let links = Links::new(ChannelId(9), [account(1, "7"), account(3, "U1")]);
        assert_eq!(links.person(ChannelId(1), Scope::Direct, "7"), Some((ChannelId(9), "ana")));
        assert_eq!(links.person(ChannelId(3), Scope::Direct, "U1"), Some((ChannelId(9), "ana")));
        for (channel, scope, peer) in [
            (1, Scope::Group, "7"),
            (1, Scope::Direct, "8"),
            (2, Scope::Direct, "7"),
            (9, Scope::Direct, "ana"),
        ] {
            assert_eq!(links.person(ChannelId(channel), scope, peer), None);
        }
        assert_eq!(Links::default().person(ChannelId(0), Scope::Direct, ""), None);
    }

    #[test]
    fn an_origin_is_read_as_it_was_written() {
        for (peer, chat) in [("7", "8"), ("7", ""), ("", "")] {
            let origin = Origin { channel: "tg".into(), peer: peer.into(), chat: chat.into() };
            assert_eq!(Origin::read(&origin.write()), Some(origin));
        }
        assert_eq!(Origin::read("a chat"), None);
    }
}

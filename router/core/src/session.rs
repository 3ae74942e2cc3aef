//! One conversation: who and where, what it remembers, and its turns in order.
use crate::event::{Inbound, Mode, Scope};
use crate::history::{Context, History};
use crate::id::Uid;
use crate::list::{Link, Linked, List};
use crate::load::Memory;
use crate::plan::RunningMode;
use crate::slots::NONE;
use crate::time::Time;
use crate::turn::NOWHERE;
use alloc::boxed::Box;
use alloc::string::String;

/// A conversation in memory.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its place among the idle ones.
    pub(crate) link: Link,
    /// Under which it is found.
    pub(crate) hash: u64,
    /// Peer, thread and chat, one after the other.
    names: Box<str>,
    peer_len: u16,
    thread_len: u16,
    /// The channel's place on this shard.
    pub(crate) post: u16,
    /// The agent that it keeps; [`NOWHERE`] for none.
    pub(crate) desk: u16,
    /// An operator gave it that agent.
    pub(crate) assigned: bool,
    pub(crate) scope: Scope,
    /// How its latest message is answered, and so how the bot can speak to it.
    pub(crate) mode: Mode,
    /// It is forgotten; only its address is readable until the next event.
    pub(crate) dead: bool,
    pub(crate) memory: Memory,
    /// What an operator gave it for messages that arrive while a turn runs.
    pub(crate) running_mode: Option<RunningMode>,
    /// It was made up for what it does now, and nothing else came for it.
    pub(crate) fleeting: bool,
    /// Something of it changed since it was saved.
    pub(crate) unsaved: bool,
    /// The store has a row of it, or is about to.
    pub(crate) stored: bool,
    /// The turn that is first: ready, running or being delivered; [`NONE`] for none.
    pub(crate) current: u32,
    /// The turns behind it.
    pub(crate) waiting: List,
    pub(crate) messages: u32,
    pub(crate) created: Time,
    /// When it began in an earlier life, Unix milliseconds; 0 where this is its first.
    pub(crate) created_millis: u64,
    pub(crate) active: Time,
    /// When it was last saved; when it was created, before that.
    pub(crate) saved: Time,
    /// What was said before this is forgotten.
    pub(crate) history_from: Uid,
    pub(crate) history: Option<Box<History>>,
    pub(crate) context: Option<Box<Context>>,
}

const _: () = assert!(size_of::<Session>() <= 256, "a million of them must fit");

impl Session {
    /// A session of the conversation that this message belongs to.
    pub(crate) fn new(hash: u64, post: u16, inbound: &Inbound<'_>, now: Time, is_stored: bool) -> Self {
        let peer = owner(inbound.scope, inbound.peer);
        let short = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX);
        Self {
            link: Link::NONE,
            hash,
            names: join(peer, inbound.thread, inbound.chat),
            peer_len: short(peer),
            thread_len: short(inbound.thread),
            post,
            desk: NOWHERE,
            assigned: false,
            scope: inbound.scope,
            mode: inbound.mode,
            dead: false,
            memory: if is_stored && !inbound.fleeting { Memory::Cold } else { Memory::Warm },
            running_mode: None,
            fleeting: inbound.fleeting,
            unsaved: false,
            stored: false,
            current: NONE,
            waiting: List::new(),
            messages: 0,
            created: now,
            created_millis: 0,
            active: now,
            saved: now,
            history_from: Uid(0),
            history: None,
            context: None,
        }
    }

    pub(crate) fn peer(&self) -> &str {
        self.names.get(..usize::from(self.peer_len)).unwrap_or_default()
    }

    pub(crate) fn thread(&self) -> &str {
        let start = usize::from(self.peer_len);
        self.names.get(start..start + usize::from(self.thread_len)).unwrap_or_default()
    }

    pub(crate) fn chat(&self) -> &str {
        let start = usize::from(self.peer_len) + usize::from(self.thread_len);
        self.names.get(start..).unwrap_or_default()
    }

    /// Is it this conversation?
    pub(crate) fn is(&self, post: u16, scope: Scope, peer: &str, chat: &str, thread: &str) -> bool {
        let party = match scope {
            Scope::Direct => self.peer() == peer,
            Scope::Group => self.chat() == chat,
        };
        self.post == post && self.scope == scope && self.thread() == thread && party
    }

    /// A direct session's peer may write in another chat; answers go to the latest.
    pub(crate) fn remember_chat(&mut self, chat: &str) {
        if self.scope == Scope::Direct && !chat.is_empty() && self.chat() != chat {
            self.names = join(self.peer(), self.thread(), chat);
        }
    }

    /// Turns that are not over.
    pub(crate) fn turns(&self) -> u32 {
        u32::from(self.current != NONE) + self.waiting.len()
    }
}

/// A group belongs to nobody.
const fn owner(scope: Scope, peer: &str) -> &str {
    match scope {
        Scope::Direct => peer,
        Scope::Group => "",
    }
}

fn join(peer: &str, thread: &str, chat: &str) -> Box<str> {
    let mut names = String::with_capacity(peer.len() + thread.len() + chat.len());
    for part in [peer, thread, chat] {
        names.push_str(part);
    }
    names.into_boxed_str()
}

impl Linked for Session {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_address() {
        let inbound = Inbound { peer: "ann", chat: "c1", thread: "t", ..Inbound::default() };
        let mut direct = Session::new(1, 2, &inbound, Time::ZERO, false);
        assert_eq!((direct.peer(), direct.thread(), direct.chat()), ("ann", "t", "c1"));
        assert!(direct.is(2, Scope::Direct, "ann", "elsewhere", "t"));
        assert!(
            !direct.is(2, Scope::Direct, "ann", "c1", "") && !direct.is(3, Scope::Direct, "ann", "c1", "t")
        );
        direct.remember_chat("c22");
        direct.remember_chat("");
        assert_eq!((direct.peer(), direct.thread(), direct.chat()), ("ann", "t", "c22"));
        let mut group = Session::new(1, 2, &Inbound { scope: Scope::Group, ..inbound }, Time::ZERO, false);
        assert!(group.is(2, Scope::Group, "bob", "c1", "t") && !group.is(2, Scope::Direct, "ann", "c1", "t"));
        group.remember_chat("c3");
        assert_eq!((group.peer(), group.chat()), ("", "c1"));
    }
}

//! One conversation: who and where, what it remembers, and its turns in order. There may be a million: what an idle one
//! takes is told in ARCHITECTURE.md, "What an idle session takes".
use crate::event::{Inbound, Mode, Scope};
use crate::history::{History, Unset, set_variable};
use crate::id::Uid;
use crate::limits::Limits;
use crate::list::{Link, Linked, List};
use crate::load::Memory;
use crate::plan::RunningMode;
use crate::slots::NONE;
use crate::time::Time;
use crate::turn::NOWHERE;
use crate::view::Variables;
use alloc::boxed::Box;
use alloc::string::String;
use core::time::Duration;

/// A conversation in memory.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its place among the idle ones.
    pub(crate) link: Link,
    /// Under which it is found.
    pub(crate) hash: u64,
    /// Peer, thread and chat, one after the other, and its context variables (see [`crate::history`]).
    words: Box<str>,
    peer_len: u16,
    thread_len: u16,
    names_len: u32,
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
    pub(crate) born: Born,
    pub(crate) active: Time,
    /// When it was last saved, in whole seconds since the start and one more; 0 for never.
    saved_second: u32,
    /// What was said before this is forgotten.
    pub(crate) history_from: Uid,
    pub(crate) history: History,
}

/// Two lines of the processor's cache with its slot's number, and 64 of them are 8 KiB, which allocators have a size for.
const _: () = assert!(size_of::<Session>() <= 120, "a million of them must fit");

/// When a session was made: by our clock, or, where that was in an earlier life, by the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Born(u64);

impl Born {
    /// Marks milliseconds of the system's clock.
    const EARLIER: u64 = 1 << 63;

    const fn at(now: Time) -> Self {
        Self(now.0 & !Self::EARLIER)
    }

    /// In an earlier life.
    pub(crate) const fn before(unix_millis: u64) -> Self {
        Self(unix_millis | Self::EARLIER)
    }

    /// When, by our clock; the start where it was before.
    pub(crate) const fn time(self) -> Time {
        if self.0 & Self::EARLIER == 0 { Time(self.0) } else { Time::ZERO }
    }

    /// When it was in an earlier life, Unix milliseconds; 0 where this is its first.
    pub(crate) const fn unix_millis(self) -> u64 {
        if self.0 & Self::EARLIER == 0 { 0 } else { self.0 & !Self::EARLIER }
    }
}

impl Session {
    /// A session of the conversation that this message belongs to.
    pub(crate) fn new(hash: u64, post: u16, inbound: &Inbound<'_>, now: Time, is_stored: bool) -> Self {
        let peer = owner(inbound.scope, inbound.peer);
        let short = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX);
        let words = join([peer, inbound.thread, inbound.chat, ""]);
        Self {
            link: Link::NONE,
            hash,
            peer_len: short(peer),
            thread_len: short(inbound.thread),
            names_len: u32::try_from(words.len()).unwrap_or(u32::MAX),
            words,
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
            born: Born::at(now),
            active: now,
            saved_second: 0,
            history_from: Uid(0),
            history: History::default(),
        }
    }

    pub(crate) fn peer(&self) -> &str {
        self.words.get(..usize::from(self.peer_len)).unwrap_or_default()
    }

    pub(crate) fn thread(&self) -> &str {
        let start = usize::from(self.peer_len);
        self.words.get(start..start + usize::from(self.thread_len)).unwrap_or_default()
    }

    pub(crate) fn chat(&self) -> &str {
        let start = usize::from(self.peer_len) + usize::from(self.thread_len);
        self.words.get(start..self.names_len as usize).unwrap_or_default()
    }

    fn context(&self) -> &str {
        self.words.get(self.names_len as usize..).unwrap_or_default()
    }

    /// Its context variables.
    pub(crate) fn variables(&self) -> Variables<'_> {
        Variables(self.context())
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
    #[inline]
    pub(crate) fn remember_chat(&mut self, chat: &str) {
        if self.scope == Scope::Direct && !chat.is_empty() && self.chat() != chat {
            self.words = join([self.peer(), self.thread(), chat, self.context()]);
            let names_len = usize::from(self.peer_len) + usize::from(self.thread_len) + chat.len();
            self.names_len = u32::try_from(names_len).unwrap_or(u32::MAX);
        }
    }

    /// Sets a context variable; an empty value removes it. If there is no room, all stays as it was.
    pub(crate) fn set(&mut self, name: &str, value: &str, limits: &Limits) -> Result<(), Unset> {
        let mut context = String::from(self.context());
        set_variable(&mut context, (name, value), limits)?;
        self.words = join([self.peer(), self.thread(), self.chat(), &context]);
        Ok(())
    }

    /// These variables were set before all that it has.
    pub(crate) fn set_before(&mut self, variables: &[(&str, &str)], limits: &Limits) {
        if variables.is_empty() {
            return;
        }
        let mut context = String::new();
        for (name, value) in variables.iter().copied().chain(self.variables()) {
            // Where limits have become smaller, the first ones stay.
            let _ = set_variable(&mut context, (name, value), limits);
        }
        self.words = join([self.peer(), self.thread(), self.chat(), &context]);
    }

    /// Forgets what was said, and its context variables.
    pub(crate) fn forget_all(&mut self) {
        self.history = History::default();
        self.words = join([self.peer(), self.thread(), self.chat(), ""]);
    }

    /// It was saved, or is about to be.
    pub(crate) fn is_saved(&mut self, now: Time) {
        (self.unsaved, self.stored) = (false, true);
        self.saved_second = u32::try_from(now.0 / 1_000_000_000 + 1).unwrap_or(u32::MAX);
    }

    /// Was it not saved within this time?
    pub(crate) fn is_save_due(&self, now: Time, pause: Duration) -> bool {
        let second = |second: u32| Time(u64::from(second).saturating_sub(1).saturating_mul(1_000_000_000));
        self.saved_second == 0 || second(self.saved_second) + pause <= now
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

fn join(parts: [&str; 4]) -> Box<str> {
    let mut words = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| words.push_str(part));
    words.into_boxed_str()
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
    fn variables_stay_as_names_change() {
        let limits = Limits { context_entries_max: 2, context_bytes_max: 20, ..Limits::TEST };
        let inbound = Inbound { peer: "ann", chat: "c1", thread: "t", ..Inbound::default() };
        let mut session = Session::new(1, 2, &inbound, Time::ZERO, false);
        assert_eq!(session.variables().next(), None);
        assert_eq!(session.set("city", "Łódź", &limits), Ok(()));
        assert_eq!(session.set("lang", "pl", &limits), Ok(()));
        assert_eq!(session.set("third", "", &limits), Ok(()));
        assert_eq!(session.set("third", "x", &limits), Err(Unset::Full));
        session.remember_chat("another chat");
        assert!(session.variables().eq([("city", "Łódź"), ("lang", "pl")]));
        assert_eq!((session.peer(), session.thread(), session.chat()), ("ann", "t", "another chat"));
        assert_eq!(session.set("city", "", &limits), Ok(()));
        assert!(session.variables().eq([("lang", "pl")]));
        session.history.push(&[(crate::view::Role::User, "hi")], &limits);
        session.forget_all();
        assert!(session.variables().next().is_none() && session.history.is_empty());
        assert_eq!((session.peer(), session.thread(), session.chat()), ("ann", "t", "another chat"));
    }

    #[test]
    fn when_it_was_made_and_saved() {
        let now = Time::from_millis(7_500);
        let mut session = Session::new(1, 2, &Inbound::default(), now, false);
        assert_eq!((session.born.time(), session.born.unix_millis()), (now, 0));
        let before = Born::before(1_790_000_000_123);
        assert_eq!((before.time(), before.unix_millis()), (Time::ZERO, 1_790_000_000_123));
        let pause = Duration::from_secs(30);
        assert!(session.is_save_due(now, pause));
        session.unsaved = true;
        session.is_saved(now);
        assert!(session.stored && !session.unsaved && !session.is_save_due(now, pause));
        assert!(!session.is_save_due(Time::from_millis(36_999), pause));
        assert!(session.is_save_due(Time::from_millis(37_500), pause));
    }

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

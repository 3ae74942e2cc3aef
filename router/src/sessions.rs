//! Session ids as people and programs see them: `channel:user:session` for API clients, `channel:dm:peer[:thread]` and
//! `channel:group:chat[:thread]` for platforms.
use crate::gateway::{API, Gateway, is_api};
use clawgate_core::event::Scope;
use clawgate_core::id::ChannelId;
use clawgate_core::view::Address;

/// The longest id that a client may give its session, in bytes.
const ID_BYTES_MAX: usize = 128;

/// Is this an id that a client may give its session?
pub(crate) fn check_id(id: &str) -> Result<(), &'static str> {
    let fits = !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.chars().any(char::is_control);
    if fits { Ok(()) } else { Err("a sessionId is 1 to 128 bytes of UTF-8 without control characters") }
}

/// Writes the public id of the session at this address.
pub(crate) fn write_id(out: &mut String, channel: &str, address: &Address<'_>) {
    out.push_str(channel);
    let party = if is_api(address.channel) {
        address.peer
    } else {
        match address.scope {
            Scope::Direct => {
                out.push_str(":dm");
                address.peer
            }
            Scope::Group => {
                out.push_str(":group");
                address.chat
            }
        }
    };
    out.push(':');
    out.push_str(party);
    if !address.thread.is_empty() {
        out.push(':');
        out.push_str(address.thread);
    }
}

/// A session id, taken apart again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) channel: ChannelId,
    pub(crate) scope: Scope,
    pub(crate) peer: &'a str,
    pub(crate) chat: &'a str,
    pub(crate) thread: &'a str,
}

/// Which session an id means to this user; a bare id is one of its own.
pub(crate) fn parse_id<'a>(gateway: &'a Gateway, user: &'a str, id: &'a str) -> Named<'a> {
    let own = Named { channel: API, scope: Scope::Direct, peer: user, chat: "", thread: id };
    let Some((channel, rest)) = id.split_once(':') else { return own };
    let Some(channel) = gateway.channel(channel) else { return own };
    if is_api(channel) {
        let Some((peer, thread)) = rest.split_once(':') else { return own };
        return Named { channel, scope: Scope::Direct, peer, chat: "", thread };
    }
    let Some((kind, rest)) = rest.split_once(':') else { return own };
    let (party, thread) = rest.split_once(':').unwrap_or((rest, ""));
    match kind {
        "dm" => {
            // Of a linked account its person's.
            let (channel, peer) = gateway.plan.owner(channel, Scope::Direct, party);
            Named { channel, scope: Scope::Direct, peer, chat: "", thread }
        }
        "group" => Named { channel, scope: Scope::Group, peer: "", chat: party, thread },
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded() {
        assert!(check_id("session-123").is_ok());
        assert!(check_id("Gespräch 1").is_ok());
        for bad in ["", "a\nb", "a\0", &"x".repeat(129)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_say_where_a_session_lives() {
        let mut out = String::new();
        let api = Address { channel: API, scope: Scope::Direct, chat: "", thread: "s1", peer: "ana" };
        write_id(&mut out, "api", &api);
        assert_eq!(out, "api:ana:s1");
        out.clear();
        let group =
            Address { channel: ChannelId(1), scope: Scope::Group, chat: "-100", thread: "42", peer: "7" };
        write_id(&mut out, "telegram", &group);
        assert_eq!(out, "telegram:group:-100:42");
    }
}

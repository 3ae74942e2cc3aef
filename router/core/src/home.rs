//! Which conversation a message belongs to, and which shard that conversation lives on.
//!
//! A direct conversation is (channel, peer, thread), a group's is (channel, chat, thread). Both hashes here are keyed,
//! so that nobody outside can aim messages at one shard or at one chain of a table. The channel goes in by its name:
//! its id may move when the configuration is read again, and a session must stay at home.
use crate::event::Scope;
use crate::id::ShardId;
use core::fmt;
use core::hash::Hasher;
use siphasher::sip::SipHasher13;

/// The key of the hashes: random, made by the shell, the same on all shards and never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u64; 2]);

impl fmt::Debug for Secret {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Secret")
    }
}

impl Secret {
    pub(crate) fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

/// The hash of a conversation. `chat` does not count in a direct one, `peer` does not in a group.
#[must_use]
pub fn session_hash(
    secret: &Secret,
    channel: &str,
    scope: Scope,
    peer: &str,
    chat: &str,
    thread: &str,
) -> u64 {
    let (kind, party) = match scope {
        Scope::Direct => (0, peer),
        Scope::Group => (1, chat),
    };
    let parts = [channel, party, thread];
    let mut joined = Joined::new(kind);
    if parts.iter().all(|part| joined.push(part)) {
        secret.hasher().hash(joined.bytes.get(..joined.len).unwrap_or_default())
    } else {
        in_pieces(secret, kind, &parts)
    }
}

/// Behind each name: occurs in no UTF-8 text, so no two conversations run together.
const END: u8 = 255;

/// Bytes that are hashed in one piece; several times as fast, and enough for all but the longest names.
const JOINED: usize = 128;

/// What is hashed in one piece.
struct Joined {
    bytes: [u8; JOINED],
    len: usize,
}

impl Joined {
    #[inline]
    const fn new(kind: u8) -> Self {
        let mut bytes = [0; JOINED];
        bytes[0] = kind;
        Self { bytes, len: 1 }
    }

    /// Adds a name and its end; false if there is no room for them.
    #[inline]
    fn push(&mut self, name: &str) -> bool {
        let room = self.bytes.get_mut(self.len..).and_then(|rest| rest.split_at_mut_checked(name.len()));
        let Some((place, [end, ..])) = room else { return false };
        place.copy_from_slice(name.as_bytes());
        *end = END;
        self.len += name.len() + 1;
        true
    }
}

#[cold]
fn in_pieces(secret: &Secret, kind: u8, names: &[&str]) -> u64 {
    let mut hasher = secret.hasher();
    hasher.write(&[kind]);
    for name in names {
        hasher.write(name.as_bytes());
        hasher.write(&[END]);
    }
    hasher.finish()
}

/// The shard where a conversation of this hash lives, by multiplication and shift: even for any number of shards.
/// No shards are taken for one.
#[must_use]
pub fn home(hash: u64, shards: u16) -> ShardId {
    let share = (u128::from(hash) * u128::from(shards.max(1))) >> 64;
    ShardId(u16::try_from(share).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloc::format;
    use alloc::vec;

    const SECRET: Secret = Secret([1, 2]);

    fn hash(scope: Scope, peer: &str, chat: &str, thread: &str) -> u64 {
        session_hash(&SECRET, "c", scope, peer, chat, thread)
    }

    #[test]
    fn identity_is_what_the_scope_says() {
        assert_eq!(hash(Scope::Direct, "p", "x", "t"), hash(Scope::Direct, "p", "y", "t"));
        assert_eq!(hash(Scope::Group, "p", "x", "t"), hash(Scope::Group, "q", "x", "t"));
        assert_ne!(hash(Scope::Direct, "p", "", "t"), hash(Scope::Direct, "q", "", "t"));
        assert_ne!(hash(Scope::Direct, "p", "", "t"), hash(Scope::Direct, "p", "", "u"));
        assert_ne!(hash(Scope::Direct, "p", "p", ""), hash(Scope::Group, "p", "p", ""));
        assert_ne!(hash(Scope::Direct, "ab", "", "c"), hash(Scope::Direct, "a", "", "bc"));
        assert_ne!(
            session_hash(&Secret([3, 4]), "c", Scope::Direct, "p", "", "t"),
            hash(Scope::Direct, "p", "", "t")
        );
        assert_ne!(
            session_hash(&SECRET, "d", Scope::Direct, "p", "", "t"),
            hash(Scope::Direct, "p", "", "t")
        );
    }

    #[test]
    fn long_names_are_hashed_as_short_ones_are() {
        for len in [0, 1, 7, 8, 60, 120, 121, 122, 123, 124, 200] {
            let peer = "p".repeat(len);
            assert_eq!(hash(Scope::Direct, &peer, "", ""), in_pieces(&SECRET, 0, &["c", &peer, ""]), "{len}");
        }
    }

    #[test]
    fn homes_are_even_for_any_number_of_shards() {
        for shards in [1_u16, 2, 3, 7, 64] {
            let mut counts = vec![0_u32; usize::from(shards)];
            for n in 0..shards * 1_000 / shards.max(1) * shards.min(8) {
                let home = home(hash(Scope::Direct, &format!("p{n}"), "", ""), shards);
                counts[usize::from(home.0)] += 1;
            }
            let mean = counts.iter().sum::<u32>() / u32::from(shards);
            assert!(counts.iter().all(|&n| mean / 2 <= n && n <= mean * 2), "{shards}: {counts:?}");
        }
        assert_eq!(home(u64::MAX, 0), ShardId(0));
        assert_eq!(home(u64::MAX, u16::MAX), ShardId(u16::MAX - 1));
    }
}

//! Who may use the API, and how often: sections `keys` and `rate`.
use clawgate_core::event::Class;
use core::time::Duration;

/// One API key. The key itself is not kept, only its digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name, in logs and metrics; unique.
    pub id: String,
    /// SHA-256 of the key; unique.
    pub digest: [u8; 32],
    /// Who it speaks for: the peer of its sessions.
    pub user: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The priority of its messages.
    pub class: Class,
    /// How often, if there is a bound.
    pub rate: Option<Rate>,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    /// Talk to agents, see its own sessions.
    pub chat: bool,
    /// Read the state of the gateway and all sessions.
    pub read: bool,
    /// Operate sessions. Includes the others.
    pub admin: bool,
}

/// So many requests in so much time; all of them may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests; at least 1.
    pub requests: u32,
    /// The time in which they are granted.
    pub per: Duration,
}

/// The rates that hold where a key has none of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// For one client address, authenticated or not.
    pub address: Option<Rate>,
    /// For one key (already applied to [`Key::rate`]), and for the anonymous client of a gateway without keys.
    pub key: Option<Rate>,
}

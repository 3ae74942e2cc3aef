//! Who calls: API keys, their scopes and their rates; and whether a browser's page may call at all.
use crate::config;
use crate::thread::Thread;
use crate::usage::account::{Account, Budget};
use clawgate_core::bucket::{Rate, Verdict, take};
use clawgate_core::event::Class;
use clawgate_core::id::AccountId;
use clawgate_core::time::Time;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq as _};

/// Who speaks, and what it may do.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The key's name; `local` without keys.
    pub(crate) id: String,
    /// The peer of its sessions.
    pub(crate) user: String,
    pub(crate) scopes: config::keys::Scopes,
    pub(crate) class: Class,
    rate: Option<Rate>,
    /// The time at which its bucket is full again, shared by all cores, and by all configurations that have the key.
    bucket: Arc<AtomicU64>,
    /// The key's digest; `None` without keys.
    digest: Option<[u8; 32]>,
    /// Where its messages are counted.
    pub(crate) account: AccountId,
    used: Arc<Account>,
    budget: Budget,
}

/// What the rate headers say (row A7).
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateState {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    pub(crate) reset_after: Duration,
}

impl Identity {
    fn new(key: &config::keys::Key, before: Option<&Keys>, accounts: &mut Accounts) -> Self {
        let (account, used) = accounts.of(&key.id);
        let bucket = before.and_then(|before| before.holder(&key.digest)).map(|known| known.bucket.clone());
        Self {
            digest: Some(key.digest),
            id: key.id.clone(),
            user: key.user.clone(),
            scopes: key.scopes,
            class: key.class,
            rate: key.rate.as_ref().map(rate),
            bucket: bucket.unwrap_or_default(),
            account,
            used,
            budget: key.budget,
        }
    }

    fn anonymous(rates: &config::keys::Rates, before: Option<&Keys>, accounts: &mut Accounts) -> Self {
        let (account, used) = accounts.of("local");
        let bucket = before.and_then(|before| before.anonymous.as_ref()).map(|known| known.bucket.clone());
        Self {
            digest: None,
            id: "local".to_owned(),
            user: "local".to_owned(),
            scopes: config::keys::Scopes { chat: true, read: true, admin: false, agent: true },
            class: Class::Normal,
            rate: rates.key.as_ref().map(rate),
            bucket: bucket.unwrap_or_default(),
            account,
            used,
            budget: Budget::default(),
        }
    }

    /// Takes one message from the day's budget.
    ///
    /// # Errors
    /// It is used up: milliseconds until it is filled again.
    pub(crate) fn spend(&self) -> Result<(), u32> {
        self.budget.take(&self.used)
    }

    /// May it see what happens in the sessions of `owner` (empty: of a platform's people)?
    pub(crate) fn may_see(&self, owner: &str) -> bool {
        self.scopes.read || self.scopes.admin || (!owner.is_empty() && owner == self.user)
    }

    /// Takes one request from its rate and its address's; the tighter of the two answers.
    pub(crate) fn take(&self, thread: &Thread, address: IpAddr, now: Time) -> Verdict {
        let by_address = thread.take_address(address);
        let Some(rate) = &self.rate else { return by_address.unwrap_or(UNLIMITED) };
        if let Some(refused @ Verdict::Refused { .. }) = by_address {
            return refused;
        }
        let by_key = take(&self.bucket, now, rate);
        match (by_key, by_address) {
            (Verdict::Granted { remaining, .. }, Some(other @ Verdict::Granted { remaining: less, .. }))
                if less < remaining =>
            {
                other
            }
            (verdict, _) => verdict,
        }
    }
}

/// No rate is configured: nothing to tell.
const UNLIMITED: Verdict =
    Verdict::Granted { limit: u32::MAX, remaining: u32::MAX, reset_after: Duration::ZERO };

/// What to tell about a verdict, if a rate is behind it.
pub(crate) fn rate_state(verdict: &Verdict) -> Option<RateState> {
    match *verdict {
        Verdict::Granted { limit: u32::MAX, .. } => None,
        Verdict::Granted { limit, remaining, reset_after } => {
            Some(RateState { limit, remaining, reset_after })
        }
        Verdict::Refused { limit, reset_after, .. } => Some(RateState { limit, remaining: 0, reset_after }),
    }
}

pub(crate) fn rate(rate: &config::keys::Rate) -> Rate {
    Rate { burst: rate.requests, per: rate.per }
}

/// The accounts of all keys that there are or were. An account keeps its number, so that a call that began under another
/// configuration is charged to the same key.
#[derive(Clone, Debug)]
struct Accounts(Vec<Arc<Account>>);

impl Accounts {
    fn of(&mut self, key: &str) -> (AccountId, Arc<Account>) {
        let at = self.0.iter().position(|account| &*account.key == key).unwrap_or_else(|| {
            self.0.push(Account::new(key));
            self.0.len() - 1
        });
        (AccountId(u16::try_from(at).unwrap_or(0)), self.0[at].clone())
    }
}

/// All keys. Kept as digests, compared in constant time, each with each.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: Vec<([u8; 32], Arc<Identity>)>,
    /// Without keys everyone who reaches us is this one; the configuration made sure that only this machine does.
    anonymous: Option<Arc<Identity>>,
    accounts: Accounts,
}

impl Keys {
    /// `before` are the keys that these take the place of.
    pub(crate) fn new(config: &config::Config, before: Option<&Self>) -> Self {
        let nobody = || Accounts(vec![Account::new("")]);
        let mut accounts = before.map_or_else(nobody, |before| before.accounts.clone());
        let identity = |key| Arc::new(Identity::new(key, before, &mut accounts));
        let keys: Vec<_> =
            config.keys.iter().map(|key| key.digest).zip(config.keys.iter().map(identity)).collect();
        let anonymous =
            keys.is_empty().then(|| Arc::new(Identity::anonymous(&config.rates, before, &mut accounts)));
        Self { keys, anonymous, accounts }
    }

    /// The account of this number; `None` for nobody's.
    pub(crate) fn account(&self, account: AccountId) -> Option<&Account> {
        self.accounts.0.get(usize::from(account.0)).filter(|_| account.0 != 0).map(|account| &**account)
    }

    /// May a turn that this account pays for go on?
    ///
    /// # Errors
    /// Its key's budget is used up: how long until it is filled again.
    pub(crate) fn goes_on(&self, account: AccountId) -> Result<(), Duration> {
        let mut all = self.keys.iter().map(|(_, identity)| identity).chain(&self.anonymous);
        let Some(identity) = all.find(|identity| identity.account == account) else { return Ok(()) };
        identity.budget.goes_on(&identity.used)
    }

    /// The account of the key of this name, whether or not there is such a key now.
    pub(crate) fn account_named(&self, key: &str) -> Option<&Account> {
        self.accounts.0.iter().skip(1).find(|account| &*account.key == key).map(|account| &**account)
    }

    /// The account of the first key that speaks for this user; nobody's if there is none.
    pub(crate) fn account_of(&self, user: &str) -> AccountId {
        let all = self.keys.iter().map(|(_, identity)| identity).chain(&self.anonymous);
        all.into_iter().find(|identity| identity.user == user).map_or(AccountId(0), |found| found.account)
    }

    fn holder(&self, digest: &[u8; 32]) -> Option<&Arc<Identity>> {
        self.keys.iter().find(|(known, _)| known == digest).map(|(_, identity)| identity)
    }

    /// Who somebody is by these keys that was let in by others; `None` if the key is gone.
    pub(crate) fn renew(&self, identity: &Identity) -> Option<Arc<Identity>> {
        match &identity.digest {
            Some(digest) => self.holder(digest).cloned(),
            None => self.anonymous.clone(),
        }
    }

    /// Does everyone get in?
    pub(crate) fn is_open(&self) -> bool {
        self.anonymous.is_some()
    }

    /// Whose token this is.
    pub(crate) fn identify(&self, token: Option<&str>) -> Option<Arc<Identity>> {
        if let Some(anonymous) = &self.anonymous {
            return Some(anonymous.clone());
        }
        let digest: [u8; 32] = Sha256::digest(token?.as_bytes()).into();
        let mut found = None;
        for (known, identity) in &self.keys {
            // No early end: how long it takes says nothing about which key was close.
            let same: Choice = known.ct_eq(&digest);
            if bool::from(same) {
                found = Some(identity);
            }
        }
        found.cloned()
    }
}

/// Which hosts and origins requests may name: against pages of other sites, and names that were made to point here.
#[derive(Debug)]
pub(crate) struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
}

/// A host and, if it says one, a port.
fn split_host(host: &str) -> (&str, Option<&str>) {
    if host.starts_with('[') {
        return match host.find(']') {
            Some(end) => (&host[..=end], host[end + 1..].strip_prefix(':')),
            None => (host, None),
        };
    }
    host.rsplit_once(':').map_or((host, None), |(name, port)| (name, Some(port)))
}

impl Guard {
    pub(crate) fn new(server: &config::server::Server) -> Self {
        let lower = |list: &[String]| list.iter().map(|entry| entry.to_ascii_lowercase()).collect();
        Self { hosts: lower(&server.hosts), origins: lower(&server.origins) }
    }

    /// May a request name this host? A name that an attacker made point here is none of ours; an address cannot be
    /// made to point anywhere.
    pub(crate) fn allows_host(&self, host: &str) -> bool {
        let (name, _) = split_host(host);
        let name = name.to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if self.hosts.contains(&name) {
            return true;
        }
        name == "localhost" || bare.parse::<Ipv4Addr>().is_ok() || bare.parse::<Ipv6Addr>().is_ok()
    }

    /// May a page of this origin call us? Its own server's page may, and those that are configured.
    pub(crate) fn allows_origin(&self, origin: &str, host: &str, tls: bool) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return true;
        }
        let scheme = if tls { "https://" } else { "http://" };
        origin.strip_prefix(scheme).is_some_and(|place| {
            let default = if tls { "443" } else { "80" };
            let (name, port) = split_host(place);
            let (our_name, our_port) = split_host(host);
            name.eq_ignore_ascii_case(our_name) && port.unwrap_or(default) == our_port.unwrap_or(default)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(hosts: &[&str], origins: &[&str]) -> Guard {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Guard { hosts: own(hosts), origins: own(origins) }
    }

    #[test]
    fn names_that_were_made_to_point_here_are_refused() {
        let guard = guard(&["chat.example.com"], &[]);
        for (host, allowed) in [
            ("localhost", true),
            ("localhost:8787", true),
            ("127.0.0.1:8787", true),
            ("[::1]:8787", true),
            ("Chat.Example.com", true),
            ("chat.example.com:443", true),
            ("evil.example.com", false),
            ("localhost.evil.com", false),
            ("127.0.0.1.evil.com", false),
            ("", false),
        ] {
            assert_eq!(guard.allows_host(host), allowed, "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let guard = guard(&[], &["https://app.example.com"]);
        for (origin, host, tls, allowed) in [
            ("http://localhost:8787", "localhost:8787", false, true),
            ("http://localhost", "localhost:80", false, true),
            ("https://localhost:8787", "localhost:8787", false, false),
            ("https://gw.example.com", "gw.example.com", true, true),
            ("https://app.example.com", "gw.example.com", true, true),
            ("https://evil.example.com", "gw.example.com", true, false),
            ("http://localhost:3000", "localhost:8787", false, false),
            ("null", "localhost:8787", false, false),
        ] {
            assert_eq!(guard.allows_origin(origin, host, tls), allowed, "{origin} on {host}");
        }
    }
}

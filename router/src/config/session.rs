//! How conversations are told apart: section `session`.
use super::channels::Channel;
use super::path::Path;
use super::report::Report;
use super::schema::nearest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest name of a person: it is part of a session's id.
const NAME_BYTES_MAX: usize = 128;

/// An account that shares its person's conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The channel's name.
    pub(crate) channel: String,
    /// The platform's id of the account.
    pub(crate) peer: String,
    /// Whose it is.
    pub(crate) person: String,
}

/// How conversations are told apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct SessionSection {
    /// Accounts of one person that share one conversation in direct chats, by the person's name:
    /// `{"ana": ["telegram:123456789", "shop:ana@example.com"]}`, each a channel and the platform's id. All other
    /// conversations are apart, by channel and peer. A change waits for a restart.
    identity_links: BTreeMap<String, Vec<String>>,
}

impl SessionSection {
    /// Checks and resolves. `known` are the names of all channels, enabled or not.
    pub(super) fn resolve(
        &self,
        known: &[&str],
        channels: &[Channel],
        report: &mut Report<'_>,
    ) -> Vec<Account> {
        let at = Path::of("session").key("identityLinks");
        let mut accounts: Vec<Account> = Vec::new();
        for (person, ids) in &self.identity_links {
            let at = at.key(person);
            let is_plain = !person.chars().any(|char| char.is_control() || char == ':');
            if person.is_empty() || NAME_BYTES_MAX < person.len() || !is_plain {
                let help = "write a name of at most 128 bytes, without `:` and control characters";
                report.error(&at, "this is no name of a person", help);
            }
            for (index, id) in ids.iter().enumerate() {
                let at = at.index(index);
                let is_peer = |peer: &str| !peer.is_empty() && !peer.chars().any(char::is_control);
                let Some((channel, peer)) = id.split_once(':').filter(|(_, peer)| is_peer(peer)) else {
                    let message = format!("{} names no account", report.quote(&at, id));
                    report.error(
                        &at,
                        message,
                        "write a channel and the platform's id, as \"telegram:123456789\"",
                    );
                    continue;
                };
                if !check_channel(channel, known, &at, report) {
                    continue;
                }
                if let Some(other) = accounts.iter().find(|it| it.channel == channel && it.peer == peer) {
                    let message =
                        format!("{} is an account of {:?} already", report.quote(&at, id), other.person);
                    report.error(&at, message, "name it once");
                    continue;
                }
                // One of a channel that is not enabled is only checked.
                if channels.iter().any(|it| it.name == channel) {
                    let (channel, peer, person) = (channel.to_owned(), peer.to_owned(), person.clone());
                    accounts.push(Account { channel, peer, person });
                }
            }
        }
        accounts
    }
}

fn check_channel(channel: &str, known: &[&str], at: &Path, report: &mut Report<'_>) -> bool {
    if channel == super::channels::API {
        let help =
            "leave it out: clients of the API share a conversation by its `sessionId` and their key's `user`";
        report.error(at, "accounts of the API are not linked", help);
        return false;
    }
    if known.contains(&channel) {
        return true;
    }
    let help = match nearest(channel, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "name one of `channels`".to_owned(),
    };
    report.error(at, format!("there is no channel {channel:?}"), help);
    false
}

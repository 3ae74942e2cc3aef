//! A channel that speaks Slack's Events API.
use super::{ChannelEntry, api_root, needed};
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::seconds::Seconds;
use crate::config::secret::Secret;
use core::time::Duration;

/// An app in a Slack workspace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slack {
    /// The bot token, `xoxb-...`.
    pub(crate) token: Secret,
    /// What requests are signed with; several while one replaces another; never empty.
    pub(crate) secrets: Vec<Secret>,
    /// How far a signed time may be from ours, either way.
    pub(crate) tolerance: Duration,
    /// A message in a channel opens a thread.
    pub(crate) threads: bool,
    /// Absolute, without a slash at its end.
    pub(crate) api_root: String,
}

impl ChannelEntry {
    pub(super) fn slack(&self, at: &Path, report: &mut Report<'_>) -> Option<Slack> {
        let token = needed(
            &self.token,
            &at.key("token"),
            "install the app to the workspace (OAuth & Permissions) and write \"token\": \"${SLACK_BOT_TOKEN}\"",
            report,
        );
        if let Some(token) = &token {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if !token.expose().starts_with("xoxb-") || !token.expose().bytes().all(plain) {
                let help =
                    "take the \"Bot User OAuth Token\", xoxb-..., of the app's page OAuth & Permissions";
                report.error(&at.key("token"), "this is not a bot token of Slack", help);
            }
        }
        let help = "copy the \"Signing Secret\" of the app's page Basic Information and write it here";
        let secrets = self.all_secrets(at, help, report);
        let api_root = api_root(self.api_root.as_ref(), "https://slack.com/api", at, report);
        Some(Slack {
            token: token?,
            secrets: secrets?,
            tolerance: self.tolerance_seconds.unwrap_or(Seconds::whole(300)).duration(),
            threads: self.threads.unwrap_or(true),
            api_root,
        })
    }
}

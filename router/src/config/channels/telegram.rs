//! A channel that speaks Telegram's Bot API.
use super::{ChannelEntry, api_root, needed};
use crate::config::keys::check_secret;
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::secret::Secret;

/// A Telegram bot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Telegram {
    /// From @BotFather.
    pub(crate) token: Secret,
    /// What Telegram sends as `X-Telegram-Bot-Api-Secret-Token`.
    pub(crate) secret: Secret,
    /// Without the `@`; needed to see mentions.
    pub(crate) bot_username: Option<String>,
    /// Absolute, without a slash at its end.
    pub(crate) api_root: String,
}

impl ChannelEntry {
    pub(super) fn telegram(&self, at: &Path, report: &mut Report<'_>) -> Option<Telegram> {
        let token = needed(
            &self.token,
            &at.key("token"),
            "get one from @BotFather in Telegram and write \"token\": \"${TELEGRAM_BOT_TOKEN}\"",
            report,
        );
        let secret = needed(
            &self.secret,
            &at.key("secret"),
            "make one (openssl rand -hex 32), give it to setWebhook as `secret_token`, and write it here",
            report,
        );
        if let Some(token) = &token {
            check_bot_token(token, &at.key("token"), report);
        }
        if let Some(secret) = &secret {
            let at = at.key("secret");
            check_secret(secret, &at, report);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if 256 < secret.expose().len() || !secret.expose().bytes().all(plain) {
                let message = "Telegram takes up to 256 letters, digits, `_` and `-`";
                report.error(&at, message, "make one: openssl rand -hex 32");
            }
        }
        let api_root = api_root(self.api_root.as_ref(), "https://api.telegram.org", at, report);
        let bot_username = self.bot_username.as_ref();
        let bot_username = bot_username.map(|name| name.trim_start_matches('@').to_owned());
        Some(Telegram {
            token: token?,
            secret: secret?,
            bot_username: bot_username.filter(|name| !name.is_empty()),
            api_root,
        })
    }
}

// "123456:ABC-DEF", as the Bot API page has it under "Authorizing your bot".
fn check_bot_token(token: &Secret, at: &Path, report: &mut Report<'_>) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let fits = token
        .expose()
        .split_once(':')
        .is_some_and(|(id, rest)| id.parse::<u64>().is_ok() && !rest.is_empty() && rest.bytes().all(plain));
    if !fits {
        let message = "this is not a bot's token";
        report.error(at, message, "it has the form 123456:ABC-DEF; @BotFather shows it again with /token");
    }
}

//! A channel that speaks WhatsApp's Cloud API.
use super::{ChannelEntry, api_root, needed};
use crate::config::keys::check_secret;
use crate::config::path::Path;
use crate::config::report::Report;
use crate::config::secret::Secret;

/// A business's number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WhatsApp {
    /// An access token of the Graph API.
    pub(crate) token: Secret,
    /// What requests are signed with; several while one replaces another; never empty.
    pub(crate) secrets: Vec<Secret>,
    /// What Meta repeats when it tries the address.
    pub(crate) verify_token: Secret,
    /// The number's id: digits.
    pub(crate) phone_number_id: String,
    /// Absolute, without a slash at its end.
    pub(crate) api_root: String,
}

impl ChannelEntry {
    pub(super) fn whatsapp(&self, at: &Path, report: &mut Report<'_>) -> Option<WhatsApp> {
        let token = needed(
            &self.token,
            &at.key("token"),
            "make one for a system user of the business and write \"token\": \"${WHATSAPP_TOKEN}\"",
            report,
        );
        let help = "copy the \"App secret\" of the app's page Basic settings and write it here";
        let secrets = self.all_secrets(at, help, report);
        let help = "make one (openssl rand -hex 32), enter it at Meta beside the address, and write it here";
        let verify_token = needed(&self.verify_token, &at.key("verifyToken"), help, report);
        if let Some(token) = &verify_token {
            check_secret(token, &at.key("verifyToken"), report);
        }
        let (place, id) = (at.key("phoneNumberId"), self.phone_number_id.as_ref());
        let help =
            "copy the \"Phone number ID\" of the app's page API setup: digits, and not the number itself";
        if id.is_none() && !report.is_written(&place) {
            report.error(&place, "`phoneNumberId` is missing here", help);
        }
        let is_id = |id: &&String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(id) = id.filter(|id| !is_id(id)) {
            let message = format!("{} is not the id of a phone number", report.quote(&place, id));
            report.error(&place, message, help);
        }
        let api_root = api_root(self.api_root.as_ref(), "https://graph.facebook.com/v23.0", at, report);
        Some(WhatsApp {
            token: token?,
            secrets: secrets?,
            verify_token: verify_token?,
            phone_number_id: id.filter(is_id)?.clone(),
            api_root,
        })
    }
}

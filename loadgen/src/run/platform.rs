//! Platforms that post to a webhook of the gateway and take its answers, both in this process: what is timed is the whole
//! way, from the message that is due to the answer that its writer would see.
//!
//! A platform is one implementation of [`Platform`], and its line in [`of`]: what it posts, how it signs, when it posts
//! again what was not taken, and where its answers come. Owns no connection to the gateway: those are `http`'s.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Times;
use crate::protocol::{Addressing, Template};
use crate::run::Settings;
use crate::run::lane::{Books, Lane};
use crate::run::signed::SignedWebhook;
use crate::run::telegram::Telegram;
use crate::scenario::Kind;
use crate::stamp;

/// Where in a request stands what a signature is made of, and the signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    /// The id of the request.
    pub(crate) id: Range<usize>,
    /// Its moment, in Unix seconds of ten digits.
    pub(crate) time: Range<usize>,
    /// The signature.
    pub(crate) signature: Range<usize>,
    /// What is signed.
    pub(crate) body: Range<usize>,
}

/// What is particular to a platform.
pub(crate) trait Platform: fmt::Debug + Send + Sync {
    /// A message as it is posted, with holes for what differs.
    fn template(&self, to: &Addressing, started_unix_seconds: u64) -> Template;

    /// Signs a request that is otherwise complete.
    fn sign(&self, request: &mut [u8], seal: &Seal, unix_seconds: u64);

    /// How long the platform waits before it posts again what was not taken, each time; after the last it gives up.
    fn retries(&self) -> &'static [Duration];

    /// Takes answers on the calling thread. All lanes listen on one address, and the kernel spreads the gateway's
    /// connections over them.
    ///
    /// # Errors
    /// Nothing can listen there.
    fn listen(self: Arc<Self>, lane: &Rc<Lane>, run: u32, books: &Books) -> Result<(), String>;

    /// The run is over: what is not whole will not be.
    fn close(&self, books: &Books);
}

/// The platform of a kind of traffic; `None` if it has none.
///
/// # Errors
/// What its settings lack.
pub(crate) fn of(kind: Kind, settings: &Settings) -> Result<Option<Arc<dyn Platform>>, String> {
    match kind {
        Kind::WebhookTelegram => {
            let telegram = settings.telegram.as_ref();
            let telegram = telegram
                .ok_or("webhook-telegram needs the bot's token and the webhook's secret: --bot-token, --webhook-secret")?;
            Ok(Some(Arc::new(Telegram::new(telegram))))
        }
        Kind::WebhookSigned => {
            let signed = settings.signed.as_ref();
            let signed = signed.ok_or("webhook-signed needs the channel's secret: --signed-secret")?;
            Ok(Some(Arc::new(SignedWebhook::new(signed)?)))
        }
        Kind::WsChat | Kind::WsStream | Kind::Rest | Kind::SseStream | Kind::Churn => Ok(None),
    }
}

/// Holds an answer for a session against what was asked. Tells its times if it is the one answer that was waited for.
pub(crate) fn judge(books: &Books, run: u32, session: u32, text: &[u8], now_ns: u64) -> Option<Times> {
    let Some(stamp) = stamp::peek(text) else {
        books.with(session, |ledger| ledger.on_garbled());
        return None;
    };
    if stamp.run != run {
        books.with(session, |ledger| ledger.tally_mut().strays += 1);
        return None;
    }
    if stamp.session != session {
        books.with(session, |ledger| ledger.on_garbled());
        return None;
    }
    books.with(session, |ledger| {
        ledger.on_piece(session, stamp.seq, text);
        ledger.on_done(session, stamp.seq, now_ns)
    })
}

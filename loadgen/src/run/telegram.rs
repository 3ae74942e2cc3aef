//! The far end of a Telegram run: the Bot API simulator, in this process, where the gateway's answers arrive. What is timed
//! is then the whole way, from the update that is due to the message that its chat would see.
//!
//! An answer may be shown while it is written, in a message that is edited (`streaming: "partial"`). What counts is its last
//! text: it is answered when the text is whole, and what never becomes whole is corrupted, told at the end of the run.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::mock::peer;
use crate::mock::telegram::{Bot, BotSettings, Shown, serve_peer};
use crate::protocol::{Addressing, CHAT_BASE, Template};
use crate::run::TelegramSettings;
use crate::run::lane::{Books, Lane};
use crate::run::platform::{Platform, Seal, judge};
use crate::stamp;

/// Telegram says that it repeats what is not taken, and not when: as it was seen to do, in growing steps, for a while.
const RETRIES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(60),
];

/// Messages that are being written at the same time; of more, the first text is taken for the last.
const UNFINISHED_MAX: usize = 100_000;

/// The platform, one for all lanes: the gateway's connections are spread over them, and an edit may come to another lane
/// than the message that it changes.
#[derive(Debug)]
pub(crate) struct Telegram {
    settings: TelegramSettings,
    bot: Arc<Mutex<Bot>>,
    /// The messages whose text is not whole yet, by their numbers, with their sessions and their texts.
    unfinished: Mutex<HashMap<u64, (u32, Vec<u8>)>>,
}

impl Telegram {
    pub(crate) fn new(settings: &TelegramSettings) -> Self {
        let of_bot = BotSettings { token: settings.token.clone(), ..BotSettings::default() };
        Self {
            settings: settings.clone(),
            bot: Arc::new(Mutex::new(Bot::new(of_bot))),
            unfinished: Mutex::default(),
        }
    }

    /// A chat sees a message, or another text of one.
    fn on_shown(&self, lane: &Lane, run: u32, books: &Books, shown: Shown<'_>) {
        let now_ns = lane.now();
        let session = u64::try_from(shown.chat).ok().and_then(|chat| chat.checked_sub(CHAT_BASE));
        let session = session.and_then(|session| u32::try_from(session).ok());
        let Some(session) = session.filter(|session| *session < lane.settings.sessions) else {
            books.with(0, |ledger| ledger.tally_mut().strays += 1);
            return;
        };
        lane.recorder.borrow_mut().counts().pieces += 1;
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let was_unfinished = unfinished.contains_key(&shown.message);
        let stamp = stamp::peek(shown.text);
        if stamp.is_some_and(|stamp| stamp.run != run) {
            // What another run asked is answered now; its edits are no news of this one.
            unfinished.remove(&shown.message);
            books.with(session, |ledger| ledger.tally_mut().strays += 1);
            return;
        }
        let is_whole = stamp::read(shown.text).is_some();
        if shown.is_edit && !was_unfinished {
            // A whole answer was there, and is something else now.
            books.with(session, |ledger| ledger.on_garbled());
            return;
        }
        if !is_whole && (was_unfinished || unfinished.len() < UNFINISHED_MAX) {
            let text = unfinished.entry(shown.message).or_insert_with(|| (session, Vec::new()));
            text.1.clear();
            text.1.extend_from_slice(shown.text);
            return;
        }
        unfinished.remove(&shown.message);
        drop(unfinished);
        if let Some(times) = judge(books, run, session, shown.text, now_ns) {
            lane.recorder.borrow_mut().on_done(times, now_ns);
        }
    }
}

impl Platform for Telegram {
    fn template(&self, to: &Addressing, started_unix_seconds: u64) -> Template {
        let target = format!("/webhooks/{}", self.settings.channel);
        Template::telegram(to, &target, &self.settings.secret, started_unix_seconds)
    }

    /// Its secret is the same for all.
    fn sign(&self, request: &mut [u8], seal: &Seal, _unix_seconds: u64) {
        request[seal.signature.clone()].copy_from_slice(self.settings.secret.as_bytes());
    }

    fn retries(&self) -> &'static [Duration] {
        &RETRIES
    }

    fn listen(self: Arc<Self>, lane: &Rc<Lane>, run: u32, books: &Books) -> Result<(), String> {
        let (address, lane, books) = (self.settings.listen, Rc::clone(lane), books.clone());
        let listening = peer::listen(address, move |peer| {
            let (telegram, lane, books) = (Arc::clone(&self), Rc::clone(&lane), books.clone());
            let bot = Arc::clone(&self.bot);
            serve_peer(peer, bot, move |shown| telegram.on_shown(&lane, run, &books, shown))
        });
        listening
            .map(drop)
            .map_err(|error| format!("the Telegram simulator cannot listen on {address}: {error}"))
    }

    fn close(&self, books: &Books) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner));
        for (session, text) in unfinished.into_values() {
            let run = stamp::peek(&text).map_or(0, |stamp| stamp.run);
            // What is wrong is neither timed nor late.
            judge(books, run, session, &text, 0);
        }
    }
}

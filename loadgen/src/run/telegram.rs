//! The far end of a Telegram run: the Bot API simulator, in this process, where the gateway's answers arrive. What is timed
//! is then the whole way, from the update that is due to the message that its chat would see.
//!
//! An answer may be shown while it is written, in a message that is edited (`streaming: "partial"`). What counts is its last
//! text: it is answered when the text is whole, and what never becomes whole is corrupted, told at the end of the run.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ledger::Times;
use crate::mock::peer;
use crate::mock::telegram::{Bot, BotSettings, Shown, serve_peer};
use crate::protocol::CHAT_BASE;
use crate::run::TelegramSettings;
use crate::run::lane::{Books, Lane};
use crate::stamp;

/// Messages that are being written at the same time; of more, the first text is taken for the last.
const UNFINISHED_MAX: usize = 100_000;

/// The platform, one for all lanes: the gateway's connections are spread over them, and an edit may come to another lane
/// than the message that it changes.
#[derive(Debug)]
pub(crate) struct Platform {
    bot: Arc<Mutex<Bot>>,
    /// The messages whose text is not whole yet, by their numbers, with their sessions and their texts.
    unfinished: Mutex<HashMap<u64, (u32, Vec<u8>)>>,
}

impl Platform {
    pub(crate) fn new(settings: &TelegramSettings) -> Arc<Self> {
        let settings = BotSettings { token: settings.token.clone(), ..BotSettings::default() };
        Arc::new(Self { bot: Arc::new(Mutex::new(Bot::new(settings))), unfinished: Mutex::default() })
    }

    /// Listens on the calling thread. All lanes listen on one address, and the kernel spreads the gateway's connections over
    /// them.
    pub(crate) fn listen(self: &Arc<Self>, lane: &Rc<Lane>, run: u32, books: &Books) -> Result<(), String> {
        let Some(telegram) = &lane.settings.telegram else {
            return Err("no Telegram settings".to_owned());
        };
        let (platform, lane, books) = (Arc::clone(self), Rc::clone(lane), books.clone());
        let address = telegram.listen;
        let listening = peer::listen(address, move |peer| {
            let (platform, lane, books) = (Arc::clone(&platform), Rc::clone(&lane), books.clone());
            let bot = Arc::clone(&platform.bot);
            serve_peer(peer, bot, move |shown| platform.on_shown(&lane, run, &books, shown))
        });
        listening
            .map(drop)
            .map_err(|error| format!("the Telegram simulator cannot listen on {address}: {error}"))
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
        if let Some(times) = judge(books, session, shown.text, now_ns) {
            lane.recorder.borrow_mut().on_done(times, now_ns);
        }
    }

    /// The run is over: what is not whole will not be.
    pub(crate) fn close(&self, books: &Books) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner));
        for (session, text) in unfinished.into_values() {
            // What is wrong is neither timed nor late.
            judge(books, session, &text, 0);
        }
    }
}

/// Holds the last text of a message against what was asked. Tells its times if it is the one answer that was waited for.
fn judge(books: &Books, session: u32, text: &[u8], now_ns: u64) -> Option<Times> {
    let Some(stamp) = stamp::peek(text).filter(|stamp| stamp.session == session) else {
        books.with(session, |ledger| ledger.on_garbled());
        return None;
    };
    books.with(session, |ledger| {
        ledger.on_piece(session, stamp.seq, text);
        ledger.on_done(session, stamp.seq, now_ns)
    })
}

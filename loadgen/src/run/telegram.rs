//! The far end of a Telegram run: the Bot API simulator, in this process, where the gateway's answers arrive. What is timed
//! is then the whole way, from the update that is due to the message that its chat would see.

use std::cell::RefCell;
use std::rc::Rc;

use crate::mock::peer;
use crate::mock::telegram::{Bot, BotSettings, serve_peer};
use crate::protocol::CHAT_BASE;
use crate::run::lane::{Books, Lane};
use crate::stamp;

/// Starts the simulator on the calling thread. All lanes listen on one address, and the kernel spreads the gateway's
/// connections over them.
pub(crate) fn listen(lane: &Rc<Lane>, run: u32, books: &Books) -> Result<(), String> {
    let Some(telegram) = &lane.settings.telegram else {
        return Err("no Telegram settings".to_owned());
    };
    let settings = BotSettings { token: telegram.token.clone(), ..BotSettings::default() };
    let bot = Rc::new(RefCell::new(Bot::new(settings)));
    let (lane, books, address) = (Rc::clone(lane), books.clone(), telegram.listen);
    let listening = peer::listen(address, move |peer| {
        let (lane, books) = (Rc::clone(&lane), books.clone());
        serve_peer(peer, Rc::clone(&bot), move |chat, text| on_message(&lane, run, &books, chat, text))
    });
    listening.map(drop).map_err(|error| format!("the Telegram simulator cannot listen on {address}: {error}"))
}

/// A message came for a chat.
fn on_message(lane: &Lane, run: u32, books: &Books, chat: i64, text: &[u8]) {
    let now_ns = lane.now();
    let session = u64::try_from(chat).ok().and_then(|chat| chat.checked_sub(CHAT_BASE));
    let session = session.and_then(|session| u32::try_from(session).ok());
    let Some(session) = session.filter(|session| *session < lane.settings.sessions) else {
        books.with(0, |ledger| ledger.tally_mut().strays += 1);
        return;
    };
    let Some(stamp) = stamp::peek(text) else {
        books.with(session, |ledger| ledger.on_garbled());
        return;
    };
    if stamp.run != run {
        books.with(session, |ledger| ledger.tally_mut().strays += 1);
        return;
    }
    if stamp.session != session {
        books.with(session, |ledger| ledger.on_garbled());
        return;
    }
    let times = books.with(session, |ledger| {
        ledger.on_piece(session, stamp.seq, text);
        ledger.on_done(session, stamp.seq, now_ns)
    });
    let mut recorder = lane.recorder.borrow_mut();
    recorder.counts().pieces += 1;
    if let Some(times) = times {
        recorder.on_done(times, now_ns);
    }
}

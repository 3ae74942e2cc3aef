//! What the gateway talks to, living through all its lives: the Bot API, the taker of the signed webhook's answers, the
//! model. Each writes into the history what a person would have seen, and when it was confirmed.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::RequestHead;

use super::World;
use super::history::{Door, Key, Taken};
use crate::mock::peer::{self, Peer, write_json};
use crate::mock::provider;
use crate::mock::telegram::{Bot, BotSettings};
use crate::protocol::{CHAT_BASE, find};
use crate::{driver, stamp, sys};

/// The token of the simulated bot.
pub(super) const BOT_TOKEN: &str = "123456:crash-token";

/// Where the simulators listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) bot: SocketAddr,
    pub(super) answers: SocketAddr,
    pub(super) model: SocketAddr,
}

/// Starts all of them on the calling thread, on ports that the system chooses.
pub(super) fn listen(world: &Rc<World>) -> io::Result<Addresses> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = BotSettings { token: BOT_TOKEN.to_owned(), ..BotSettings::default() };
    let bot = Rc::new(RefCell::new(Bot::new(settings)));
    let here = Rc::clone(world);
    let bot = peer::listen(any, move |peer| serve_bot(Rc::clone(&here), peer, Rc::clone(&bot)))?;
    let here = Rc::clone(world);
    let answers = peer::listen(any, move |peer| serve_answers(Rc::clone(&here), peer))?;
    let script = world.plan.script.clone();
    let model = provider::serve(any, provider::Settings { key: String::new(), script })?;
    Ok(Addresses { bot, answers, model })
}

/// One connection of the gateway to the Bot API. It belongs to the life that opened it.
async fn serve_bot(world: Rc<World>, mut peer: Peer, bot: Rc<RefCell<Bot>>) {
    let life = world.life.get();
    loop {
        let taken = peer.next(|head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>| {
            let mut taken = None;
            bot.borrow_mut().answer(head.target, body, sys::now_ns(), out, &mut |shown| {
                let chat = u64::try_from(shown.chat).ok().and_then(|chat| chat.checked_sub(CHAT_BASE));
                taken = take(&world, Door::Telegram, chat, shown.text, (life, sys::now_ns()));
            });
            taken
        });
        let Ok(Some(taken)) = taken.await else { return };
        if !confirm(&world, &mut peer, taken).await {
            return;
        }
    }
}

/// One connection of the gateway to the taker of the webhook's answers. What comes under a key that was had is dropped.
async fn serve_answers(world: Rc<World>, mut peer: Peer) {
    let life = world.life.get();
    loop {
        let taken = peer.next(|head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>| {
            write_json(out, 200, b"{}");
            let Some(key) = head.headers.get("idempotency-key") else {
                world.history.borrow_mut().on_garbled();
                return None;
            };
            // One moment for key and answer: a loss of power between two would know the one without the other.
            let now_ns = sys::now_ns();
            if !world.history.borrow_mut().is_new_key(key, now_ns) {
                return None;
            }
            let text =
                |name: &[u8]| find(body, name).and_then(|value| value.text().map(|text| text.into_owned()));
            let chat = text(b"sender")
                .and_then(|name| core::str::from_utf8(&name).ok()?.strip_prefix('u')?.parse().ok());
            take(&world, Door::Webhook, chat, &text(b"text").unwrap_or_default(), (life, now_ns))
        });
        let Ok(Some(taken)) = taken.await else { return };
        if !confirm(&world, &mut peer, taken).await {
            return;
        }
    }
}

/// Keeps account of an answer that came for a chat, from a life of the gateway and at a moment.
fn take(
    world: &World,
    door: Door,
    chat: Option<u64>,
    text: &[u8],
    (life, now_ns): (u32, u64),
) -> Option<Taken> {
    let mut history = world.history.borrow_mut();
    match (chat, stamp::read(text)) {
        (Some(chat), Some(stamp)) if stamp.run == world.run_of(door) && u64::from(stamp.session) == chat => {
            history.on_answer(Key { door, chat: stamp.session, seq: stamp.seq }, life, now_ns)
        }
        _ => {
            history.on_garbled();
            None
        }
    }
}

/// Takes the platform's time, then sends the confirmation. `false` if the gateway is gone.
async fn confirm(world: &World, peer: &mut Peer, taken: Option<Taken>) -> bool {
    let millis = world.platform_millis();
    if millis != 0 {
        driver::sleep(Duration::from_millis(millis)).await;
    }
    if peer.flush().await.is_err() {
        return false;
    }
    if let Some(taken) = taken {
        world.history.borrow_mut().on_confirmed(taken, sys::now_ns());
    }
    true
}

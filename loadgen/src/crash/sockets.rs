//! WebSocket clients that ask for receipts: what has none when the connection breaks is sent again on the next one, in
//! order and under the same id. What was answered while nobody listened stands in the session's history at the end.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use clawgate_wire::http1::{Length, write_request_head};
use clawgate_wire::json;
use clawgate_wire::websocket::{Decoder, Item, Opcode, Step, write_frame};

use super::World;
use super::call::Caller;
use super::config::API_KEY;
use super::history::{Door, History, Key};
use super::senders::{post_json, text_of};
use crate::driver::{self, Socket};
use crate::protocol::{Incoming, Said, find};
use crate::rng::{Rng, mix};
use crate::run::Door as Entrance;
use crate::scan::Value;
use crate::{stamp, sys};

/// Messages of one session: so few that its history holds all of them with their answers.
const SESSION_MESSAGES: u32 = 12;
/// Sessions that a client has one after another, at most; its conversations are numbered within that.
const SESSIONS_MAX: u32 = 100_000;
/// Sessions in which a client speaks at the same time, with one message without a receipt in each: what is refused can then
/// be said again without being overtaken.
const SLOTS: usize = 8;
/// The wait before a message that was refused is said again.
const REFUSED_NS: u64 = 100_000_000;
/// How long a client looks at its socket before it looks whether it has something to say.
const LOOK: Duration = Duration::from_millis(2);
const RECONNECT: Duration = Duration::from_millis(10);
const HISTORY_LIMIT: Duration = Duration::from_secs(10);

/// What a client knows of its messages.
#[derive(Debug, Default)]
struct Client {
    lane: u32,
    slots: [Slot; SLOTS],
    out: Vec<u8>,
}

/// One of the conversations of a client.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Messages so far.
    sent: u32,
    /// The message that has no receipt.
    waiting: Option<Key>,
    /// When it is said again, because it was refused.
    again_ns: Option<u64>,
}

/// One client, for as long as the run goes on.
pub(super) async fn run(world: Rc<World>, lane: u32) {
    let mut client = Client { lane, ..Client::default() };
    let rng = RefCell::new(Rng::new(mix(world.plan.seed ^ mix(0x50CE + u64::from(lane)))));
    let host = world.launch.address.to_string();
    while !world.over.get() {
        let entrance = Entrance { target: world.launch.address, host: &host, key: API_KEY };
        if let Ok((socket, decoder, rest)) = entrance.open(&rng).await {
            // However it ends, the next connection begins with what has no receipt.
            client.converse(&world, &rng, &socket, decoder, rest).await.ok();
        }
        driver::sleep(RECONNECT).await;
    }
}

impl Client {
    /// Speaks on one connection until it breaks.
    async fn converse(
        &mut self,
        world: &World,
        rng: &RefCell<Rng>,
        socket: &Socket,
        mut decoder: Decoder,
        mut input: Vec<u8>,
    ) -> io::Result<()> {
        let life = world.life.get();
        self.say_again(world, |_| true);
        let mut due_ns = sys::now_ns();
        while !world.over.get() {
            let now_ns = sys::now_ns();
            self.say_again(world, |slot| slot.again_ns.is_some_and(|again_ns| again_ns <= now_ns));
            if world.sending.get() && due_ns <= now_ns {
                self.say(world);
                let mean_ns = f64::from(world.plan.sockets) * 1e9 / world.plan.socket_rate.max(0.001);
                due_ns = sys::now_ns() + (rng.borrow_mut().unit() * 2.0 * mean_ns) as u64;
            }
            socket.send_all(&std::mem::take(&mut self.out)).await?;
            match driver::within(LOOK, socket.readable()).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
                Err(error) => return Err(error),
            }
            receive(socket, &mut input)?;
            let mut done = 0;
            while done < input.len() {
                match decoder.decode(&mut input[done..]) {
                    Ok(Step::NeedMore(_)) => break,
                    Ok(Step::Frame { consumed, item }) => {
                        self.on_item(world, item, life)?;
                        done += consumed;
                    }
                    Err(_) => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            input.drain(..done);
        }
        Ok(())
    }

    /// Says the next message, in a conversation that has none without a receipt.
    fn say(&mut self, world: &World) {
        let Some(place) = self.slots.iter().position(|slot| slot.waiting.is_none()) else { return };
        let slot = &mut self.slots[place];
        let session = slot.sent / SESSION_MESSAGES * SLOTS as u32 + place as u32;
        slot.sent += 1;
        let chat = self.lane * SESSIONS_MAX + session % SESSIONS_MAX;
        let key = world.history.borrow_mut().open(Door::Socket, chat);
        slot.waiting = Some(key);
        world.tally.borrow_mut().sent += 1;
        self.write(world, key);
    }

    /// Says again what has no receipt.
    fn say_again(&mut self, world: &World, is_due: impl Fn(&Slot) -> bool) {
        for place in 0..SLOTS {
            let slot = &mut self.slots[place];
            if let Some(key) = slot.waiting.filter(|_| is_due(slot)) {
                slot.again_ns = None;
                self.write(world, key);
            }
        }
    }

    fn write(&mut self, world: &World, key: Key) {
        let run = world.run_of(Door::Socket);
        let mut message = br#"{"type":"message","receipt":true,"stream":false,"content":"#.to_vec();
        json::write_str(&mut message, &text_of(run, key.chat, key.seq));
        let names = format!(
            r#","sessionId":"{}","id":"{run:08x}-{:08x}-{:08x}"}}"#,
            session_id(run, key.chat),
            key.chat,
            key.seq
        );
        message.extend_from_slice(names.as_bytes());
        // A mask is there against proxies; between us and ourselves any will do.
        write_frame(&mut self.out, Opcode::Text, true, Some([7, 1, 3, 9]), &message);
    }

    fn on_item(&mut self, world: &World, item: Item<'_>, life: u32) -> io::Result<()> {
        match item {
            Item::Text(message) | Item::Binary(message) => match Incoming::read(message) {
                Some(incoming) => self.on_message(world, &incoming, life),
                None => world.history.borrow_mut().on_garbled(),
            },
            Item::Fragment { .. } => world.history.borrow_mut().on_garbled(),
            Item::Ping(payload) => write_frame(&mut self.out, Opcode::Pong, true, Some([0; 4]), payload),
            Item::Pong(_) => {}
            Item::Close { .. } => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        Ok(())
    }

    fn on_message(&mut self, world: &World, incoming: &Incoming<'_>, life: u32) {
        let run = world.run_of(Door::Socket);
        let named = incoming.id.as_deref().and_then(|id| crate::protocol::read_message_id(id, run));
        let Some((chat, seq)) = named else {
            if incoming.said == Said::Error {
                world.tally.borrow_mut().refuse(&text(incoming.code.as_deref()));
            }
            return;
        };
        let key = Key { door: Door::Socket, chat, seq };
        let mut history = world.history.borrow_mut();
        match incoming.said {
            Said::Accepted => {
                if let Some(slot) = self.slot_of(key) {
                    (slot.waiting, slot.again_ns) = (None, None);
                }
                history.on_acked(key, sys::now_ns());
                world.tally.borrow_mut().acked += 1;
            }
            Said::Message => {
                let stamp = stamp::read(incoming.content.as_deref().unwrap_or_default());
                if stamp.is_some_and(|stamp| (stamp.run, stamp.session, stamp.seq) == (run, chat, seq)) {
                    history.on_answer(key, life, sys::now_ns());
                } else {
                    history.on_garbled();
                }
            }
            Said::Error => self.on_error(world, &mut history, key, &text(incoming.code.as_deref())),
            Said::AuthOk | Said::Chunk | Said::Done | Said::Pong | Said::Other => {}
        }
    }

    /// Before its receipt an error refuses a message, which is said again; after it, it ends it.
    fn on_error(&mut self, world: &World, history: &mut History, key: Key, code: &str) {
        world.tally.borrow_mut().refuse(code);
        if history.is_acked(key) {
            history.on_failed(key, code);
        } else if let Some(slot) = self.slot_of(key) {
            slot.again_ns = Some(sys::now_ns() + REFUSED_NS);
        }
    }

    fn slot_of(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.waiting == Some(key))
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or(b"(no code)")).into_owned()
}

fn session_id(run: u32, chat: u32) -> String {
    format!("crash-{run:08x}-{chat:08x}")
}

fn receive(socket: &Socket, input: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 4096];
    while let Some(count) = socket.receive(&mut chunk)? {
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(&chunk[..count]);
        if count < chunk.len() {
            break;
        }
    }
    Ok(())
}

/// Asks for the history of every session that was spoken in, and writes down which answers it holds. A session that only
/// the store knows is shown once somebody speaks in it again, and then as its agent remembers it.
pub(super) async fn recall(world: &World) {
    let run = world.run_of(Door::Socket);
    let chats: Vec<u32> = world.history.borrow().chats(Door::Socket).collect();
    let mut caller = Caller::new(world.launch.address);
    let (host, bearer) = (world.launch.address.to_string(), format!("Bearer {API_KEY}"));
    for chat in chats {
        let id = session_id(run, chat);
        let mut request = Vec::new();
        let body = format!(r#"{{"message":"what was said?","sessionId":"{id}"}}"#);
        post_json(&mut request, "/api/chat", &host, &bearer, body.as_bytes());
        let woken = caller.call(&request, HISTORY_LIMIT).await;
        request.clear();
        let (target, headers) = (format!("/api/sessions/{id}"), [("Authorization", bearer.as_str())]);
        write_request_head(&mut request, "GET", &target, &host, &headers, Length::None, true);
        let told = caller.call(&request, HISTORY_LIMIT).await;
        let (Ok(woken), Ok(told)) = (woken, told) else { continue };
        if told.status == 200 {
            let mut history = world.history.borrow_mut();
            for seq in answers_in(&told.body, run, chat) {
                history.on_recalled(Key { door: Door::Socket, chat, seq });
            }
            if woken.status == 200 {
                history.on_recalled_all(Door::Socket, chat);
            }
        }
    }
}

/// The messages of a session whose answers its history holds, in its order.
pub(crate) fn answers_in(body: &[u8], run: u32, chat: u32) -> Vec<u32> {
    let Some(Value::Nested(data)) = find(body, b"data") else { return Vec::new() };
    let Some(Value::Nested(history)) = find(data, b"history") else { return Vec::new() };
    let entries: Vec<serde_json::Value> = serde_json::from_slice(history).unwrap_or_default();
    let answers = entries.iter().filter(|entry| entry["role"] == "assistant");
    let stamps = answers.filter_map(|entry| stamp::read(entry["content"].as_str()?.as_bytes()));
    stamps.filter(|stamp| stamp.run == run && stamp.session == chat).map(|stamp| stamp.seq).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_a_history_are_found_in_their_order() {
        let entry = |role: &str, seq| format!(r#"{{"role":"{role}","content":"{}"}}"#, text_of(7, 3, seq));
        let history = [entry("user", 0), entry("assistant", 0), entry("assistant", 2), entry("assistant", 1)];
        let body = format!(r#"{{"success":true,"data":{{"id":"x","history":[{}]}}}}"#, history.join(","));
        assert_eq!(answers_in(body.as_bytes(), 7, 3), [0, 2, 1]);
        assert_eq!(answers_in(body.as_bytes(), 7, 4), [0_u32; 0]);
        assert_eq!(answers_in(br#"{"success":false}"#, 7, 3), [0_u32; 0]);
    }
}

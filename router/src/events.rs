//! What listeners are told: `subscribe` on the WebSocket. Events are written once and handed to the cores that have
//! listeners; a listener that does not read is dropped by its outbox's bound, never waited for.
use crate::connection::{Connection, Place, Protocol};
use crate::mesh::Letter;
use crate::sessions;
use crate::thread::Thread;
use clawgate_adapters::websocket::{self as protocol, Topic};
use clawgate_core::breaker::State;
use clawgate_core::effect::Notice;
use clawgate_core::event::Event;
use clawgate_core::id::{ModelId, SessionId, ShardId};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One event on its way to the listeners.
#[derive(Debug)]
struct Notification {
    topic: Topic,
    /// The API user whose session it is about; empty for a platform's, which only readers of all may see.
    owner: String,
    json: String,
}

/// Tells the listeners of all cores what happened to a session of this shard.
pub(crate) fn publish(thread: &Rc<Thread>, notice: Notice, session: SessionId, text: &str) {
    let shard = thread.shard.borrow();
    let Some(address) = shard.address(session) else { return };
    let gateway = thread.gateway();
    let plan = &gateway.plan;
    let channel = &plan.channel(address.channel).name;
    let mut id = String::new();
    sessions::write_id(&mut id, channel, &address);
    let owner = if crate::gateway::is_api(address.channel) { address.peer.to_owned() } else { String::new() };
    let (event, topic) = protocol::topic_of(notice);
    let unix_millis = crate::clock::unix_millis();
    let happened = protocol::Published {
        event,
        session_id: &id,
        channel,
        peer: address.peer,
        content: text,
        unix_millis,
    };
    send(thread, topic, owner, &happened);
}

fn send(thread: &Rc<Thread>, topic: Topic, owner: String, event: &protocol::Published<'_>) {
    let mut json = Vec::new();
    protocol::write_event(&mut json, event);
    let Ok(json) = String::from_utf8(json) else { return };
    broadcast(thread, Arc::new(Notification { topic, owner, json }));
}

/// Tells listeners of `status` that a model's breaker changed.
pub(crate) fn model_changed(thread: &Rc<Thread>, model: ModelId, state: State) {
    if thread.shared.subscribers.load(Ordering::Relaxed) == 0 {
        return;
    }
    let gateway = thread.gateway();
    let name = gateway.model_name(model);
    let text = format!("{name}: breaker {}", crate::api::status::breaker_name(state));
    let unix_millis = crate::clock::unix_millis();
    let event = "model.updated";
    send(
        thread,
        Topic::Status,
        String::new(),
        &protocol::Published { event, content: &text, unix_millis, ..Default::default() },
    );
}

fn broadcast(thread: &Rc<Thread>, published: Arc<Notification>) {
    for core in 0..thread.shared.cores() {
        let published = published.clone();
        let errand = Box::new(move |there: &Rc<Thread>| deliver(there, &published));
        // Also to ourselves by letter: effects are being carried out.
        thread.outgoing.borrow_mut().letter(ShardId(core), Letter::Errand(errand));
    }
}

fn deliver(thread: &Rc<Thread>, published: &Notification) {
    let places = thread.subscribers.borrow().clone();
    for place in places {
        if let Some(connection) = thread.connection(place) {
            offer(thread, &connection, published);
        }
    }
}

fn offer(thread: &Rc<Thread>, connection: &Rc<Connection>, published: &Notification) {
    let wanted = match &*connection.protocol.borrow() {
        Protocol::WebSocket(websocket) => {
            let topic = match published.topic {
                Topic::Message => websocket.subscribed.message,
                Topic::Status => websocket.subscribed.status,
            };
            topic && websocket.identity.as_ref().is_some_and(|identity| identity.may_see(&published.owner))
        }
        Protocol::Http(_) => false,
    };
    if wanted {
        crate::websocket::send_text(thread, connection, |out| {
            out.extend_from_slice(published.json.as_bytes())
        });
        connection.check_pressure(thread);
    }
}

/// Counts a connection among the listeners; false if there are too many.
pub(crate) fn subscribe(thread: &Rc<Thread>, place: Place) -> bool {
    if thread.subscribers.borrow().contains(&place) {
        return true;
    }
    let max = thread.gateway().limits.subscribers_max;
    let taken = thread
        .shared
        .subscribers
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1));
    let Ok(before) = taken else { return false };
    thread.subscribers.borrow_mut().push(place);
    if before == 0 {
        tell_shards(thread);
    }
    true
}

/// A connection listens no more.
pub(crate) fn unsubscribe(thread: &Thread, place: Place) {
    let mut subscribers = thread.subscribers.borrow_mut();
    let Some(at) = subscribers.iter().position(|listed| *listed == place) else { return };
    subscribers.swap_remove(at);
    drop(subscribers);
    if thread.shared.subscribers.fetch_sub(1, Ordering::AcqRel) == 1 {
        tell_shards(thread);
    }
}

/// Tells all shards whether anybody listens. Each looks for itself when it hears this, so that late news do no harm.
fn tell_shards(thread: &Thread) {
    for core in 0..thread.shared.cores() {
        let look = Box::new(|there: &Rc<Thread>| {
            let any = there.shared.subscribers.load(Ordering::Acquire) != 0;
            there.handle(Event::Listeners { any });
        });
        thread.outgoing.borrow_mut().letter(ShardId(core), Letter::Errand(look));
    }
}

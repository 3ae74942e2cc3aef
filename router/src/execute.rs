//! Effects carried out: the one `match` on what a shard asks for. Nothing here decides about a message.
use crate::call::Started;
use crate::connection::{Place, Protocol};
use crate::events;
use crate::gateway::Upstream;
use crate::mesh::{Letter, Reply};
use crate::thread::{Next, Thread};
use crate::usage::Meter;
use crate::voice::Voice;
use crate::{agents, call, deliver, driver, http, keep, remote, websocket};
use clawgate_core::effect::{Effect, Effects, Outcome};
use clawgate_core::event::{Content, Event, Piece};
use clawgate_core::id::{AgentId, CallId, Client, ModelId, SessionId, ShardId, TurnId};
use clawgate_providers::Said;
use std::rc::Rc;

/// Carries out one effect.
pub(crate) fn execute(thread: &Rc<Thread>, effect: &Effect, effects: &Effects) {
    match *effect {
        Effect::Accepted { client, turn, session: _, ahead: _, place, durable, again } => {
            reply(thread, client, Reply::Accepted { shard: thread.id, turn, place, durable, again }, "");
        }
        Effect::Attached { client, turn, session: _, durable } => {
            reply(
                thread,
                client,
                Reply::Accepted { shard: thread.id, turn, place: 0, durable, again: true },
                "",
            );
        }
        Effect::Durable { client, turn: _ } => reply(thread, client, Reply::Durable, ""),
        Effect::Duplicate { client } => reply(thread, client, Reply::Duplicate, ""),
        Effect::Ignored { client, why } => reply(thread, client, Reply::Ignored(why), ""),
        Effect::Refused { client, code, retry_after_millis } => {
            reply(thread, client, Reply::Refused { code, retry_after_millis }, "");
        }
        Effect::Start { call, agent, model } => start(thread, call, agent, model),
        Effect::Cancel { call, overdue } => cancel(thread, call, overdue),
        Effect::Ask { call, after_millis } => thread.upstreams.ask(call, after_millis),
        Effect::Pause { call } => pause(thread, call, true),
        Effect::Resume { call } => pause(thread, call, false),
        Effect::Send { client, turn, seq, text } => {
            reply(thread, client, Reply::Piece { turn, seq }, effects.text(text));
        }
        Effect::Finish { client, turn: _, seq, text, usage, model, stop } => {
            reply(thread, client, Reply::Done { seq, usage, model, stop }, effects.text(text));
        }
        Effect::Merged { client, turn: _, seq, into } => {
            reply(thread, client, Reply::Merged { shard: thread.id, into, seq }, "");
        }
        Effect::Fail { client, turn: _, seq, code, detail, retry_after_millis } => {
            reply(thread, client, Reply::Failed { seq, code, retry_after_millis }, effects.text(detail));
        }
        Effect::Deliver { turn, channel, uid, part, attempt, text, edits } => {
            let text = (effects.text(text), effects.text(edits));
            deliver::begin(thread, (turn, uid), channel, (part, attempt), text);
        }
        Effect::Settled { turn, session, outcome } => settled(thread, turn, session, outcome),
        Effect::Publish { notice, session, turn: _, text } => {
            events::publish(thread, notice, session, effects.text(text));
        }
        Effect::Operated { client, refused } => reply(thread, client, Reply::Operated { refused }, ""),
        Effect::Nudge { shard, agent } => {
            if shard == thread.id {
                thread.next.borrow_mut().push_back(Next::Nudged { agent });
            } else {
                thread.outgoing.borrow_mut().letter(shard, Letter::Nudged { agent });
            }
        }
        Effect::Append { lsn, record } => {
            if let Some(journal) = thread.journal.get() {
                journal.append(lsn, effects.bytes(record));
            }
        }
        Effect::LookUp { lookup, mark, since_millis } => keep::look_up(thread, lookup, mark, since_millis),
        Effect::Load { session } => keep::load(thread, session),
        Effect::Save { save, session, needed, saved } => {
            keep::save(thread, save, session, needed, saved, effects);
        }
        Effect::Breaker { model, state } => {
            let gateway = thread.gateway();
            let name = gateway.model_name(model);
            tracing::warn!(shard = thread.id.0, model = name, ?state, "the breaker of a model changed");
            events::model_changed(thread, model, state);
        }
    }
}

fn cancel(thread: &Rc<Thread>, call: CallId, overdue: bool) {
    thread.upstreams.cancel(call, overdue);
    agents::turns::cancel(thread, call);
}

fn pause(thread: &Rc<Thread>, call: CallId, paused: bool) {
    thread.upstreams.pause(call, paused);
    agents::turns::pause(thread, call, paused);
}

fn settled(thread: &Rc<Thread>, turn: TurnId, session: SessionId, outcome: Outcome) {
    let (shard, session, turn) = (thread.id.0, session.slot, turn.slot);
    tracing::trace!(shard, session, turn, ?outcome, "settled");
    if let Outcome::Dead(code) = outcome {
        tracing::warn!(shard, session, turn, code = code.name(), "an answer could not be delivered");
    }
}

fn start(thread: &Rc<Thread>, call: CallId, agent: AgentId, model: ModelId) {
    let gateway = thread.gateway();
    match &gateway.upstreams[usize::from(model.0)] {
        Upstream::Echo(echo) => {
            thread.next.borrow_mut().push_back(Next::Echo { call, echo: *echo, agent, model });
        }
        Upstream::Scripted(_) => {
            let control = thread.upstreams.begin(call);
            driver::spawn(call::scripted(thread.clone(), Started { gateway, call, agent, model, control }));
        }
        Upstream::Agent(_) => {
            let control = thread.upstreams.begin(call);
            let started = Started { gateway, call, agent, model, control };
            driver::spawn(agents::http::call(thread.clone(), started));
        }
        Upstream::Workers(_) => {
            let control = thread.upstreams.begin(call);
            agents::turns::start(thread, Started { gateway, call, agent, model, control });
        }
        Upstream::Remote(_) => {
            let control = thread.upstreams.begin(call);
            driver::spawn(remote::remote(thread.clone(), Started { gateway, call, agent, model, control }));
        }
    }
}

/// A text that is said word by word in one turn of the loop, at most.
const ECHO_BYTES_MAX: usize = 1_024;

/// Goes on with what an effect caused. `effects` is empty before and after.
pub(crate) fn advance(thread: &Rc<Thread>, next: Next, effects: &mut Effects) {
    let mut hand = |event: Event<'_>| {
        thread.shard.borrow_mut().handle(thread.now(), event, effects);
        for effect in effects.list() {
            execute(thread, effect, effects);
        }
        effects.clear();
    };
    match next {
        Next::Echo { call, echo, agent, model } => {
            let mut meter = Meter::begin(thread, &thread.gateway(), call, agent, model);
            let mut text = thread.text.take();
            text.clear();
            let content =
                thread.shard.borrow().message(call.turn).map_or(Content::WORDS, |(content, message)| {
                    text.push_str(message);
                    content
                });
            let mut voice = Voice::Words;
            if !content.is_words() {
                let Some(told) = call::told(thread, call) else { return };
                (text, voice) = told;
            }
            if let Some(meter) = &mut meter {
                meter.heard_by(&voice);
                meter.answering();
            }
            if echo.by_words && ECHO_BYTES_MAX < text.len() {
                let control = thread.upstreams.begin(call);
                driver::spawn(call::echo(thread.clone(), call, echo, (text, voice), (control, meter)));
                return;
            }
            echo.say(&text, &mut |said| {
                if let Some(meter) = &mut meter {
                    meter.hear(&said);
                }
                voice.hear(call, said, &mut hand);
            });
            thread.text.replace(text);
        }
        Next::Left { turn } => hand(Event::Left { turn }),
        Next::Nudged { agent } => hand(Event::Nudged { agent }),
    }
}

/// What a model said, as the shard hears it.
pub(crate) fn heard(call: CallId, said: Said<'_>) -> Event<'_> {
    match said {
        Said::Piece(piece) => Event::Piece { call, piece },
        Said::Usage(counts) => Event::Piece { call, piece: Piece::Usage(counts.into()) },
        // A sign of life; what it says is not the shard's matter.
        Said::Call(_) | Said::Thought(_) => Event::Piece { call, piece: Piece::Alive },
        Said::Ended(end) => Event::Ended { call, end: end.into() },
    }
}

/// Brings a reply to the connection that it is for, here or on another core.
pub(crate) fn reply(thread: &Rc<Thread>, client: Client, reply: Reply, text: &str) {
    if client == Client::NOBODY {
        return;
    }
    if client.core != thread.id.0 {
        thread.outgoing.borrow_mut().reply(client, reply, text);
        return;
    }
    let Some(connection) = thread.connection(Place { slot: client.slot, generation: client.generation })
    else {
        if let Reply::Accepted { shard, turn, .. } = reply {
            left(thread, shard, turn);
        }
        return;
    };
    let is_websocket = matches!(*connection.protocol.borrow(), Protocol::WebSocket(_));
    if is_websocket {
        websocket::reply(thread, &connection, client.ticket, reply, text);
    } else {
        http::reply(thread, &connection, client.ticket, reply, text);
    }
}

/// Tells a shard that the client of a turn left while its message was on the way there.
pub(crate) fn left(thread: &Rc<Thread>, shard: ShardId, turn: TurnId) {
    if shard == thread.id && thread.is_handling() {
        thread.next.borrow_mut().push_back(Next::Left { turn });
    } else {
        thread.tell(shard, Letter::Left { turn });
    }
}

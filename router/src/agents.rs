//! Agents that live elsewhere: HTTP endpoints ([`http`]) and workers that connect to us ([`turns`], [`worker`], [`pool`]).
//! What they are told and answer is the format of `providers::agent`; the promises stand in `router/docs/agents.md`.
pub(crate) mod http;
pub(crate) mod pool;
pub(crate) mod turns;
pub(crate) mod worker;

use crate::call::{Started, told};
use crate::sessions::write_id;
use crate::thread::Thread;
use crate::voice::{Voice, door_of};
use clawgate_providers::agent::AgentTurn;
use std::rc::Rc;

/// The name of a turn, the same for every attempt at its answer, also after a restart.
fn turn_name(thread: &Thread, started: &Started) -> Option<String> {
    let uid = thread.shard.borrow().uid(started.call.turn)?;
    Some(format!("turn_{:032x}", thread.shared.idempotency_key(uid)))
}

/// Has a turn written, and says who hears the answer; `None` if the turn is over.
fn write_turn(
    thread: &Rc<Thread>,
    started: &Started,
    name: &str,
    write: impl FnOnce(AgentTurn<'_, '_>),
) -> Option<Voice> {
    let (gateway, call) = (&started.gateway, started.call);
    let content = thread.shard.borrow().message(call.turn)?.0;
    let kind = door_of(content);
    // Of a whole request the last words stand apart, for agents that want no more.
    let (last, voice) = if kind.is_some() { told(thread, call)? } else { (String::new(), Voice::Words) };
    let shard = thread.shard.borrow();
    let prompt = shard.prompt(call.turn)?;
    let session = shard.session_of(call.turn)?;
    let channel = shard.channel_name(session);
    let mut public = String::new();
    write_id(&mut public, channel, &prompt.address);
    let (mut context, mut history) = (prompt.variables, prompt.history);
    let agent = gateway.plan.agents.get(usize::from(started.agent.0)).map_or("", |agent| &agent.name);
    write(AgentTurn {
        id: name,
        attempt: call.attempt.saturating_add(1),
        agent,
        session: &public,
        channel,
        peer: prompt.address.peer,
        name: if kind.is_some() { "" } else { prompt.name },
        system: gateway.systems.get(usize::from(started.agent.0)).map_or("", String::as_str),
        context: &mut context,
        history: &mut history,
        text: if kind.is_some() { &last } else { prompt.text },
        request: kind.map(|kind| (kind.name(), prompt.text)),
    });
    Some(voice)
}

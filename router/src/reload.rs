//! Another configuration while everything runs: how a thread takes it on, and how threads understand each other while
//! some have and others have not. Reading and compiling it is the main thread's, in `helm.rs`.
//!
//! Ids of channels, agents and models index the configuration that they were made under, and mean nothing in another.
//! What runs keeps the configuration of its start. What crosses from core to core is put into the words of its reader:
//! letters of one core arrive in order, and the one in which it says that it goes on by another configuration is
//! among them.
use crate::connection::{Connection, Place, Protocol};
use crate::execute;
use crate::gateway::Gateway;
use crate::mesh::{Letter, Reply};
use crate::thread::{Thread, json_limits};
use crate::websocket;
use clawgate_adapters::Json;
use clawgate_core::codes::Code;
use clawgate_core::event::{Event, Inbound};
use clawgate_core::id::{AgentId, ChannelId, Client, ModelId, ShardId};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How long a message waits that was sent by a core of another configuration and means nothing here: by then all cores
/// have the same one.
const AGAIN_MILLIS: u32 = 1_000;

/// A configuration as a thread holds it: to clone it touches no memory that cores share.
#[derive(Clone, Debug)]
#[expect(
    clippy::redundant_allocation,
    reason = "a thread's own count of its uses, beside the count that threads share"
)]
pub(crate) struct Current(Rc<Arc<Gateway>>);

impl Current {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        Self(Rc::new(gateway))
    }

    fn is(&self, gateway: &Arc<Gateway>) -> bool {
        Arc::ptr_eq(&self.0, gateway)
    }
}

impl Deref for Current {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.0
    }
}

/// By which configuration each core speaks, where it is not ours.
#[derive(Debug)]
pub(crate) struct Spoken(Vec<Option<Current>>);

impl Spoken {
    pub(crate) fn new(cores: u16) -> Self {
        Self(vec![None; usize::from(cores)])
    }

    /// We go on by `ours`; the others, as far as we have heard, by what we had before.
    fn turn(&mut self, before: &Current, ours: &Arc<Gateway>) {
        for theirs in &mut self.0 {
            let spoken = theirs.take().unwrap_or_else(|| before.clone());
            *theirs = (!spoken.is(ours)).then_some(spoken);
        }
    }

    fn hear(&mut self, from: ShardId, theirs: Arc<Gateway>, ours: &Current) {
        let differs = !ours.is(&theirs);
        self.0[usize::from(from.0)] = differs.then(|| Current::new(theirs));
    }

    fn of(&self, from: ShardId) -> Option<Current> {
        self.0[usize::from(from.0)].clone()
    }
}

impl Thread {
    /// Goes on by another configuration. The last of all threads says so.
    pub(crate) fn reconfigure(self: &Rc<Self>, gateway: &Arc<Gateway>, left: &AtomicU16) {
        let before = self.gateway.replace(Current::new(gateway.clone()));
        self.spoken.borrow_mut().turn(&before, gateway);
        self.json.replace(Json::new(json_limits(gateway)));
        self.upstreams.reconfigure(gateway, self.shared.cores());
        self.shard.borrow_mut().reconfigure(gateway.plan.clone());
        for core in 0..self.shared.cores() {
            let (from, theirs) = (self.id, gateway.clone());
            let say = move |there: &Rc<Self>| {
                there.spoken.borrow_mut().hear(from, theirs, &there.gateway());
            };
            self.outgoing.borrow_mut().letter(ShardId(core), Letter::Errand(Box::new(say)));
        }
        for connection in self.all_connections() {
            self.renew(&connection);
        }
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let generation = gateway.generation;
            self.shared.reloads.in_force.store(generation, Ordering::Release);
            tracing::info!(generation, "the new configuration is in force");
        }
    }

    /// A connection goes on with what its key may do by the configuration in force, or ends if the key is gone.
    pub(crate) fn renew(self: &Rc<Self>, connection: &Rc<Connection>) {
        let gateway = self.gateway();
        let gone = match &mut *connection.protocol.borrow_mut() {
            Protocol::Http(_) => false,
            Protocol::WebSocket(websocket) => !websocket.renew(&gateway),
        };
        if gone {
            connection.abort(self, Code::Unauthenticated);
        }
    }

    /// A message from another core.
    pub(crate) fn hear_inbound(self: &Rc<Self>, from: ShardId, client: Client, inbound: Inbound<'_>) {
        let Some(theirs) = self.spoken.borrow().of(from) else {
            return self.handle(Event::Inbound { client, inbound });
        };
        let ours = self.gateway();
        let channel = translate_channel(&theirs, &ours, inbound.channel);
        let agent = match inbound.agent {
            None => Some(None),
            Some(agent) => translate_agent(&theirs, &ours, agent).map(Some),
        };
        match (channel, agent) {
            (Some(channel), Some(agent)) => {
                self.handle(Event::Inbound { client, inbound: Inbound { channel, agent, ..inbound } });
            }
            // It is asked to come again rather than told that there is no such thing: one of the two knows it.
            (None, _) | (_, None) => {
                let refused = Reply::Refused { code: Code::Busy, retry_after_millis: AGAIN_MILLIS };
                execute::reply(self, client, refused, "");
            }
        }
    }

    /// A place at an agent is free on another core.
    pub(crate) fn hear_nudge(self: &Rc<Self>, from: ShardId, agent: AgentId) {
        let agent = match self.spoken.borrow().of(from) {
            None => Some(agent),
            Some(theirs) => translate_agent(&theirs, &self.gateway(), agent),
        };
        // Nobody waits here for an agent that is not known here.
        if let Some(agent) = agent {
            self.handle(Event::Nudged { agent });
        }
    }

    /// What another core says of a message, with ids as they are here.
    pub(crate) fn in_our_words(&self, from: ShardId, reply: Reply) -> Reply {
        let Reply::Done { seq, usage, model, stop } = reply else { return reply };
        let Some(theirs) = self.spoken.borrow().of(from) else { return reply };
        let model = translate_model(&theirs, &self.gateway(), model);
        Reply::Done { seq, usage, model, stop }
    }
}

fn translate_channel(theirs: &Gateway, ours: &Gateway, channel: ChannelId) -> Option<ChannelId> {
    ours.channel(&theirs.plan.channels.get(usize::from(channel.0))?.name)
}

fn translate_agent(theirs: &Gateway, ours: &Gateway, agent: AgentId) -> Option<AgentId> {
    ours.agent(&theirs.plan.agents.get(usize::from(agent.0))?.name)
}

/// A model that is gone has no name any more.
fn translate_model(theirs: &Gateway, ours: &Gateway, model: ModelId) -> ModelId {
    let name = theirs.model_name(model);
    let at = ours.plan.models.iter().position(|model| &*model.name == name);
    ModelId(at.and_then(|at| u16::try_from(at).ok()).unwrap_or(u16::MAX))
}

impl websocket::WebSocket {
    /// Goes on by another configuration; false if its key is none any more.
    fn renew(&mut self, gateway: &Gateway) -> bool {
        let Some(identity) = &self.identity else {
            self.set_message_bytes_max(gateway.limits.frame_bytes_unauthenticated_max);
            return true;
        };
        self.identity = gateway.keys.renew(identity);
        self.set_message_bytes_max(gateway.limits.frame_bytes_max);
        self.identity.is_some()
    }
}

/// Who asked by the API for the configuration to be read again, and waits for the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) core: ShardId,
    pub(crate) place: Place,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It was taken, as number `generation`: what differs from the one before, and what of that waits for a restart.
    Taken { generation: u64, changed: Vec<String>, needs_restart: Vec<&'static str>, warnings: Vec<String> },
    /// All that is wrong with it.
    Refused(Vec<String>),
    /// We drain.
    Draining,
}

/// Who may wait for that at once.
const ASKERS_MAX: usize = 64;

/// How often the configuration was read again, and how that went. Written by the main thread, but for `in_force`.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    /// Configurations that were taken after the first one, and those that were refused.
    pub(crate) taken: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// The configuration that all threads work by: 0 for the one of the start.
    pub(crate) in_force: AtomicU64,
    /// When the last one was taken, nanoseconds of our clock.
    pub(crate) taken_at: AtomicU64,
    said: Mutex<Said>,
    askers: Mutex<Vec<Asker>>,
}

/// What an operator is told about the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The file, if there is one.
    pub(crate) file: Option<String>,
    /// Why the last one was refused; empty if it was not.
    pub(crate) refusal: Vec<String>,
    /// Keys whose values in the file wait for a restart.
    pub(crate) needs_restart: Vec<&'static str>,
}

impl Reloads {
    /// Somebody waits for the configuration to be read again; false if too many do.
    pub(crate) fn ask(&self, asker: Asker) -> bool {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = askers.len() < ASKERS_MAX;
        if has_room {
            askers.push(asker);
        }
        has_room
    }

    /// Those who wait for the next time that it is read.
    pub(crate) fn askers(&self) -> Vec<Asker> {
        std::mem::take(&mut *self.askers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What there is to tell. The lock is held for the length of a copy, and never on the path of a message.
    pub(crate) fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn say(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Config, Overrides};

    fn gateway() -> Arc<Gateway> {
        Arc::new(Gateway::compile(&Config::open(None, &Overrides::default()).unwrap(), None).unwrap())
    }

    #[test]
    fn cores_are_understood_whoever_changes_first() {
        let (first, second, third) = (gateway(), gateway(), gateway());
        let (us, other) = (ShardId(0), ShardId(1));
        let mut spoken = Spoken::new(2);
        let is = |spoken: &Spoken, from, gateway: &Arc<Gateway>| spoken.of(from).unwrap().is(gateway);
        // Another one is ahead of us by two.
        let ours = Current::new(first.clone());
        spoken.hear(other, second.clone(), &ours);
        assert!(spoken.of(us).is_none() && is(&spoken, other, &second));
        spoken.hear(other, third.clone(), &ours);
        assert!(is(&spoken, other, &third));
        // We follow: what we wrote to ourselves before is still on the way.
        spoken.turn(&ours, &second);
        let ours = Current::new(second.clone());
        assert!(is(&spoken, us, &first) && is(&spoken, other, &third));
        spoken.hear(us, second.clone(), &ours);
        assert!(spoken.of(us).is_none());
        spoken.turn(&ours, &third);
        assert!(is(&spoken, us, &second) && spoken.of(other).is_none());
        // We are ahead.
        let (ours, fourth) = (Current::new(third.clone()), gateway());
        spoken.turn(&ours, &fourth);
        assert!(is(&spoken, us, &second) && is(&spoken, other, &third));
        spoken.hear(other, fourth.clone(), &Current::new(fourth.clone()));
        assert!(spoken.of(other).is_none());
    }

    #[test]
    fn names_carry_ids_over() {
        let old = gateway();
        let mut new =
            Gateway::compile(&Config::open(None, &Overrides::default()).unwrap(), Some(&old)).unwrap();
        let plan = Arc::get_mut(&mut new.plan).unwrap();
        plan.agents.reverse();
        plan.models.remove(0);
        for (at, agent) in old.plan.agents.iter().enumerate() {
            let there = translate_agent(&old, &new, AgentId(u16::try_from(at).unwrap())).unwrap();
            assert_eq!(new.plan.agent(there).name, agent.name);
            assert_ne!(usize::from(there.0), at);
        }
        assert_eq!(translate_model(&old, &new, ModelId(0)), ModelId(u16::MAX));
        assert_eq!(translate_model(&old, &new, ModelId(1)), ModelId(0));
        assert_eq!(translate_model(&old, &new, ModelId(u16::MAX)), ModelId(u16::MAX));
        assert_eq!(new.model_name(ModelId(u16::MAX)), "");
        assert_eq!(translate_channel(&old, &new, ChannelId(0)), Some(ChannelId(0)));
        assert_eq!(translate_channel(&old, &new, ChannelId(7)), None);
        assert_eq!(translate_agent(&old, &new, AgentId(7)), None);
    }
}

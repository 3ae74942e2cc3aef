//! A turn whose model may call tools: asked, its calls carried out, asked again with what they said, until it answers.
//!
//! What tools said lasts as long as the turn. The history of a session keeps what people wrote and read, as it does without
//! tools: results are often large, soon stale, and in the format of whichever model asked.
use super::hearing::Hearing;
use super::rounds::{Call, Rounds};
use super::run::{Order, Round, Who};
use super::tool::Offer;
use crate::call::Started;
use crate::driver;
use crate::gateway::Gateway;
use crate::remote::{self, Tried};
use crate::signal::Signal;
use crate::thread::Thread;
use crate::usage;
use crate::voice::{Voice, chars_of};
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Event, Failure, Retry};
use clawgate_core::id::AccountId;
use clawgate_core::view::Prompt;
use clawgate_providers::Turn;
use clawgate_providers::answer::Answer;
use clawgate_providers::raw::Text;
use clawgate_providers::request::{Choice, Image, Part, Proof, Request, Role};
use std::rc::Rc;

/// The conversation of a turn, as far as it has come.
pub(crate) struct Exchange {
    said: Request<'static>,
    offer: Offer,
    rounds: Rounds,
    who: Who,
    /// Who pays.
    account: AccountId,
}

/// The exchange of a turn that is offered tools; `None` for one that is not.
pub(crate) fn begin(thread: &Thread, started: &Started) -> Option<Exchange> {
    let Started { gateway, call, agent, model, .. } = started;
    if !gateway.tools.has_any(*agent) {
        return None;
    }
    let shard = thread.shard.borrow();
    let prompt = shard.prompt(call.turn).filter(|prompt| prompt.content.is_words())?;
    let address = prompt.address;
    let offer = gateway.tools.offer(*agent, address.channel, address.peer);
    if offer.is_empty() {
        return None;
    }
    let system = gateway.systems.get(usize::from(agent.0)).map_or("", String::as_str);
    let who = who(gateway, &prompt, gateway.model_name(*model));
    let account = usage::payer(gateway, &prompt);
    let (mut context, mut history) = (prompt.variables, prompt.history);
    let turn =
        Turn { system, context: &mut context, history: &mut history, text: prompt.text, user: address.peer };
    let said = Request::of_turn(turn);
    Some(Exchange { said: owned(&said), offer, rounds: Rounds::new(gateway.tools.bounds), who, account })
}

fn who(gateway: &Gateway, prompt: &Prompt<'_>, model: &str) -> Who {
    let plan = &gateway.plan;
    let channel = plan.channels.get(usize::from(prompt.address.channel.0));
    let agent = plan.agents.get(usize::from(prompt.agent.0));
    Who {
        channel: channel.map_or_else(String::new, |channel| channel.name.to_string()),
        peer: prompt.address.peer.to_owned(),
        chat: prompt.address.chat.to_owned(),
        thread: prompt.address.thread.to_owned(),
        name: prompt.name.to_owned(),
        agent: agent.map_or_else(String::new, |agent| agent.name.to_string()),
        model: model.to_owned(),
    }
}

/// Runs the turn to its end.
pub(crate) async fn run(thread: Rc<Thread>, started: Started, mut exchange: Exchange) {
    let Started { gateway, call, control, .. } = &started;
    let limits = &gateway.limits;
    let bytes_max = limits.core.reply_bytes_max as usize + gateway.tools.bounds.exchange_bytes_max;
    let mut voice = Voice::Tools(Box::new(Hearing::new(bytes_max)));
    loop {
        let said = exchange.request();
        if 0 < exchange.rounds.number() && !may_ask(&thread, &started, (exchange.account, &said)).await {
            return;
        }
        if remote::attempt(&thread, &started, &said, &mut voice).await == Tried::Over {
            return;
        }
        drop(said);
        let Voice::Tools(hearing) = &mut voice else { return };
        let Some(answer) = hearing.calls() else { return };
        let orders = match exchange.orders(&answer) {
            Ok(orders) => orders,
            Err(code) => return failed(&thread, &started, code),
        };
        if !exchange.rounds.may_repeat() {
            hearing.settle();
        }
        let round = Round {
            thread: &thread,
            call: *call,
            control,
            who: &exchange.who,
            number: exchange.rounds.number(),
            parallel_max: gateway.tools.parallel_max,
            audited: gateway.tools.audited,
            audit: thread.shared.audit.get().filter(|_| gateway.tools.audited).cloned(),
        };
        thread.handle(Event::Working { call: *call });
        let Some(outcomes) = round.run(orders).await else { return };
        let mut bytes = 0;
        exchange.said.say(Role::Assistant, answer.parts().map(|part| owned_part(&part)).collect::<Vec<_>>());
        for ((_, id, name, arguments), outcome) in answer.calls().zip(outcomes) {
            bytes += id.len() + name.len() + arguments.len() + outcome.text.len();
            let id = Text::from(id.to_owned());
            let result = Part::Result { id, is_error: outcome.code.is_some(), parts: 1 };
            exchange.said.say(Role::Tool, [result, Part::Text(outcome.text.into())]);
        }
        if let Err(code) = exchange.rounds.take(bytes) {
            return failed(&thread, &started, code);
        }
    }
}

/// Waits until the model may be asked once more; false if the turn is over.
async fn may_ask(thread: &Rc<Thread>, started: &Started, (account, said): (AccountId, &Request<'_>)) -> bool {
    let Started { call, control, .. } = started;
    let chars = u32::try_from(chars_of(said)).unwrap_or(u32::MAX);
    // By the configuration of now: what a key may use in a day is no matter of when a turn began.
    let spent = thread.gateway().keys.goes_on(account).err().unwrap_or_default();
    thread.handle(Event::Round { call: *call, chars, spent });
    let Some(after) = control.take_asked() else { return false };
    let (bell, at) = (Rc::new(Signal::default()), thread.now() + after);
    control.rings(&bell);
    while thread.now() < at && !control.is_cancelled() {
        driver::within(at.since(thread.now()), bell.wait()).await;
        thread.touch();
    }
    started.count_on(thread, chars);
    !control.is_cancelled()
}

fn failed(thread: &Rc<Thread>, started: &Started, code: Code) {
    thread.upstreams.end(started.call);
    let failure = Failure { code, retry: Retry::Never, status: 0, detail: code.advice() };
    thread.handle(Event::Ended { call: started.call, end: event::End::Failed(failure) });
}

impl Exchange {
    /// What the model is asked in this round.
    fn request(&self) -> Request<'_> {
        let mut request: Request<'_> = self.said.clone();
        // A conversation that has calls in it needs their definitions, also where nothing may be called any more.
        request.tools = self.offer.definitions();
        request.choice = self.rounds.must_answer().then_some(Choice::None);
        request
    }

    fn orders(&mut self, answer: &Answer) -> Result<Vec<Order>, Code> {
        let calls = answer.calls().map(|(_, _, name, arguments)| Call { name, arguments });
        let plans = self.rounds.plan(&self.offer, calls)?;
        let order = |((_, id, name, arguments), plan): ((u32, &str, &str, &str), _)| Order {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            plan,
        };
        Ok(answer.calls().zip(plans).map(order).collect())
    }
}

/// A request that outlives what it was made from.
fn owned(request: &Request<'_>) -> Request<'static> {
    let mut owned = Request { user: request.user.as_ref().map(own), ..Request::default() };
    for message in &request.messages {
        owned.say(message.role, request.parts_of(message).iter().map(owned_part).collect::<Vec<_>>());
    }
    owned
}

fn own(text: &Text<'_>) -> Text<'static> {
    text.plain().into_owned().into()
}

fn owned_part(part: &Part<'_>) -> Part<'static> {
    match part {
        Part::Text(text) => Part::Text(own(text)),
        Part::Refusal(text) => Part::Refusal(own(text)),
        Part::Image(Image::Url(url)) => Part::Image(Image::Url(own(url))),
        Part::Image(Image::Data { media, data }) => {
            Part::Image(Image::Data { media: own(media), data: own(data) })
        }
        Part::Reasoning { text, proof } => Part::Reasoning {
            text: own(text),
            proof: match proof {
                Proof::None => Proof::None,
                Proof::Signature(text) => Proof::Signature(own(text)),
                Proof::Redacted(text) => Proof::Redacted(own(text)),
                Proof::Item { id, encrypted } => Proof::Item { id: own(id), encrypted: own(encrypted) },
            },
        },
        Part::Call { id, name, arguments } => {
            Part::Call { id: own(id), name: own(name), arguments: own(arguments) }
        }
        Part::Result { id, is_error, parts } => {
            Part::Result { id: own(id), is_error: *is_error, parts: *parts }
        }
    }
}

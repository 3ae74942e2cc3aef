//! A round of tool calls carried out: several at once, each within its time, all of them given up when the turn is.
use super::audit::{Audit, Permit, masked};
use super::counted::OK;
use super::mcp::Waiting;
use super::rounds::Plan;
use super::time::rfc3339;
use super::tool::{Outcome, Refusal, Tool, Work};
use crate::clock::unix_millis;
use crate::driver;
use crate::signal::Signal;
use crate::thread::Thread;
use crate::upstream::Control;
use clawgate_core::codes::Code;
use clawgate_core::id::CallId;
use clawgate_core::time::Time;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What calls of tools that do not exist are counted under.
const UNKNOWN: &str = "unknown";

/// For whom tools run, in the words of the audit log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    pub(crate) channel: String,
    pub(crate) peer: String,
    pub(crate) chat: String,
    pub(crate) thread: String,
    pub(crate) name: String,
    pub(crate) agent: String,
    pub(crate) model: String,
}

/// A call as the model made it, and what becomes of it.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
    pub(super) plan: Plan,
}

/// A round of calls.
pub(super) struct Round<'r> {
    pub(super) thread: &'r Rc<Thread>,
    pub(super) call: CallId,
    pub(super) control: &'r Rc<Control>,
    pub(super) who: &'r Who,
    pub(super) number: u16,
    pub(super) parallel_max: usize,
    /// Calls that cannot be written down are not made.
    pub(super) audited: bool,
    pub(super) audit: Option<Arc<Audit>>,
}

/// What a call says when it is done; `None` inside if it was cancelled.
type Slot = Rc<Cell<Option<Option<Outcome>>>>;

/// A call that runs.
struct Running {
    at: usize,
    tool: Arc<Tool>,
    control: Rc<Control>,
    slot: Slot,
    began: Time,
    permit: Option<Permit>,
    /// What a server works on; it is given up with this.
    waiting: Option<Waiting>,
}

impl Round<'_> {
    /// Carries the calls out. What came of each, in their order; `None` if the turn was given up.
    pub(super) async fn run(&self, orders: Vec<Order>) -> Option<Vec<Outcome>> {
        let bell = Rc::new(Signal::default());
        self.control.rings(&bell);
        let mut outcomes: Vec<Option<Outcome>> = orders.iter().map(|_| None).collect();
        let mut waiting: VecDeque<(usize, &Order)> = orders.iter().enumerate().collect();
        let mut running: Vec<Running> = Vec::new();
        loop {
            if self.control.is_cancelled() {
                running.into_iter().for_each(|one| self.abandon(one, &orders));
                return None;
            }
            let now = self.thread.now();
            let (done, open): (Vec<_>, Vec<_>) = running.into_iter().partition(|one| one.is_over(now));
            running = open;
            for one in done {
                let at = one.at;
                outcomes[at] = Some(self.end(one, &orders));
            }
            while running.len() < self.parallel_max.max(1)
                && let Some((at, order)) = waiting.pop_front()
            {
                match self.begin(at, order, &bell) {
                    Ok(one) => running.push(one),
                    Err(outcome) => outcomes[at] = Some(outcome),
                }
            }
            let Some(next) = running.iter().map(Running::deadline).min() else {
                return Some(outcomes.into_iter().map(Option::unwrap_or_default).collect());
            };
            if running.iter().any(Running::is_done) {
                continue;
            }
            driver::within(next.since(now), bell.wait()).await;
            self.thread.touch();
        }
    }

    /// Begins a call, or says at once what comes of it.
    fn begin(&self, at: usize, order: &Order, bell: &Rc<Signal>) -> Result<Running, Outcome> {
        let (tool, arguments) = match &order.plan {
            Plan::Run { tool, arguments } => (tool, Ok(arguments)),
            Plan::Refuse { tool: Some(tool), refusal } => (tool, Err(refusal)),
            Plan::Refuse { tool: None, refusal } => {
                // There may be no room to write down what is not done anyway.
                if let Some(mut permit) = self.audit.as_ref().and_then(Audit::admit) {
                    permit.write(self.call_line(order, None));
                    permit.write(self.result_line(order, refusal.code.name(), Duration::ZERO, 0));
                }
                self.thread.count_tool(&Arc::from(UNKNOWN), Some(refusal.code), Duration::ZERO);
                return Err(Outcome::failed(refusal));
            }
        };
        let mut permit = self.audit.as_ref().and_then(Audit::admit);
        if self.audited && permit.is_none() {
            let refusal =
                Refusal::new(Code::ToolUnavailable, "the audit log takes no more calls; try again later");
            self.thread.count_tool(&tool.source, Some(refusal.code), Duration::ZERO);
            return Err(Outcome::failed(&refusal));
        }
        if let Some(permit) = &mut permit {
            permit.write(self.call_line(order, Some(tool)));
        }
        let control = Rc::new(Control::default());
        let slot = Slot::default();
        let began = self.thread.now();
        let mut one = Running { at, tool: tool.clone(), control, slot, began, permit, waiting: None };
        match arguments {
            Ok(arguments) => one.waiting = self.start(&one, arguments, bell),
            Err(refusal) => one.slot.set(Some(Some(Outcome::failed(refusal)))),
        }
        Ok(one)
    }

    /// Starts a call; what is returned is held while it runs.
    fn start(&self, one: &Running, arguments: &Map<String, Value>, bell: &Rc<Signal>) -> Option<Waiting> {
        let (tool, slot) = (one.tool.clone(), one.slot.clone());
        match &one.tool.work {
            Work::Time => slot.set(Some(Some(super::time::call(unix_millis(), arguments)))),
            Work::Http(_) => {
                let (thread, control, bell) = (self.thread.clone(), one.control.clone(), bell.clone());
                let (arguments, deadline) = (arguments.clone(), one.deadline());
                driver::spawn(async move {
                    thread.touch();
                    let Work::Http(http) = &tool.work else { return };
                    let bounds = (deadline, tool.output_bytes_max);
                    let outcome = http.call(&thread, &arguments, &control, bounds).await;
                    thread.touch();
                    slot.set(Some(outcome));
                    bell.raise();
                });
            }
            Work::Mcp(mcp) => match mcp.call(self.thread, arguments, tool.output_bytes_max, (&slot, bell)) {
                Ok(waiting) => return Some(waiting),
                Err(refusal) => slot.set(Some(Some(Outcome::failed(&refusal)))),
            },
        }
        None
    }

    /// A call is over: by itself, or because its time is up.
    fn end(&self, mut one: Running, orders: &[Order]) -> Outcome {
        let took = self.thread.now().since(one.began);
        let outcome = one.slot.take().flatten().unwrap_or_else(|| {
            one.control.cancel();
            let why = format!("it did not answer within {} s", one.tool.age_max.as_secs_f32());
            Outcome::failed(&Refusal::new(Code::ToolTimeout, why))
        });
        self.thread.count_tool(&one.tool.source, outcome.code, took);
        if let (Some(permit), Some(order)) = (&mut one.permit, orders.get(one.at)) {
            permit.write(self.result_line(order, outcome.code.map_or(OK, Code::name), took, outcome.bytes));
        }
        outcome
    }

    /// The turn is given up while a call runs.
    fn abandon(&self, mut one: Running, orders: &[Order]) {
        one.control.cancel();
        let took = self.thread.now().since(one.began);
        self.thread.count_tool(&one.tool.source, Some(Code::Cancelled), took);
        if let (Some(permit), Some(order)) = (&mut one.permit, orders.get(one.at)) {
            permit.write(self.result_line(order, Code::Cancelled.name(), took, 0));
        }
    }

    fn call_line(&self, order: &Order, tool: Option<&Arc<Tool>>) -> String {
        let who = self.who;
        let secrets = match tool.map(|tool| &tool.work) {
            Some(Work::Http(http)) => Cow::Borrowed(http.secrets()),
            Some(Work::Mcp(mcp)) => Cow::Owned(mcp.server.secrets()),
            Some(Work::Time) | None => Cow::Owned(Vec::new()),
        };
        let arguments = &order.arguments;
        let shown =
            masked(bounded(arguments, tool.map_or(NAME_BYTES_MAX, |_| ARGUMENTS_BYTES_MAX)), &secrets);
        // What the model wrote is quoted as a text where it is no JSON.
        let shown = serde_json::from_str::<Value>(&shown).unwrap_or(Value::String(shown));
        json!({
            "time": rfc3339(unix_millis()), "event": "call", "turn": self.turn(), "round": self.number,
            "call": bounded(&order.id, NAME_BYTES_MAX),
            "tool": tool.map_or(bounded(&order.name, NAME_BYTES_MAX), |tool| tool.name.as_str()),
            "arguments": shown, "argumentsBytes": arguments.len(),
            "channel": who.channel, "peer": who.peer, "chat": who.chat, "thread": who.thread, "name": who.name,
            "agent": who.agent, "model": who.model,
        })
        .to_string()
    }

    fn result_line(&self, order: &Order, outcome: &str, took: Duration, bytes: usize) -> String {
        json!({
            "time": rfc3339(unix_millis()), "event": "result", "turn": self.turn(), "round": self.number,
            "call": bounded(&order.id, NAME_BYTES_MAX), "outcome": outcome,
            "millis": u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "bytes": bytes,
        })
        .to_string()
    }

    /// The turn and its attempt at an answer, told from all others of this run.
    fn turn(&self) -> String {
        let CallId { turn, attempt } = self.call;
        format!("{}-{}-{}-{attempt}", self.thread.id.0, turn.slot, turn.generation)
    }
}

/// Bytes of a name that a model made up.
const NAME_BYTES_MAX: usize = 256;
/// Bytes of arguments that are written down: those that are longer are refused, and of no use in a log.
const ARGUMENTS_BYTES_MAX: usize = 64 * 1024;

fn bounded(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

impl Running {
    fn deadline(&self) -> Time {
        self.began + self.tool.age_max
    }

    /// Has it said something?
    fn is_done(&self) -> bool {
        let said = self.slot.take();
        let done = said.is_some();
        self.slot.set(said);
        done
    }

    fn is_over(&self, now: Time) -> bool {
        self.is_done() || self.deadline() <= now
    }
}

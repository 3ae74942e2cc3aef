//! What becomes of the tool calls of an answer: which are carried out, which are told to be wrong, and when it is enough.
//!
//! Pure: no clock, no socket. What a model does wrong is told to it as a result, so that it can mend it; a turn ends only
//! where a limit does.
use super::tool::{Offer, Refusal, Tool};
use clawgate_core::codes::Code;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Bounds of a turn's tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Rounds of calls and results; after them the model must answer.
    pub(crate) rounds_max: u16,
    /// Calls of one round that are carried out.
    pub(crate) calls_max: u16,
    /// Bytes of one call's arguments.
    pub(crate) arguments_bytes_max: usize,
    /// Bytes that a turn's calls and results may have, all rounds together.
    pub(crate) exchange_bytes_max: usize,
}

/// A call that a model made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// The tool, as it was offered.
    pub(crate) name: &'a str,
    /// Its arguments: JSON, or nothing.
    pub(crate) arguments: &'a str,
}

/// What becomes of a call.
#[derive(Debug)]
pub(crate) enum Plan {
    /// It is carried out.
    Run { tool: Arc<Tool>, arguments: Map<String, Value> },
    /// The model is told so at once. `tool` where there is one.
    Refuse { tool: Option<Arc<Tool>>, refusal: Refusal },
}

/// How far a turn has come.
#[derive(Debug)]
pub(crate) struct Rounds {
    bounds: Bounds,
    done: u16,
    bytes: usize,
    repeatable: bool,
}

impl Rounds {
    /// Nothing was called yet.
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self { bounds, done: 0, bytes: 0, repeatable: true }
    }

    /// Which round it is; 0 for the first.
    pub(crate) const fn number(&self) -> u16 {
        self.done
    }

    /// Must the model answer without calling anything?
    pub(crate) const fn must_answer(&self) -> bool {
        self.bounds.rounds_max <= self.done
    }

    /// May all of it be done again? Not where a tool has run that must not.
    pub(crate) const fn may_repeat(&self) -> bool {
        self.repeatable
    }

    /// What becomes of these calls. A model that was told to answer and calls again fails the turn.
    ///
    /// # Errors
    /// The turn is over, with this code.
    pub(crate) fn plan<'a>(
        &mut self,
        offer: &Offer,
        calls: impl Iterator<Item = Call<'a>>,
    ) -> Result<Vec<Plan>, Code> {
        if self.must_answer() {
            return Err(Code::ToolLimit);
        }
        self.done += 1;
        let mut running = 0;
        let mut plans = Vec::new();
        for call in calls {
            let mut plan = self.plan_one(offer, call);
            if let Plan::Run { tool, .. } = &plan {
                if self.bounds.calls_max <= running {
                    let why =
                        format!("no more than {} tools run at once; call it again", self.bounds.calls_max);
                    plan = Plan::Refuse {
                        tool: Some(tool.clone()),
                        refusal: Refusal::new(Code::ToolLimit, why),
                    };
                } else {
                    running += 1;
                    self.repeatable &= tool.repeatable;
                }
            }
            plans.push(plan);
        }
        Ok(plans)
    }

    fn plan_one(&self, offer: &Offer, call: Call<'_>) -> Plan {
        let Some(tool) = offer.find(call.name) else {
            let why = format!("there is no tool of this name; there are: {}", offer.names());
            return Plan::Refuse { tool: None, refusal: Refusal::new(Code::ToolUnknown, why) };
        };
        let refuse = |why: String| Plan::Refuse {
            tool: Some(tool.clone()),
            refusal: Refusal::new(Code::ToolArguments, why),
        };
        if self.bounds.arguments_bytes_max < call.arguments.len() {
            let most = self.bounds.arguments_bytes_max;
            return refuse(format!("the arguments have {} bytes, more than {most}", call.arguments.len()));
        }
        let text = if call.arguments.trim().is_empty() { "{}" } else { call.arguments };
        let arguments = match serde_json::from_str::<Value>(text) {
            Ok(arguments) => arguments,
            Err(why) => return refuse(format!("the arguments are no JSON: {why}")),
        };
        if let Err(why) = tool.parameters.check(&arguments) {
            return refuse(format!("the arguments do not fit the tool's schema: {why}"));
        }
        match arguments {
            Value::Object(arguments) => Plan::Run { tool: tool.clone(), arguments },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                refuse("the arguments are no JSON object".to_owned())
            }
        }
    }

    /// So many bytes of calls and results go back to the model.
    ///
    /// # Errors
    /// They are more than a turn may have.
    pub(crate) const fn take(&mut self, bytes: usize) -> Result<(), Code> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bounds.exchange_bytes_max < self.bytes { Err(Code::ToolLimit) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::schema::Schema;
    use super::super::tool::Work;
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    const BOUNDS: Bounds =
        Bounds { rounds_max: 2, calls_max: 2, arguments_bytes_max: 40, exchange_bytes_max: 100 };

    fn tool(name: &str, repeatable: bool) -> Arc<Tool> {
        let schema = json!({
            "type": "object", "properties": { "n": { "type": "integer" } }, "additionalProperties": false,
        });
        Arc::new(Tool {
            name: name.to_owned(),
            source: name.into(),
            description: String::new(),
            parameters: Arc::new(Schema::compile(&schema).unwrap()),
            tier: 0,
            age_max: Duration::from_secs(1),
            output_bytes_max: 1_000,
            repeatable,
            work: Work::Time,
        })
    }

    fn offer() -> Offer {
        Offer::new(vec![tool("read", true), tool("write", false)])
    }

    fn told(rounds: &mut Rounds, calls: &[(&str, &str)]) -> Result<Vec<String>, Code> {
        let calls = calls.iter().map(|(name, arguments)| Call { name, arguments });
        let told = |plan: Plan| match plan {
            Plan::Run { tool, arguments } => format!("{} {}", tool.name, Value::Object(arguments)),
            Plan::Refuse { refusal, .. } => format!("{} {}", refusal.code.name(), refusal.why),
        };
        rounds.plan(&offer(), calls).map(|plans| plans.into_iter().map(told).collect())
    }

    #[test]
    fn what_is_right_runs_and_what_is_wrong_is_told() {
        let mut rounds = Rounds::new(Bounds { calls_max: 10, ..BOUNDS });
        let plans = told(
            &mut rounds,
            &[
                ("read", "{\"n\":1}"),
                ("read", ""),
                ("read", " {} "),
                ("erase", "{}"),
                ("read", "{\"n\":"),
                ("read", "{\"n\":\"x\"}"),
                ("read", "[]"),
                ("read", "{\"n\":1000000000000000000000000000000000000}"),
            ],
        )
        .unwrap();
        let begins = [
            "read {\"n\":1}",
            "read {}",
            "read {}",
            "TOOL_UNKNOWN there is no tool of this name; there are: read, write",
            "TOOL_ARGUMENTS the arguments are no JSON",
            "TOOL_ARGUMENTS the arguments do not fit",
            "TOOL_ARGUMENTS the arguments do not fit",
            "TOOL_ARGUMENTS the arguments have 43 bytes, more than 40",
        ];
        assert_eq!(plans.len(), begins.len());
        for (plan, begin) in plans.iter().zip(begins) {
            assert!(plan.starts_with(begin), "{plan}");
        }
        assert!(rounds.may_repeat());
    }

    #[test]
    fn what_is_more_than_a_round_may_have_is_told_and_wrong_calls_take_no_place() {
        let mut rounds = Rounds::new(BOUNDS);
        let plans = told(&mut rounds, &[("erase", ""), ("read", ""), ("write", ""), ("read", "")]).unwrap();
        let codes: Vec<_> = plans.iter().map(|plan| plan.split(' ').next().unwrap()).collect();
        assert_eq!(codes, ["TOOL_UNKNOWN", "read", "write", "TOOL_LIMIT"]);
        assert!(!rounds.may_repeat(), "`write` must not run twice");
    }

    #[test]
    fn after_the_last_round_the_model_must_answer() {
        let mut rounds = Rounds::new(BOUNDS);
        for _ in 0..2 {
            assert!(!rounds.must_answer());
            assert!(told(&mut rounds, &[("read", "")]).is_ok());
        }
        assert!(rounds.must_answer());
        assert_eq!(told(&mut rounds, &[("read", "")]), Err(Code::ToolLimit));
        let mut never = Rounds::new(Bounds { rounds_max: 0, ..BOUNDS });
        assert_eq!(told(&mut never, &[("read", "")]), Err(Code::ToolLimit));
    }

    #[test]
    fn a_turns_exchange_is_bounded() {
        let mut rounds = Rounds::new(BOUNDS);
        assert_eq!(rounds.take(60), Ok(()));
        assert_eq!(rounds.take(40), Ok(()));
        assert_eq!(rounds.take(1), Err(Code::ToolLimit));
        assert_eq!(rounds.take(usize::MAX), Err(Code::ToolLimit));
    }
}

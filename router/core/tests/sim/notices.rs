//! The judgement of what listeners are told.
use crate::board::{Board, Cause, Step};
use crate::plans::known;
use clawgate_core::codes::Code;
use clawgate_core::effect::Notice;
use clawgate_core::event::Event;
use clawgate_core::id::{SessionId, TurnId};

/// What was published in one step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Published {
    received: u32,
    routed: u32,
}

impl Board {
    pub(crate) fn on_publish(
        &mut self,
        step: &mut Step<'_>,
        notice: Notice,
        session: SessionId,
        turn: TurnId,
        text: &str,
    ) {
        step.mark(format!("publish {notice:?}"));
        assert!(self.listeners, "{notice:?} is published, and nobody listens");
        let inbound = match step.cause {
            Cause::Event(Event::Inbound { inbound, .. }) => Some(inbound),
            Cause::Event(_) | Cause::Tick => None,
        };
        match (notice, inbound) {
            (Notice::Created, Some(inbound)) => self.meet(session, &inbound),
            (Notice::Received, Some(inbound)) => {
                assert_eq!(text, inbound.text, "listeners hear what was written");
                step.published.received += 1;
            }
            (Notice::Routed, Some(_)) => {
                // Of a turn that is over at once nothing else tells who answers.
                let over = step.shard.prompt(turn).is_none();
                let turn = self.turn(turn);
                turn.agent = if over { Some(known(text)) } else { turn.agent };
                assert_eq!(turn.agent, Some(text), "listeners hear who answers");
                step.published.routed += 1;
            }
            (Notice::Created | Notice::Received | Notice::Routed, None) => {
                panic!("{notice:?} without a message")
            }
            (Notice::Failed, _) => {
                assert!(Code::ALL.iter().any(|code| code.name() == text), "{text} is no code");
            }
            (Notice::Generated | Notice::Delivered | Notice::Updated, _) => {}
        }
        assert!(
            step.shard.address(session).is_some(),
            "{notice:?} names {session:?}, whose address is not readable"
        );
        assert!(
            self.sessions.contains_key(&session) || self.dead_sessions.contains(&session),
            "{notice:?} names {session:?}, which never was"
        );
        assert!(
            turn == TurnId::default() || self.turns.contains_key(&turn) || self.dead_turns.contains(&turn),
            "{notice:?} names {turn:?}, which never was"
        );
    }

    /// Listeners heard of each message that was taken.
    pub(crate) fn check_notices(&self, step: &Step<'_>) {
        if !self.listeners {
            return;
        }
        let taken = step.answer == Some(crate::admission::Answer::Accepted);
        if taken {
            let heard = (step.published.received, step.published.routed);
            assert_eq!(heard, (1, 1), "listeners hear of a message and of who answers it");
        }
    }
}

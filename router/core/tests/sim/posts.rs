//! The judgement of deliveries: parts in order, each tried as often as allowed, and nothing lost or added on the way.
use crate::board::{Board, Step};
use crate::plans::FAILURE_TEXT;
use crate::turn::{Cut, Finale, Next, Phase, Posting, fired};
use clawgate_core::codes::Code;
use clawgate_core::effect::Outcome;
use clawgate_core::event::{Delivery, Mode};
use clawgate_core::id::{ChannelId, TurnId};
use clawgate_core::plan::Unit;

/// `Effect::Deliver`, with its text read.
pub(crate) struct Deliver<'a> {
    pub(crate) channel: ChannelId,
    pub(crate) part: u16,
    pub(crate) attempt: u16,
    pub(crate) text: &'a str,
}

/// The length of a text as its platform counts it.
fn length(text: &str, unit: Unit) -> usize {
    match unit {
        Unit::Utf16 => text.encode_utf16().count(),
        Unit::Chars => text.chars().count(),
        Unit::Bytes => text.len(),
    }
}

/// A text without what a cut may take away or add: white space, and the fences around code.
fn essence(text: &str) -> String {
    let lines = text.split('\n').filter(|line| !line.trim_start().starts_with("```"));
    lines.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect()
}

/// A delivery that is over ended as it must.
pub(crate) fn check_end(id: TurnId, post: &Posting, outcome: Outcome) {
    match post.next {
        Next::Part => {
            assert!(post.since.is_none(), "{id:?} ends while a part is under way");
            assert!(post.outcomes.contains(&outcome), "{id:?} ends as {outcome:?}, not {:?}", post.outcomes);
            assert_eq!(
                essence(&post.posted),
                essence(&post.text),
                "{id:?}: what was posted is what was said"
            );
        }
        Next::Dead => {
            // A turn that failed before keeps its first reason.
            let failed = post.outcomes.iter().any(|first| matches!(first, Outcome::Dead(_)));
            let right = if failed {
                post.outcomes.contains(&outcome)
            } else {
                outcome == Outcome::Dead(Code::DeliveryFailed)
            };
            assert!(right, "{id:?} was not delivered, and ends as {outcome:?} after {:?}", post.outcomes);
        }
        Next::Again(rest) => panic!("{id:?} ends as {outcome:?}, but is to be delivered again: {rest:?}"),
    }
}

impl Board {
    /// What a platform says about an attempt; late answers of earlier attempts change nothing.
    pub(crate) fn before_delivered(
        &mut self,
        step: &mut Step<'_>,
        id: TurnId,
        part: u16,
        attempt: u16,
        delivery: Delivery<'_>,
    ) {
        let (now, limits) = (self.now, self.plan.limits.clone());
        let post = match self.turns.get_mut(&id).map(|turn| &mut turn.phase) {
            Some(Phase::Posting(post)) if post.since.is_some() => post,
            _ => return step.mark("late delivery"),
        };
        if (post.part, post.attempt) != (Some(part), attempt) {
            return step.mark("late delivery");
        }
        (step.subject, post.since) = (Some(id), None);
        step.owed.push(id);
        match delivery {
            Delivery::Confirmed { .. } => {
                step.mark("delivery Confirmed");
                let current = std::mem::take(&mut post.current);
                post.posted.push_str(&current);
                post.posted.push('\n');
                post.next = Next::Part;
            }
            Delivery::Retry { after, .. } => {
                step.mark(if after.is_zero() { "delivery Retry" } else { "delivery Retry after" });
                post.fail(now, after, &limits);
            }
            Delivery::Refused { .. } => {
                step.mark("delivery Refused");
                post.next = Next::Dead;
            }
        }
    }

    pub(crate) fn on_deliver(&mut self, step: &mut Step<'_>, id: TurnId, deliver: &Deliver<'_>) {
        step.mark("effect Deliver");
        let (now, attempts_max) = (self.now, self.limits().delivery_attempts_max);
        let plan = self.plan.clone();
        self.begin_posting(step, id);
        let owner = &self.sessions[&self.turns[&id].session];
        assert_eq!(owner.queue.front(), Some(&id), "{id:?} is delivered before what was admitted before it");
        let channel = self.plan.channel(deliver.channel);
        assert_eq!(&*channel.name, owner.key.0, "{id:?} is delivered by another channel");
        let (size, most) = (length(deliver.text, channel.unit), channel.text_max as usize);
        assert!(
            0 < size && size <= most,
            "{id:?}: a part of {size}, and {most} is the most: {:?}",
            deliver.text
        );
        let Phase::Posting(post) = &mut self.turn(id).phase else { panic!("begin_posting made it so") };
        assert!(post.since.is_none(), "{id:?}: two attempts at once");
        match post.next {
            Next::Part => {
                let part = post.part.map_or(0, |part| part + 1);
                assert_eq!((deliver.part, deliver.attempt), (part, 0), "{id:?}: parts are counted from 0");
                (post.part, post.burnt, post.deferred) = (Some(part), 0, 0);
                deliver.text.clone_into(&mut post.current);
                if part > 0 {
                    step.mark("answer in parts");
                }
            }
            Next::Again(rest) => {
                let next = (post.part, post.attempt + 1);
                assert_eq!(
                    (Some(deliver.part), deliver.attempt),
                    next,
                    "{id:?}: attempts are counted from 0"
                );
                // Another plan may have other limits on a part.
                let same = deliver.text == post.current || !std::sync::Arc::ptr_eq(&plan, &post.plan);
                assert!(same, "{id:?}: an attempt with another text");
                deliver.text.clone_into(&mut post.current);
                assert!(rest.from <= now, "{id:?} is delivered again too early: {now:?}, not {rest:?}");
                assert!(post.burnt < attempts_max, "{id:?}: one attempt too many");
                step.mark("delivered again");
            }
            Next::Dead => panic!("{id:?} is delivered again, but it was refused"),
        }
        post.plan = plan;
        (post.attempt, post.since, post.stalls) = (deliver.attempt, Some(now), false);
    }

    /// The first part of an answer, of an operator's words, or of an apology.
    fn begin_posting(&mut self, step: &mut Step<'_>, id: TurnId) {
        if matches!(self.turn(id).phase, Phase::Posting(_)) {
            return;
        }
        let (now, waiting_age_max) = (self.now, self.limits().waiting_age_max);
        let reply_bytes_max = self.limits().reply_bytes_max as usize;
        let (may_give_up, cut_off) = (self.may_give_up(id), self.is_cut_off(id));
        let owes = self.owes_apology(&self.turns[&id]);
        if self.turns[&id].outbound {
            self.speak(id);
        }
        let gone = self.turns[&id].agent.is_some_and(|agent| !self.employs(agent));
        let plan = self.plan.clone();
        let turn = self.turn(id);
        assert_eq!(turn.mode, Mode::Deliver, "{id:?} has a client that waits");
        let (text, outcomes) = match &turn.phase {
            Phase::Ended(live, Finale::Finished(_)) => (live.said.clone(), vec![Outcome::Answered]),
            Phase::Ended(live, Finale::Cut(Cut::TooLong)) => {
                step.mark("too long, delivered in part");
                let fits = crate::admission::clip(&live.said, reply_bytes_max);
                (fits.to_owned(), vec![Outcome::Failed(Code::ReplyTooLong)])
            }
            Phase::Waiting if turn.outbound => (turn.text.clone(), vec![Outcome::Answered]),
            Phase::Waiting | Phase::Resting(_) | Phase::Ended(..) => {
                // Several reasons may hold at once: the shadow cannot know which one was looked at first.
                let mut codes = Vec::new();
                if let Phase::Ended(_, finale) = &turn.phase {
                    codes.extend(finale.code());
                }
                if cut_off {
                    codes.push(Code::UpstreamUnavailable);
                }
                if gone {
                    codes.push(Code::NotFound);
                }
                if matches!(turn.phase, Phase::Waiting) && fired(turn.admitted + waiting_age_max, now) {
                    codes.push(Code::WaitedTooLong);
                }
                let ended = matches!(turn.phase, Phase::Ended(..));
                assert!(owes && !codes.is_empty(), "{id:?} apologises for nothing");
                assert!(!ended || cut_off || may_give_up.is_ok(), "{id:?} apologises: {may_give_up:?}");
                step.mark("apology");
                (FAILURE_TEXT.to_owned(), codes.into_iter().map(Outcome::Dead).collect())
            }
            Phase::Calling(_) | Phase::Posting(_) | Phase::Over => {
                panic!("{id:?} is delivered in {:?}", turn.phase)
            }
        };
        turn.phase = Phase::Posting(Box::new(Posting::new(text, outcomes, plan)));
    }
}

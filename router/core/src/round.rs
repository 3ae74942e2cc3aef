//! A call whose model called tools, and is asked once more with what they said: another request of its minute, and another
//! look at who pays.
//!
//! To a turn all rounds are one call. To its model's provider each is a request with a prompt of its own; what its minute
//! does not grant yet is booked, so that a turn that has begun never waits behind one that has not.
use crate::breaker::Verdict;
use crate::call::tokens;
use crate::codes::Code;
use crate::effect::{Effect, Effects};
use crate::id::CallId;
use crate::shard::Shard;
use crate::turn::{Rounds, millis};
use core::time::Duration;

const BUDGET: &str = "The key's budget of the day was used up while this answer's tools worked.";
const MINUTE: &str = "What the model grants in a minute is spent for longer than this answer may take.";

impl Shard {
    pub(crate) fn on_working(&mut self, call: CallId) {
        let Some(slot) = self.running(call) else { return };
        if let Some(turn) = self.turns.at_mut(slot) {
            turn.call.on_working();
        }
    }

    pub(crate) fn on_round(&mut self, call: CallId, chars: u32, spent: Duration, out: &mut Effects) {
        let Some(slot) = self.running(call) else { return };
        if !spent.is_zero() {
            return self.break_off(slot, (Code::BudgetSpent, BUDGET), spent, out);
        }
        self.charge_tokens(slot);
        let (now, told) = (self.now, tokens(chars).max(1));
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let Some(line) = self.places.line(turn.line) else { return };
        let counts = self.bounds.model_at(line.seat);
        let booked = line.book_quota(counts, now, told, turn.call.left(now));
        let at = now + booked.unwrap_or_default();
        let (counted, said_chars) = (turn.counted(), turn.reply_chars);
        turn.rare().rounds = Rounds { counted, said_chars, told, at };
        match booked {
            Ok(wait) => {
                turn.call.ask_again(at);
                out.push(Effect::Ask { call, after_millis: millis_up(wait) });
                self.arm(slot);
            }
            Err(wait) => self.break_off(slot, (Code::UpstreamRateLimited, MINUTE), wait, out),
        }
    }

    /// An answer ends before its end, by no fault of its model's.
    fn break_off(&mut self, slot: u32, (code, why): (Code, &str), wait: Duration, out: &mut Effects) {
        out.push(Effect::Cancel { call: self.call_id(slot), overdue: false });
        let slow = self.turns.at(slot).is_some_and(|turn| turn.call.slow);
        self.end_call(slot, Verdict::Good { slow }, out);
        self.fail(slot, code, why, millis_up(wait), out);
    }
}

/// Milliseconds, and one more where there is a rest: who comes then does not come too early.
fn millis_up(wait: Duration) -> u32 {
    millis(wait.saturating_add(Duration::from_nanos(999_999)))
}

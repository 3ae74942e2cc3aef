//! More is asked of an agent than it can answer: what could only wait for too long is refused at once, with the time
//! after which it would not. So what is accepted is answered within a time that people wait for, whatever comes in.
//!
//! **The algorithm** is controlled delay, in the form that suits servers. CoDel (Nichols and Jacobson 2012, RFC 8289)
//! looks at how long things wait, not at how many there are, and tells a *standing* queue, which only delays, from a
//! *burst*, which a queue is for: a queue is standing once it has not been empty for an interval. Its server form
//! (Maurer 2015, "Fail at Scale", ACM Queue 13 (8)) gives what comes the short allowance while the queue stands, and the
//! long one otherwise. Here a message is refused when it comes, not dropped after it waited: its client is still there to
//! be told, and a platform tries again by itself. So the wait is estimated, not measured:
//!
//! - *Ahead* of a message are all that wait in its class, and of each other class what the weights of
//!   [`crate::queue`] let pass meanwhile, as far as that many wait.
//! - The *time of a turn* is the moving average of the agent, or the time since the last one ended, if that is longer
//!   and somebody has waited all along: a model that hangs is not believed to be as fast as it was.
//! - *Places* are those that run now over the process, shared by the shards where somebody waits, because freed ones go
//!   round among those; of an agent without a limit, whose models are full, those that run on this shard.
//! - The wait is (ahead + 1) × the time of a turn ÷ places; or, if that is longer, the time until its model grants as many
//!   calls, where that grants only so many in a minute.
//!
//! The allowance is the agent's target (`wait_target`, 0 for none) while the class has been waiting for that long without
//! a break, and [`BURST`] times that before. **Nobody starves:** a class of which nobody waits is let in, however long its
//! first one will wait, as CoDel never drops the last packet; the weights do the rest. A class that is not full is not
//! refused for the sake of one that is.
//!
//! Retry-After is the time after which the estimate is within the target again if nobody else comes. Other limits,
//! `waiting_max` above all, hold as ever.
use crate::event::Class;
use crate::places::Desk;
use crate::queue::WEIGHTS;
use crate::shard::Shard;
use crate::turn::millis;

/// A burst may wait this many times the target.
pub const BURST: u64 = 4;

impl Shard {
    /// When a message of this class may come again, milliseconds, if it would wait for too long now.
    #[cold]
    pub(crate) fn refuses_early(&self, desk: &Desk, class: Class) -> Option<u32> {
        let target = u64::from(desk.wait_target);
        if target == 0 || desk.queue.lens()[class as usize] == 0 {
            return None;
        }
        let stood = self.now.since(desk.crowded[class as usize]).as_millis();
        let allowed = if stood < u128::from(target) { BURST * target } else { target };
        let wait = u64::from(self.wait_of(desk, class));
        let back = u32::try_from(wait.saturating_sub(target)).unwrap_or(u32::MAX);
        (allowed < wait).then(|| back.clamp(1_000, 60_000))
    }

    /// What a message of this class would wait for its place if it came now, milliseconds; 0 where nobody waits.
    pub(crate) fn wait_of(&self, desk: &Desk, class: Class) -> u32 {
        if desk.is_empty() {
            return 0;
        }
        let counts = self.bounds.agent_at(desk.seat);
        let (places, shards) = if desk.running.is_bounded() {
            let waiting = counts.waiting_shards().max(1);
            (counts.running.read().max(1), waiting)
        } else {
            (desk.running.used().max(1), 1)
        };
        let since = desk.learned.max(desk.crowded[class as usize]);
        let silence =
            if desk.queue.lens()[class as usize] == 0 { 0 } else { self.now.since(since).as_millis() };
        let turn = u128::from(desk.turn_millis).max(silence);
        let rounds = u128::from(ahead(desk.queue.lens(), class) + 1) * u128::from(shards);
        let wait = u32::try_from(turn * rounds / u128::from(places)).unwrap_or(u32::MAX);
        wait.max(self.quota_wait(desk, u32::try_from(rounds).unwrap_or(u32::MAX)))
    }

    /// What the last of so many would wait for what its model grants in a minute, milliseconds; 0 for no time.
    pub(crate) fn quota_wait(&self, desk: &Desk, count: u32) -> u32 {
        let line = self.chosen(&desk.chain, 0).and_then(|(_, line)| self.places.line(line));
        let Some(line) = line.filter(|line| line.has_quota()) else { return 0 };
        let counts = self.bounds.model_at(line.seat);
        let (requests_max, tokens_max) = line.per_minute;
        let requests = counts.requests.wait(self.now, requests_max, count);
        millis(requests.max(counts.tokens.wait(self.now, tokens_max, 1)))
    }
}

/// How many of those that wait, by class, are started before a newcomer of this class.
pub(crate) fn ahead(lens: [u32; 3], class: Class) -> u64 {
    let own = u64::from(lens[class as usize]);
    let weight = u64::from(WEIGHTS[class as usize]);
    let others = (0..3).filter(|&other| other != class as usize);
    let passing = others.map(|other| {
        let share = (own + 1) * u64::from(WEIGHTS[other]);
        u64::from(lens[other]).min(share.div_ceil(weight))
    });
    own + passing.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ahead_are_ones_own_and_what_the_weights_let_pass() {
        for (lens, class, expected) in [
            ([0, 0, 0], Class::Vip, 0),
            ([9, 9, 9], Class::Vip, 9 + 3 + 1),
            ([100, 100, 100], Class::Normal, 100 + 26 + 100),
            ([100, 0, 0], Class::Normal, 25_u64.div_ceil(100)),
            ([0, 500, 500], Class::Low, 4 + 16),
            ([3, 5, 5], Class::Low, 3 + 5 + 5),
            ([u32::MAX, u32::MAX, u32::MAX], Class::Low, 3 * u64::from(u32::MAX)),
        ] {
            assert_eq!(ahead(lens, class), expected, "{lens:?} {class:?}");
        }
    }
}

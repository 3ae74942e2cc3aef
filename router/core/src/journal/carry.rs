//! When the shard is asked to append again what is still needed of old records, so that their files can go: in steps
//! that its buffer can take, and never so often that carrying is all that is done.
use crate::time::Time;
use alloc::collections::VecDeque;
use core::time::Duration;

/// Places that are remembered between old records; above it, every second one is forgotten.
const MARKS_MAX: usize = 4_096;
/// After this long another file is carried forward, even if the last one cost more than what came in since.
const REST: Duration = Duration::from_secs(1);

/// What the shard was asked to carry.
#[derive(Clone, Copy, Debug)]
struct Asked {
    lsn: u64,
    /// All bytes that were appended then.
    appended: u64,
    /// What it had released then.
    released: u64,
}

/// How far carrying is.
#[derive(Clone, Debug)]
pub(super) struct Carrying {
    /// Bytes between two marks, at the least.
    mark_bytes: u64,
    /// Bytes that a step may bring.
    step_bytes: u64,
    /// Records that end a stretch, with all bytes that were appended up to then.
    marks: VecDeque<(u64, u64)>,
    /// All bytes that were ever appended.
    appended: u64,
    /// Up to here, whatever it costs.
    goal: u64,
    /// What was asked for.
    asked: Option<Asked>,
    /// The shard could carry nothing: something else keeps what is old, and is asked about again only then.
    waits_until: Option<Time>,
    /// Bytes appended, or the time, from which on the next may be asked for.
    rests_until: Option<(u64, Time)>,
}

impl Carrying {
    pub(super) const fn new(buffer_bytes_max: u64) -> Self {
        Self {
            mark_bytes: buffer_bytes_max / 16,
            step_bytes: buffer_bytes_max / 4,
            marks: VecDeque::new(),
            appended: 0,
            goal: 0,
            asked: None,
            waits_until: None,
            rests_until: None,
        }
    }

    /// A record was appended.
    pub(super) fn appended(&mut self, lsn: u64, bytes: u64) {
        self.appended += bytes;
        let last = self.marks.back().map_or(0, |(_, appended)| *appended);
        if last + self.mark_bytes <= self.appended {
            self.marks.push_back((lsn, self.appended));
        }
        if MARKS_MAX < self.marks.len() {
            let mut nth = 0;
            self.marks.retain(|_| {
                nth += 1;
                nth % 2 == 0
            });
            self.mark_bytes *= 2;
        }
    }

    /// Everything up to here must be carried.
    pub(super) fn must(&mut self, lsn: u64) {
        self.goal = self.goal.max(lsn);
    }

    /// The shard carried what it could, and has released all up to here.
    pub(super) fn answered(&mut self, now: Time, released: u64) {
        let Some(asked) = self.asked.take() else { return };
        if asked.lsn <= released {
            self.rests_until = Some((self.appended + (self.appended - asked.appended), now + REST));
        } else if released == asked.released {
            self.waits_until = Some(now + REST);
        }
    }

    /// Is the shard still at what it was asked?
    pub(super) const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Must something be carried whatever it costs?
    pub(super) const fn is_pressed(&self, released: u64) -> bool {
        released < self.goal
    }

    /// When [`Self::ask`] may have another answer, if only time passes.
    pub(super) fn rests_until(&self) -> Option<Time> {
        self.waits_until.or(self.rests_until.map(|(_, time)| time))
    }

    /// Up to where to carry now, if at all. `released` is what the shard said last; `oldest` the last record of the
    /// oldest file, where the disk is so full that it should go.
    pub(super) fn ask(&mut self, now: Time, released: u64, oldest: Option<u64>) -> Option<u64> {
        self.waits_until = self.waits_until.filter(|until| now < *until);
        if self.asked.is_some() || self.waits_until.is_some() {
            return None;
        }
        let is_resting =
            self.rests_until.is_some_and(|(appended, time)| self.appended < appended && now < time);
        let goal = match oldest {
            _ if released < self.goal => self.goal,
            Some(oldest) if released < oldest && !is_resting => oldest,
            Some(_) | None => return None,
        };
        let mut before = self.marks.front().map_or(0, |(_, appended)| *appended);
        while let Some((lsn, appended)) = self.marks.front()
            && *lsn <= released
        {
            before = *appended;
            self.marks.pop_front();
        }
        let mut step = goal;
        let mut fitting = None;
        for (lsn, appended) in self.marks.iter().take_while(|(lsn, _)| *lsn < goal) {
            if before + self.step_bytes < *appended {
                step = fitting.unwrap_or(*lsn);
                break;
            }
            fitting = Some(*lsn);
        }
        self.asked = Some(Asked { lsn: step, appended: self.appended, released });
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A hundred records of 100 bytes; marks each 500, steps of 2,000.
    fn filled() -> Carrying {
        let mut carrying = Carrying::new(8_000);
        (1..=100).for_each(|lsn| carrying.appended(lsn, 100));
        carrying
    }

    #[test]
    fn a_long_way_goes_in_steps() {
        let mut carrying = filled();
        assert_eq!(carrying.ask(Time::ZERO, 0, None), None, "nothing presses");
        carrying.must(90);
        let (mut released, mut steps) = (0, 0);
        while let Some(lsn) = carrying.ask(Time::ZERO, released, None) {
            assert!(released < lsn && lsn <= 90 && lsn - released <= 25);
            assert_eq!(carrying.ask(Time::ZERO, released, None), None, "one at a time");
            carrying.answered(Time::ZERO, lsn);
            released = lsn;
            steps += 1;
        }
        assert_eq!((released, (4..=6).contains(&steps)), (90, true));
    }

    #[test]
    fn a_dear_file_is_followed_by_rest() {
        let mut carrying = filled();
        let mut now = Time::from_millis(5);
        assert_eq!(carrying.ask(now, 0, Some(4)), Some(4));
        carrying.appended(101, 300);
        carrying.answered(now, 4);
        assert_eq!(carrying.ask(now, 4, Some(8)), None, "300 bytes were carried: so many must come in first");
        carrying.appended(102, 300);
        assert_eq!(carrying.ask(now, 4, Some(8)), Some(8));
        carrying.appended(103, 300);
        carrying.answered(now, 8);
        now = now + REST;
        assert_eq!(carrying.ask(now, 8, Some(12)), Some(12), "or a second must pass");
        carrying.answered(now, 12);
        assert_eq!(carrying.ask(now, 12, Some(12)), None);
    }

    #[test]
    fn a_shard_that_carries_a_part_is_asked_again_and_one_that_cannot_later() {
        let mut carrying = filled();
        carrying.must(10);
        assert_eq!(carrying.ask(Time::ZERO, 0, None), Some(10));
        carrying.answered(Time::ZERO, 6);
        assert_eq!(carrying.ask(Time::ZERO, 6, None), Some(10));
        carrying.answered(Time::ZERO, 6);
        assert_eq!(carrying.ask(Time::ZERO, 6, None), None);
        assert_eq!(carrying.rests_until(), Some(Time::ZERO + REST));
        assert_eq!(carrying.ask(Time::ZERO + REST, 6, None), Some(10));
    }

    #[test]
    fn marks_are_bounded() {
        let mut carrying = Carrying::new(16);
        (1..=100_000).for_each(|lsn| carrying.appended(lsn, 64));
        assert!(carrying.marks.len() <= MARKS_MAX);
        assert!(carrying.marks.iter().zip(carrying.marks.iter().skip(1)).all(|(one, two)| one < two));
    }
}

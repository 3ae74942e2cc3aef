//! What people on a platform see of an answer while its model still speaks: the first part of it, posted as a message
//! that is edited as the answer grows, and that becomes the answer's first part in the end.
//!
//! At most one request of a turn is under way, so that edits cannot overtake one another: the answer's first part waits
//! for the preview that is. It is an edit of that message then, and as an edit is the same however often it is made, it
//! cannot double. The message's id is journalled as soon as it is known, and a restart goes on editing it. Where the
//! platform's word on the first post never came, nobody knows whether there is such a message: the turn shows nothing
//! more before its answer, and that is posted anew.
//!
//! A preview is a courtesy: whatever becomes of it, the answer is delivered as if there had been none.
use crate::effect::{Effect, Effects};
use crate::event::{Delivery, Mode};
use crate::id::TurnId;
use crate::record::Record;
use crate::shard::Shard;
use crate::split::{self, Cursor};
use crate::time::Time;
use crate::turn::{State, Turn};
use alloc::boxed::Box;
use core::time::Duration;

/// The number of the part that is still being written: no answer has as many.
pub const PREVIEW: u16 = u16::MAX;

/// The message that grows.
#[derive(Debug, Default)]
pub(crate) struct Preview {
    /// The platform's id of it; empty as long as there is none, or none that can be edited.
    message: Box<str>,
    /// Counts what was sent.
    attempt: u16,
    /// Since when the platform's word on that is awaited.
    sent: Option<Time>,
    /// Where the text that was sent ends.
    shown: Cursor,
    /// Nothing more is shown before the answer.
    over: bool,
}

impl Turn {
    /// The platform's id of the message that shows its answer so far; empty for none.
    pub(crate) fn shown_message(&self) -> &str {
        self.rare.as_ref().and_then(|rare| rare.preview.as_ref()).map_or("", |preview| &preview.message)
    }

    /// An earlier run, or a turn that became part of this one, showed something in this message.
    pub(crate) fn goes_on_in(&mut self, message: &str) {
        if !message.is_empty() && self.shown_message().is_empty() {
            self.rare().preview.get_or_insert_default().message = message.into();
        }
    }
}

impl Shard {
    /// How often a turn's preview is edited, if its platform shows any.
    fn preview_every(&self, slot: u32) -> Option<Duration> {
        let turn = self.turns.at(slot)?;
        let shows = turn.mode == Mode::Deliver && turn.content.is_words();
        let channel = self.channel_of(slot).filter(|_| shows)?;
        Some(self.plan.channel(channel).preview_every).filter(|every| !every.is_zero())
    }

    /// A call was started: when its turn shows something for the first time.
    pub(crate) fn begin_preview(&mut self, slot: u32) {
        let at = self.preview_every(slot).map_or(Time::NEVER, |every| self.now + every);
        let Some(turn) = self.turns.at_mut(slot) else { return };
        turn.until = at;
        if let Some(preview) = turn.rare.as_mut().and_then(|rare| rare.preview.as_mut()) {
            // What an earlier call said is not what this one says.
            preview.shown = Cursor::default();
        }
    }

    /// Shows what was said so far, if that is more than is shown.
    pub(crate) fn show(&mut self, slot: u32, out: &mut Effects) {
        let (id, now, age_max) = (self.turn_id(slot), self.now, self.plan.limits.delivery_age_max);
        let (every, channel) = (self.preview_every(slot), self.channel_of(slot));
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let (Some(every), Some(channel)) = (every, channel) else {
            turn.until = Time::NEVER;
            return;
        };
        turn.until = now + every;
        let plan = self.plan.channel(channel);
        let Some((part, next)) = split::part(&turn.reply, plan.unit, plan.text_max, Cursor::default()) else {
            return;
        };
        let preview = turn.rare.get_or_insert_default().preview.get_or_insert_default();
        preview.expire(now, age_max);
        if preview.over || preview.sent.is_some() || preview.shown == next {
            return;
        }
        (preview.sent, preview.shown) = (Some(now), next);
        let text = out.keep_written(|into| part.write(into));
        let edits = out.keep(&preview.message);
        let (uid, attempt) = (turn.uid, preview.attempt);
        out.push(Effect::Deliver { turn: id, channel, uid, part: PREVIEW, attempt, text, edits });
    }

    /// Until when the first part of a turn's answer waits for the preview that is under way.
    pub(crate) fn awaits_preview(&mut self, slot: u32) -> Option<Time> {
        let (now, age_max) = (self.now, self.plan.limits.delivery_age_max);
        let preview = self.turns.at_mut(slot)?.rare.as_mut()?.preview.as_mut()?;
        preview.expire(now, age_max);
        preview.sent.map(|sent| sent + age_max)
    }

    /// What the platform says of a preview. One that is late, or whose turn is over, changes nothing.
    pub(crate) fn on_previewed(
        &mut self,
        id: TurnId,
        attempt: u16,
        delivery: Delivery<'_>,
        out: &mut Effects,
    ) {
        let now = self.now;
        let Some(turn) = self.turns.get_mut(id.slot, id.generation) else { return };
        let Some(preview) = turn.rare.as_mut().and_then(|rare| rare.preview.as_mut()) else { return };
        if preview.sent.is_none() || preview.attempt != attempt {
            return;
        }
        preview.is_back();
        let is_new = preview.message.is_empty();
        match delivery {
            Delivery::Confirmed { message } if is_new && !message.is_empty() => {
                preview.message = message.into();
                self.write_shown(id.slot, out);
            }
            // What has no name cannot be edited.
            Delivery::Confirmed { .. } => preview.over |= is_new,
            // The platform did not take it: that much is known.
            Delivery::Retry { after, .. } if !after.is_zero() => {
                preview.shown = Cursor::default();
                if turn.state == State::Running {
                    turn.until = turn.until.max(now + after);
                }
            }
            Delivery::Retry { .. } => {
                preview.shown = Cursor::default();
                preview.over |= is_new;
            }
            Delivery::Refused { .. } => preview.over = true,
        }
        let waits = self.turn(id).is_some_and(|turn| {
            turn.state == State::Delivering && !turn.delivering.unwritten && !turn.delivering.in_flight
        });
        if waits {
            self.deliver_part(id.slot, out);
        }
    }

    /// The platform does not let the answer's first part take the preview's place. True if there was one: the part is
    /// posted anew.
    pub(crate) fn drop_preview(&mut self, slot: u32) -> bool {
        let preview = self.turns.at_mut(slot).and_then(|turn| turn.rare.as_mut()?.preview.as_mut());
        preview.is_some_and(|preview| !core::mem::take(&mut preview.message).is_empty())
    }

    /// Writes down in which message a turn's answer is shown.
    pub(crate) fn write_shown(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot).filter(|turn| turn.lsn != 0) else { return };
        let (uid, message) = (turn.uid, turn.shown_message());
        if !message.is_empty() {
            self.log.append(&Record::Shown { uid, message }, out);
        }
    }
}

impl Preview {
    /// The platform's word came.
    fn is_back(&mut self) {
        self.sent = None;
        self.attempt = self.attempt.saturating_add(1);
        self.over |= self.attempt == u16::MAX;
    }

    /// The platform's word did not come in time.
    fn expire(&mut self, now: Time, age_max: Duration) {
        if self.sent.is_some_and(|sent| sent + age_max <= now) {
            self.is_back();
            self.shown = Cursor::default();
            self.over |= self.message.is_empty();
        }
    }
}

//! Platform actors: how an attempt to post a part of an answer goes. Never looks at the shards.
use crate::dice::Dice;
use crate::weather::{Post, Weather};
use clawgate_core::event::{Delivery, Event};
use clawgate_core::id::TurnId;
use std::time::Duration;

/// A platform's answer to one attempt. Owns its text; [`Answer::event`] lends it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Confirmed,
    Retry { after: Duration, detail: String },
    Refused { detail: String },
}

impl Answer {
    pub(crate) fn event(&self, turn: TurnId, part: u16, attempt: u16) -> Event<'_> {
        let delivery = match self {
            Self::Confirmed => Delivery::Confirmed { message: "" },
            Self::Retry { after, detail } => Delivery::Retry { after: *after, detail },
            Self::Refused { detail } => Delivery::Refused { detail },
        };
        Event::Delivered { turn, part, attempt, delivery }
    }
}

/// What comes back for one attempt, each after this long; nothing where the answer is lost.
pub(crate) struct Course {
    pub(crate) answers: Vec<(Duration, Answer)>,
    /// The attempt will be given up by the gateway, for a reason of the platform's.
    pub(crate) stalls: bool,
}

/// Decides how an attempt goes; a platform that answers does so in good time.
pub(crate) fn course(dice: &mut Dice, weather: &Weather, delivery_age_max: Duration) -> Course {
    let limit = delivery_age_max.as_millis() as u64;
    let prompt = dice.millis(1, limit / 3);
    let detail = format!("no {}", dice.below(100));
    let (answers, stalls) = match weather.post(dice) {
        Post::Confirmed => (vec![(prompt, Answer::Confirmed)], false),
        Post::Retry => (vec![(prompt, Answer::Retry { after: Duration::ZERO, detail })], false),
        Post::RetryAfter => {
            let after = *dice.pick(&[1, 900, 4_000, 4_000_000]);
            (vec![(prompt, Answer::Retry { after: Duration::from_millis(after), detail })], false)
        }
        Post::Refused => (vec![(prompt, Answer::Refused { detail })], false),
        Post::Lost => (Vec::new(), true),
        Post::Late => {
            let late = delivery_age_max + dice.millis(5, 2 * limit);
            let answer = match dice.below(3) {
                0 => Answer::Retry { after: Duration::ZERO, detail },
                1 => Answer::Refused { detail },
                _ => Answer::Confirmed,
            };
            (vec![(late, answer)], true)
        }
        Post::Twice => {
            let again = prompt + dice.millis(0, limit);
            let second = if dice.chance(500) { Answer::Confirmed } else { Answer::Refused { detail } };
            (vec![(prompt, Answer::Confirmed), (again, second)], false)
        }
    };
    Course { answers, stalls }
}

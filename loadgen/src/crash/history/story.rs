//! What is known of single messages, told so that a person can follow it.

use serde::Serialize;

use super::{History, Judgement, Key, Message};

/// Messages that are told at most.
const STORIES_MAX: usize = 100;

/// The lives of the gateway, and the messages for which a promise was broken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stories {
    lives: Vec<Life>,
    messages: Vec<Story>,
}

/// The end of a life.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Life {
    life: u32,
    end_ms: f64,
    killed: bool,
    slowest_ack_ms: f64,
}

/// One message. Times are milliseconds since the run began.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Story {
    key: Key,
    /// Its text, by which it is found in journals and databases.
    text: String,
    acked_ms: Option<f64>,
    answers: Vec<Told>,
    /// Places of its answer in the session's history.
    recalled: Vec<u64>,
    dead: bool,
    failed: Option<String>,
}

/// One of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    life: u32,
    place: u64,
    taken_ms: f64,
    confirmed_ms: Option<f64>,
}

impl History {
    /// The stories of the messages that this judgement finds fault with, and of those before and after each in its chat.
    #[must_use]
    pub fn stories(&self, judgement: &Judgement, begin_ns: u64, text: impl Fn(Key) -> String) -> Stories {
        let since = |at_ns: u64| at_ns.saturating_sub(begin_ns) as f64 / 1e6;
        let mut lives: Vec<Life> = self
            .ends
            .iter()
            .map(|(life, end)| Life {
                life: *life,
                end_ms: since(end.at_ns),
                killed: end.killed,
                slowest_ack_ms: self.slowest_acks_ns.get(life).map_or(0.0, |took_ns| *took_ns as f64 / 1e6),
            })
            .collect();
        lives.sort_by_key(|end| end.life);
        let lost = judgement.lost.iter().map(|loss| loss.key);
        let doubled = judgement.unexcused().map(|double| double.key);
        let others = judgement.reordered.iter().chain(&judgement.forgotten).copied();
        let faulty = lost.chain(doubled).chain(others);
        let mut keys: Vec<Key> = faulty.flat_map(neighbours).collect();
        keys.sort_unstable();
        keys.dedup();
        let known = keys.into_iter().filter_map(|key| Some((key, self.peek(key)?)));
        let messages =
            known.take(STORIES_MAX).map(|(key, message)| tell(key, message, text(key), since)).collect();
        Stories { lives, messages }
    }
}

fn neighbours(key: Key) -> impl Iterator<Item = Key> {
    (key.seq.saturating_sub(1)..=key.seq + 1).map(move |seq| Key { seq, ..key })
}

fn tell(key: Key, message: &Message, text: String, since: impl Fn(u64) -> f64) -> Story {
    let answers = message.answers.iter().map(|answer| Told {
        life: answer.life,
        place: answer.place,
        taken_ms: since(answer.taken_ns),
        confirmed_ms: answer.confirmed_ns.map(&since),
    });
    Story {
        key,
        text,
        acked_ms: message.acked_ns.map(&since),
        answers: answers.collect(),
        recalled: message.recalled.clone(),
        dead: message.dead,
        failed: message.failed.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Door, judge};
    use super::*;

    #[test]
    fn a_lost_message_is_told_with_its_neighbours() {
        let mut history = History::default();
        let keys: Vec<Key> = (0..5).map(|_| history.open(Door::Webhook, 7)).collect();
        keys.iter().for_each(|key| history.on_acked(*key, 3_000_000));
        for key in keys.iter().filter(|key| key.seq != 2) {
            let taken = history.on_answer(*key, 1, 4_000_000);
            taken.into_iter().for_each(|taken| history.on_confirmed(taken, 5_000_000));
        }
        history.on_ack_took(1, 2_000_000);
        history.on_end(1, 9_000_000, true);
        let stories = history.stories(&judge(&history, 0), 1_000_000, |key| format!("text {}", key.seq));
        assert_eq!(stories.lives, [Life { life: 1, end_ms: 8.0, killed: true, slowest_ack_ms: 2.0 }]);
        let told: Vec<(&str, usize)> =
            stories.messages.iter().map(|story| (story.text.as_str(), story.answers.len())).collect();
        assert_eq!(told, [("text 1", 1), ("text 2", 0), ("text 3", 1)]);
        let answer = Told { life: 1, place: 0, taken_ms: 3.0, confirmed_ms: Some(4.0) };
        assert_eq!(stories.messages[0].answers, [Told { place: 1, ..answer }]);
    }
}

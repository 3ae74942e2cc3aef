//! The model that follows a script: tokens with pauses, and every way in which a model fails.
//!
//! Owns what comes at each step. Keeps no state and no time: the shell counts the steps and waits. The same script says the
//! same each time.
use crate::failure::{TRUNCATED, classify};
use crate::{End, Said, Stop};
use clawgate_core::codes::Code;
use clawgate_core::event::{Failure, Piece, Retry};
use core::time::Duration;

/// One line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The pause before it; before each repetition too.
    pub after: Duration,
    /// What happens then.
    pub action: Action,
}

/// What a line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Says a text, so many times.
    Say {
        /// The text; `{prompt}` stands for what was asked.
        text: String,
        /// How often; 0 leaves it out.
        times: u32,
    },
    /// Falls silent for good.
    Stall,
    /// Fails with this HTTP status.
    Fail {
        /// 400 to 599.
        status: u16,
    },
    /// Breaks off without an end.
    Truncate,
    /// Sends what is not its protocol.
    Malformed,
}

/// Texts and prompts of a `Say`, in turn: a piece is one slice, so a text with a prompt in it is several.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Prompt,
}

/// A line, placed among the steps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stage {
    /// Its first step.
    first: usize,
    after: Duration,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Say(Vec<Part>),
    Silence,
    End(End<'static>),
}

/// A script. A script that ends without a fault finishes its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    stages: Vec<Stage>,
}

const PLACEHOLDER: &str = "{prompt}";

impl Script {
    /// A script of these lines. What stands behind a line that ends the answer is never reached.
    #[must_use]
    pub fn new(lines: &[Line]) -> Self {
        let (mut stages, mut first) = (Vec::new(), 0_usize);
        for Line { after, action } in lines {
            let (what, steps) = match action {
                Action::Say { text, times } => {
                    let parts = parts_of(text);
                    let steps = parts.len().saturating_mul(usize::try_from(*times).unwrap_or(usize::MAX));
                    (What::Say(parts), steps)
                }
                Action::Stall => (What::Silence, 1),
                Action::Fail { status } => (What::End(End::Failed(failed(*status))), 1),
                Action::Truncate => (What::End(End::Failed(TRUNCATED)), 1),
                Action::Malformed => (What::End(End::Failed(MALFORMED)), 1),
            };
            let over = !matches!(what, What::Say(_));
            if 0 < steps {
                stages.push(Stage { first, after: *after, what });
                first = first.saturating_add(steps);
            }
            if over {
                return Self { stages };
            }
        }
        let what = What::End(End::Finished(Stop::Complete));
        stages.push(Stage { first, after: Duration::ZERO, what });
        Self { stages }
    }

    /// The built-in demonstration: a short greeting that quotes the prompt, at the pace of a model.
    #[must_use]
    pub fn demo() -> Self {
        let words = [
            "Hello",
            "! ",
            "You ",
            "wrote: ",
            "“{prompt}”",
            ". ",
            "I ",
            "am ",
            "a ",
            "script ",
            "inside ",
            "Clawgate",
            ", ",
            "so ",
            "that ",
            "you ",
            "can ",
            "see ",
            "an ",
            "answer ",
            "stream ",
            "before ",
            "you ",
            "configure ",
            "a ",
            "model",
            ".",
        ];
        let line = |text: &str| Line {
            after: Duration::from_millis(30),
            action: Action::Say { text: text.to_owned(), times: 1 },
        };
        Self::new(&words.map(line))
    }

    /// What comes at this step, counted from 0, and the pause before it. `None`: nothing comes any more; if no end came
    /// before, the model has fallen silent, and only a time-out ends the call.
    #[must_use]
    pub fn step<'a>(&'a self, step: usize, prompt: &'a str) -> Option<(Duration, Said<'a>)> {
        let following = self.stages.partition_point(|stage| stage.first <= step);
        let stage = self.stages.get(following.checked_sub(1)?)?;
        let place = step - stage.first;
        match &stage.what {
            What::Say(parts) => {
                let part = place.checked_rem(parts.len())?;
                let text = match &parts[part] {
                    Part::Text(text) => text,
                    Part::Prompt => prompt,
                };
                let piece = if text.is_empty() { Piece::Alive } else { Piece::Text(text) };
                Some((if part == 0 { stage.after } else { Duration::ZERO }, Said::Piece(piece)))
            }
            What::Silence => None,
            What::End(end) => (place == 0).then_some((stage.after, Said::Ended(*end))),
        }
    }
}

fn parts_of(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (index, text) in text.split(PLACEHOLDER).enumerate() {
        if 0 < index {
            parts.push(Part::Prompt);
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
    }
    parts
}

const MALFORMED: Failure<'static> = Failure {
    code: Code::UpstreamMalformed,
    retry: Retry::Backoff,
    status: 0,
    detail: "the script sends no protocol",
};

fn failed(status: u16) -> Failure<'static> {
    let (code, retry) = classify(status, None, Duration::ZERO);
    Failure { code, retry, status, detail: "the script fails" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(after_millis: u64, text: &str, times: u32) -> Line {
        line(after_millis, Action::Say { text: text.to_owned(), times })
    }

    fn line(after_millis: u64, action: Action) -> Line {
        Line { after: Duration::from_millis(after_millis), action }
    }

    /// Every step, as `pause:what`, up to the end or the silence.
    fn played(script: &Script, prompt: &str) -> Vec<String> {
        let steps = (0..10_000).map_while(|step| script.step(step, prompt));
        let words = steps.map(|(after, said)| {
            let what = match said {
                Said::Piece(Piece::Text(text)) => text.to_owned(),
                Said::Piece(piece) => format!("{piece:?}"),
                Said::Ended(End::Finished(stop)) => format!("finished {stop:?}"),
                Said::Ended(End::Failed(failure)) => {
                    format!("failed {} {:?}", failure.code.name(), failure.retry)
                }
                Said::Usage(_) | Said::Call(_) | Said::Thought(_) => format!("{said:?}"),
            };
            format!("{}:{what}", after.as_millis())
        });
        words.collect()
    }

    #[test]
    fn tokens_pauses_and_repetitions() {
        let script =
            Script::new(&[say(5, "a", 1), say(7, "b", 3), say(9, "never", 0), say(1, "", 9), say(2, "c", 1)]);
        assert_eq!(played(&script, ""), ["5:a", "7:b", "7:b", "7:b", "2:c", "0:finished Complete"]);
        assert_eq!(played(&Script::new(&[]), ""), ["0:finished Complete"]);
    }

    #[test]
    fn the_prompt_is_quoted() {
        let script = Script::new(&[say(5, "<{prompt}>", 2), say(1, "{prompt}{prompt}", 1)]);
        let expected = ["5:<", "0:Hi", "0:>", "5:<", "0:Hi", "0:>", "1:Hi", "0:Hi", "0:finished Complete"];
        assert_eq!(played(&script, "Hi"), expected);
        assert_eq!(played(&Script::new(&[say(1, "{prompt}", 1)]), ""), ["1:Alive", "0:finished Complete"]);
        // What people write is not looked into.
        assert_eq!(played(&Script::new(&[say(1, "{prompt}", 1)]), "{prompt}")[0], "1:{prompt}");
    }

    #[test]
    fn faults() {
        let with = |action| played(&Script::new(&[say(1, "a", 1), line(3, action), say(1, "never", 1)]), "");
        assert_eq!(with(Action::Stall), ["1:a"]);
        assert_eq!(with(Action::Truncate), ["1:a", "3:failed UPSTREAM_TRUNCATED Backoff"]);
        assert_eq!(with(Action::Malformed), ["1:a", "3:failed UPSTREAM_MALFORMED Backoff"]);
        assert_eq!(with(Action::Fail { status: 429 }), ["1:a", "3:failed UPSTREAM_RATE_LIMITED Backoff"]);
        assert_eq!(with(Action::Fail { status: 400 }), ["1:a", "3:failed UPSTREAM_FAILED Never"]);
        assert_eq!(with(Action::Fail { status: 401 }), ["1:a", "3:failed UPSTREAM_FAILED Elsewhere"]);
        assert_eq!(with(Action::Fail { status: 503 }), ["1:a", "3:failed UPSTREAM_FAILED Backoff"]);
    }

    #[test]
    fn any_step_of_any_script_is_answered() {
        let script = Script::new(&[say(0, "{prompt}x", u32::MAX), say(0, "y", u32::MAX)]);
        let text = |step| script.step(step, "p").map(|(_, said)| said);
        assert_eq!(text(4_000_000_000), Some(Said::Piece(Piece::Text("p"))));
        assert_eq!(text(usize::try_from(u32::MAX).unwrap_or(0) * 2), Some(Said::Piece(Piece::Text("y"))));
        assert_eq!(text(usize::MAX), None);
    }

    #[test]
    fn the_demonstration_greets_and_quotes() {
        let said = played(&Script::demo(), "Hi there");
        let text: String =
            said.iter().filter_map(|step| step.split_once(':')).map(|(_, text)| text).collect();
        assert!(text.starts_with("Hello! You wrote: “Hi there”. "), "{text}");
        assert!(text.ends_with(".finished Complete"), "{text}");
        assert!(20 < said.len() && said[0].starts_with("30:"));
    }
}

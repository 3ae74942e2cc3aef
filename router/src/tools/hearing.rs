//! What a model says while it may call tools: text goes on to the client at once, calls are kept until the answer ends.
//!
//! Pure. Between the rounds nothing ends for the shard: to it they are one call to a model.
use crate::execute::heard;
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Event, Failure, Piece, Retry};
use clawgate_core::id::CallId;
use clawgate_providers::answer::Answer;
use clawgate_providers::said::Counts;
use clawgate_providers::{End, Said, Stop};

/// What stands between the texts of two rounds: they are sentences of their own.
const BETWEEN: &str = "\n\n";

/// The answers of one turn.
#[derive(Debug)]
pub(crate) struct Hearing {
    answer: Answer,
    bytes_max: usize,
    /// What earlier rounds cost.
    before: Counts,
    /// A text was shown in an earlier round, and none in this one.
    divides: bool,
    shown: bool,
    calls: bool,
    /// Nothing may be done again.
    settled: bool,
}

impl Hearing {
    /// Nothing was said; of one answer so many bytes are held at most.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            answer: Answer::new(bytes_max),
            bytes_max,
            before: Counts::default(),
            divides: false,
            shown: false,
            calls: false,
            settled: false,
        }
    }

    /// Passes on what was said. False once nothing more is wanted of this round.
    pub(crate) fn hear(&mut self, call: CallId, said: Said<'_>, each: &mut dyn FnMut(Event<'_>)) -> bool {
        let kept = if matches!(said, Said::Ended(End::Failed(_))) { Ok(()) } else { self.answer.push(&said) };
        if kept.is_err() {
            let failure = Failure { code: Code::ReplyTooLong, retry: Retry::Never, status: 0, detail: "" };
            each(Event::Ended { call, end: event::End::Failed(failure) });
            return false;
        }
        match said {
            Said::Piece(Piece::Text(text)) if !text.is_empty() => {
                if std::mem::take(&mut self.divides) {
                    each(Event::Piece { call, piece: Piece::Text(BETWEEN) });
                }
                self.shown = true;
                each(heard(call, said));
            }
            // The model speaks, though there is nothing to show.
            Said::Call(_) => each(Event::Piece { call, piece: Piece::Reasoning("") }),
            Said::Usage(counts) => {
                let sum = self.with(counts);
                each(Event::Piece { call, piece: Piece::Usage(sum.into()) });
            }
            Said::Ended(End::Finished(Stop::ToolCalls)) if self.answer.calls().next().is_some() => {
                self.calls = true;
                return false;
            }
            Said::Ended(End::Failed(failure)) if self.settled => {
                let failure = Failure { retry: Retry::Never, ..failure };
                each(Event::Ended { call, end: event::End::Failed(failure) });
                return false;
            }
            Said::Ended(_) => {
                each(heard(call, said));
                return false;
            }
            Said::Piece(_) | Said::Thought(_) => each(heard(call, said)),
        }
        true
    }

    /// The answer, if it ended with calls that wait for their results. The next round begins.
    pub(crate) fn calls(&mut self) -> Option<Answer> {
        if !std::mem::take(&mut self.calls) {
            return None;
        }
        self.before = self.with(self.answer.usage);
        self.divides = self.shown;
        Some(std::mem::replace(&mut self.answer, Answer::new(self.bytes_max)))
    }

    /// A tool has run that must not run twice: from here on a failure is final.
    pub(crate) const fn settle(&mut self) {
        self.settled = true;
    }

    /// May a failed call be tried again?
    pub(crate) const fn retry(&self, retry: Retry) -> Retry {
        if self.settled { Retry::Never } else { retry }
    }

    fn with(&self, now: Counts) -> Counts {
        let before = &self.before;
        Counts {
            prompt: before.prompt.saturating_add(now.prompt),
            completion: before.completion.saturating_add(now.completion),
            cached: before.cached.saturating_add(now.cached),
            cache_created: before.cache_created.saturating_add(now.cache_created),
            reasoning: before.reasoning.saturating_add(now.reasoning),
            estimated: before.estimated || now.estimated,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_core::id::TurnId;
    use clawgate_providers::said::CallPart;

    const CALL: CallId = CallId { turn: TurnId { slot: 1, generation: 1 }, attempt: 0 };

    fn hear(hearing: &mut Hearing, said: &[Said<'_>]) -> Vec<String> {
        let mut events = Vec::new();
        for said in said {
            hearing.hear(CALL, *said, &mut |event| {
                events.push(if let Event::Piece { piece: Piece::Text(text), .. } = event {
                    text.to_owned()
                } else if let Event::Piece { piece, .. } = event {
                    format!("{piece:?}")
                } else if let Event::Ended { end, .. } = event {
                    format!("{end:?}")
                } else {
                    String::new()
                });
            });
        }
        events
    }

    fn usage(prompt: u32, completion: u32) -> Said<'static> {
        Said::Usage(Counts { prompt, completion, ..Counts::default() })
    }

    #[test]
    fn rounds_are_one_answer_to_the_client() {
        let mut hearing = Hearing::new(1_000);
        let first = [
            Said::Piece(Piece::Text("Let me see.")),
            Said::Call(CallPart::Begin { index: 0, id: "c1", name: "time" }),
            Said::Call(CallPart::Arguments { index: 0, text: "{}" }),
            Said::Call(CallPart::End { index: 0 }),
            usage(10, 5),
            Said::Ended(End::Finished(Stop::ToolCalls)),
        ];
        let events = hear(&mut hearing, &first);
        let speaks = "Reasoning(\"\")";
        assert_eq!(events[..4], ["Let me see.", speaks, speaks, speaks]);
        assert_eq!(events.len(), 5, "the shard hears no end: {events:?}");
        let answer = hearing.calls().unwrap();
        assert_eq!(answer.calls().collect::<Vec<_>>(), [(0, "c1", "time", "{}")]);
        assert!(hearing.calls().is_none());
        let second = [
            Said::Piece(Piece::Text("Noon")),
            Said::Piece(Piece::Text(".")),
            usage(20, 3),
            Said::Ended(End::Finished(Stop::Complete)),
        ];
        let events = hear(&mut hearing, &second);
        assert_eq!(events[..3], ["\n\n", "Noon", "."]);
        assert!(events[3].contains("prompt: 30") && events[3].contains("completion: 8"), "{}", events[3]);
        assert_eq!(events[4], "Finished(Complete)");
        assert!(hearing.calls().is_none());
    }

    #[test]
    fn an_answer_that_broke_off_calls_nothing() {
        for stop in [Stop::Length, Stop::Filtered, Stop::Complete] {
            let mut hearing = Hearing::new(1_000);
            let begin = Said::Call(CallPart::Begin { index: 0, id: "c1", name: "time" });
            hear(&mut hearing, &[begin, Said::Ended(End::Finished(stop))]);
            assert!(hearing.calls().is_none(), "{stop:?}");
        }
        let mut hearing = Hearing::new(1_000);
        assert_eq!(
            hear(&mut hearing, &[Said::Ended(End::Finished(Stop::ToolCalls))]),
            ["Finished(Complete)"]
        );
    }

    #[test]
    fn what_has_run_is_not_repeated() {
        let failure = Failure { code: Code::UpstreamFailed, retry: Retry::Backoff, status: 0, detail: "" };
        let mut hearing = Hearing::new(1_000);
        assert!(hear(&mut hearing, &[Said::Ended(End::Failed(failure))])[0].contains("Backoff"));
        hearing.settle();
        assert!(hear(&mut hearing, &[Said::Ended(End::Failed(failure))])[0].contains("Never"));
        assert_eq!(hearing.retry(Retry::Backoff), Retry::Never);
    }

    #[test]
    fn an_answer_that_is_too_large_fails() {
        let mut hearing = Hearing::new(10);
        let begin = Said::Call(CallPart::Begin { index: 0, id: "c1", name: "a long name of a tool" });
        assert!(hear(&mut hearing, &[begin])[0].contains("ReplyTooLong"));
    }
}

//! What one answer is to be like: times, faults, odd framing, tools. Read from a text; knows no format.

use std::fmt;
use std::str::FromStr;

use crate::rng::mix;
use crate::slo::parse_duration;

/// What a script may say; for `--help`.
pub const HELP: &str = "A script is a list such as ttft=200ms,tokens=50,gap=10ms (commas may be written as + or ;). It is \
taken from the request's field \"mock\", from its last user message if that starts with [mock:...], from its model if that \
starts with mock: or from --script.

  reply=echo|words|stamps  repeat the last user message or the results of tools (default), a canned text, or each token's
                           time of emission
  tokens=N                 how many; by default echo has one for four bytes, the others 50
  thoughts=N               tokens of reasoning before the answer
  tools=N                  call so many of the request's tools, until a result of one comes back; arguments=N is the bytes
                           of a fragment of the arguments; interleave mixes the fragments of the calls; no-index leaves
                           out their index, where a format has one
  finish=stop|length|filter   why the answer ends
  header=T ttft=T gap=T    time to the response's head, from there to the first token, between tokens
  status=N retry-after=S   answer with this error; spent says that money, not time is short
  rates                    headers that tell how much of a rate is left, as a 429 has them anyway
  fault=cut|error|json|silence|no-finish   close, send an error event, send broken JSON, fall silent, or end without a
                           finish_reason, after at=N tokens
  fault=huge|endless       after at=N tokens an event of bytes=N (100 MB), or a line of as many that has no end
  fault=gzip|redirect|html|head   compress the answer, send elsewhere, answer with a page, close after the head
  fault=reset|hang-up      reset or close the connection before any answer
  every=N percent=N        status or fault only in every nth request, in so many of a hundred, drawn by their numbers
  then=close|close-on-next close the connection after the answer, or when the next request begins to come
  usage=asked|always|never|with-choices|null-choices|no-choices
  crlf no-space multi-line comments pings bom role-late split=N   legal framing that is rarely tested; split writes N
                           bytes at a time
  unknown                  fields and events that nobody knows

GET /stats counts requests, streams, aborted streams, refused requests and tokens.";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Cut,
    Error,
    BrokenJson,
    Silence,
    NoFinish,
    Huge,
    Endless,
    Gzip,
    Redirect,
    Html,
    Head,
    Reset,
    HangUp,
}

const FAULTS: [(&str, Fault); 13] = [
    ("cut", Fault::Cut),
    ("error", Fault::Error),
    ("json", Fault::BrokenJson),
    ("silence", Fault::Silence),
    ("no-finish", Fault::NoFinish),
    ("huge", Fault::Huge),
    ("endless", Fault::Endless),
    ("gzip", Fault::Gzip),
    ("redirect", Fault::Redirect),
    ("html", Fault::Html),
    ("head", Fault::Head),
    ("reset", Fault::Reset),
    ("hang-up", Fault::HangUp),
];

impl Fault {
    /// Its name in scripts and in what is counted.
    pub(super) fn name(self) -> &'static str {
        FAULTS.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Echo,
    Words,
    Stamps,
}

/// How usage is told in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageStyle {
    /// Where the format has its place for it; in OpenAI's chat, if the request asks.
    Asked,
    /// The same, whether it asks or not.
    Always,
    Never,
    /// On the event with the finish reason.
    WithChoices,
    /// In an event of its own whose choices are null.
    NullChoices,
    /// In an event of its own without choices.
    NoChoices,
}

/// Why the answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    Length,
    Filter,
}

/// What becomes of the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    Close,
    /// It closes as the next request begins to arrive, without a word: a peer whose patience ended just then.
    CloseOnNext,
}

/// How events are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) crlf: bool,
    pub(super) no_space: bool,
    /// The data of an event on more than one line.
    pub(super) multi_line: bool,
    pub(super) comments: bool,
    pub(super) pings: bool,
    pub(super) bom: bool,
    /// Bytes of a write; 0 for all that there is.
    pub(super) split: usize,
    /// Fields and events that nobody knows.
    pub(super) unknown: bool,
}

/// How one answer is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub(super) reply: Reply,
    pub(super) tokens: Option<u32>,
    pub(super) thoughts: u32,
    pub(super) tools: u32,
    /// Bytes of a fragment of a call's arguments.
    pub(super) fragment: usize,
    pub(super) interleave: bool,
    pub(super) no_index: bool,
    pub(super) finish: Finish,
    pub(super) header_ns: u64,
    pub(super) ttft_ns: u64,
    pub(super) gap_ns: u64,
    pub(super) status: u16,
    pub(super) retry_after_seconds: Option<u32>,
    pub(super) spent: bool,
    pub(super) rates: bool,
    pub(super) fault: Option<Fault>,
    pub(super) at: u32,
    /// Of what is too long.
    pub(super) bytes: u64,
    pub(super) every: u64,
    pub(super) percent: u64,
    pub(super) then: Then,
    pub(super) usage: UsageStyle,
    pub(super) role_late: bool,
    pub(super) framing: Framing,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            reply: Reply::Echo,
            tokens: None,
            thoughts: 0,
            tools: 0,
            fragment: 5,
            interleave: false,
            no_index: false,
            finish: Finish::Stop,
            header_ns: 0,
            ttft_ns: 0,
            gap_ns: 0,
            status: 200,
            retry_after_seconds: None,
            spent: false,
            rates: false,
            fault: None,
            at: 0,
            bytes: 100_000_000,
            every: 1,
            percent: 100,
            then: Then::Keep,
            usage: UsageStyle::Asked,
            role_late: false,
            framing: Framing::default(),
        }
    }
}

/// Why a text is no script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadScript(String);

impl fmt::Display for BadScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is nothing that a script says; see loadgen mock provider --help", self.0)
    }
}

impl std::error::Error for BadScript {}

impl FromStr for Script {
    type Err = BadScript;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut script = Self::default();
        for word in text.split([',', ';', '+']).map(str::trim).filter(|word| !word.is_empty()) {
            let set = match word.split_once('=') {
                Some((name, value)) => script.set(name, value),
                None => script.set_flag(word),
            };
            set.ok_or_else(|| BadScript(word.to_owned()))?;
        }
        Ok(script)
    }
}

/// What a word stands for.
fn one<T: Copy>(value: &str, of: &[(&str, T)]) -> Option<T> {
    of.iter().find(|(name, _)| *name == value).map(|(_, meant)| *meant)
}

fn count(value: &str, max: u32) -> Option<u32> {
    value.parse().ok().filter(|count| *count <= max)
}

impl Script {
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        const TOKENS_MAX: u32 = 1_000_000;
        match name {
            "reply" => {
                let replies = [("echo", Reply::Echo), ("words", Reply::Words), ("stamps", Reply::Stamps)];
                self.reply = one(value, &replies)?;
            }
            "tokens" => self.tokens = Some(count(value, TOKENS_MAX)?),
            "thoughts" => self.thoughts = count(value, TOKENS_MAX)?,
            "tools" => self.tools = count(value, 100)?,
            "arguments" => self.fragment = value.parse().ok().filter(|bytes| 0 < *bytes)?,
            "finish" => {
                let reasons =
                    [("stop", Finish::Stop), ("length", Finish::Length), ("filter", Finish::Filter)];
                self.finish = one(value, &reasons)?;
            }
            "header" => self.header_ns = parse_duration(value).ok()?,
            "ttft" => self.ttft_ns = parse_duration(value).ok()?,
            "gap" => self.gap_ns = parse_duration(value).ok()?,
            "status" => self.status = value.parse().ok().filter(|status| (200..600).contains(status))?,
            "retry-after" => self.retry_after_seconds = Some(value.parse().ok()?),
            "at" => self.at = value.parse().ok()?,
            "bytes" => self.bytes = value.parse().ok()?,
            "every" => self.every = value.parse().ok().filter(|every| 0 < *every)?,
            "percent" => self.percent = value.parse().ok().filter(|percent| (1..=100).contains(percent))?,
            "split" => self.framing.split = value.parse().ok().filter(|bytes| 0 < *bytes)?,
            "fault" => self.fault = Some(one(value, &FAULTS)?),
            "then" => {
                let after = [("close", Then::Close), ("close-on-next", Then::CloseOnNext)];
                self.then = one(value, &after)?;
            }
            "usage" => self.usage = one(value, &USAGES)?,
            _ => return None,
        }
        Some(())
    }

    fn set_flag(&mut self, name: &str) -> Option<()> {
        let flag = match name {
            "interleave" => &mut self.interleave,
            "no-index" => &mut self.no_index,
            "spent" => &mut self.spent,
            "rates" => &mut self.rates,
            "role-late" => &mut self.role_late,
            "crlf" => &mut self.framing.crlf,
            "no-space" => &mut self.framing.no_space,
            "multi-line" => &mut self.framing.multi_line,
            "comments" => &mut self.framing.comments,
            "pings" => &mut self.framing.pings,
            "bom" => &mut self.framing.bom,
            "unknown" => &mut self.framing.unknown,
            _ => return None,
        };
        *flag = true;
        Some(())
    }

    /// Whether this request's status and fault are as the script says.
    pub(super) const fn is_hit(&self, number: u64) -> bool {
        number.is_multiple_of(self.every) && mix(number) % 100 < self.percent
    }

    /// Without what goes wrong: for the requests between every nth.
    pub(super) fn faultless(self) -> Self {
        Self { status: 200, fault: None, ..self }
    }
}

const USAGES: [(&str, UsageStyle); 6] = [
    ("asked", UsageStyle::Asked),
    ("always", UsageStyle::Always),
    ("never", UsageStyle::Never),
    ("with-choices", UsageStyle::WithChoices),
    ("null-choices", UsageStyle::NullChoices),
    ("no-choices", UsageStyle::NoChoices),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_script_is_read_from_any_of_its_spellings() {
        let script: Script = "ttft=200ms,tokens=50;gap=10ms+fault=cut,at=20,crlf".parse().unwrap();
        let expected = Script {
            ttft_ns: 200_000_000,
            tokens: Some(50),
            gap_ns: 10_000_000,
            fault: Some(Fault::Cut),
            at: 20,
            framing: Framing { crlf: true, ..Framing::default() },
            ..Script::default()
        };
        assert_eq!(script, expected);
        assert_eq!("".parse::<Script>().unwrap(), Script::default());
        for bad in [
            "tokens=x",
            "fault=nap",
            "speed=9",
            "ttft=5",
            "every=0",
            "percent=0",
            "status=99",
            "slow",
            "crlf=1",
        ] {
            assert!(bad.parse::<Script>().unwrap_err().to_string().contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_share_of_the_requests_is_hit() {
        let script: Script = "status=500,percent=30".parse().unwrap();
        let hit = (1..=10_000).filter(|number| script.is_hit(*number)).count();
        assert!((2_800..3_200).contains(&hit), "{hit}");
        assert!((1..=100).all(|number| Script::default().is_hit(number)));
    }

    #[test]
    fn every_option_is_explained() {
        let names = [
            "reply=",
            "tokens=",
            "thoughts=",
            "tools=",
            "arguments=",
            "finish=",
            "header=",
            "ttft=",
            "gap=",
            "status=",
            "retry-after=",
            "fault=",
            "at=",
            "bytes=",
            "every=",
            "percent=",
            "then=",
            "usage=",
            "split=",
        ];
        let flags = [
            "interleave",
            "no-index",
            "spent",
            "rates",
            "crlf",
            "no-space",
            "multi-line",
            "comments",
            "pings",
            "bom",
            "role-late",
            "unknown",
        ];
        for name in names.iter().chain(&flags) {
            assert!(HELP.contains(name), "{name}");
        }
        for flag in flags {
            assert!(flag.parse::<Script>().is_ok(), "{flag}");
        }
        for (name, fault) in FAULTS {
            assert!(HELP.contains(name), "{name}");
            assert_eq!(fault.name(), name);
        }
    }
}

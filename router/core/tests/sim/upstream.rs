//! Model actors: what the upstream does with a call, decided when the call starts and played one act at a time.
//!
//! A pause is not instant and neither is a cancel: what was on the wire still comes. An actor never looks at the shards.
use crate::dice::Dice;
use crate::weather::{Talk, Weather};
use clawgate_core::codes::Code;
use clawgate_core::event::{End, Event, Failure, Piece, Retry, Stop, Usage};
use clawgate_core::id::CallId;
use clawgate_core::plan::Model;
use std::collections::VecDeque;
use std::time::Duration;

/// One thing that an upstream says. Owns its texts; [`Act::event`] lends them.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Alive,
    Think(String),
    Say(String),
    Count(Usage),
    Finish(Stop),
    Fail { code: Code, retry: Retry, detail: String },
}

impl Act {
    pub(crate) fn event(&self, call: CallId) -> Event<'_> {
        match self {
            Self::Alive => Event::Piece { call, piece: Piece::Alive },
            Self::Think(text) => Event::Piece { call, piece: Piece::Reasoning(text) },
            Self::Say(text) => Event::Piece { call, piece: Piece::Text(text) },
            Self::Count(usage) => Event::Piece { call, piece: Piece::Usage(*usage) },
            Self::Finish(stop) => Event::Ended { call, end: End::Finished(*stop) },
            Self::Fail { code, retry, detail } => Event::Ended {
                call,
                end: End::Failed(Failure { code: *code, retry: *retry, status: 0, detail }),
            },
        }
    }

    pub(crate) const fn ends(&self) -> bool {
        matches!(self, Self::Finish(_) | Self::Fail { .. })
    }
}

/// A call as its upstream sees it.
#[derive(Debug)]
pub(crate) struct Call {
    /// What it still means to do, each after this long.
    script: VecDeque<(Duration, Act)>,
    /// It will fall silent, or go on for too long: a time-out of this call has its reason here.
    pub(crate) stalls: bool,
    /// It was told to wait.
    paused: bool,
    /// It was told to stop, or is at its end.
    pub(crate) over: bool,
    /// Acts that still come after a pause or a cancel.
    wire: u32,
    /// An act of it is in the agenda.
    pub(crate) scheduled: bool,
}

impl Call {
    /// Decides how this call will go.
    pub(crate) fn draw(
        dice: &mut Dice,
        weather: &Weather,
        model: &Model,
        reply_bytes_max: u32,
        name: &str,
    ) -> Self {
        let talk = weather.talk(dice);
        let mut author = Author { dice, model, script: VecDeque::new() };
        author.write(talk, reply_bytes_max, name);
        let silent =
            matches!(talk, Talk::SilentFirst | Talk::SilentHead | Talk::SilentMiddle | Talk::Endless);
        let length: Duration = author.script.iter().map(|(after, _)| *after).sum();
        let stalls = silent || model.call_age_max < length;
        Self { script: author.script, stalls, paused: false, over: false, wire: 0, scheduled: false }
    }

    /// How long until its next act, if it is about to act.
    pub(crate) fn next_after(&self) -> Option<Duration> {
        let held = (self.paused || self.over) && self.wire == 0;
        if held { None } else { self.script.front().map(|(after, _)| *after) }
    }

    /// What it does.
    pub(crate) fn act(&mut self) -> Option<Act> {
        if self.paused || self.over {
            self.wire = self.wire.checked_sub(1)?;
        }
        let (_, act) = self.script.pop_front()?;
        if act.ends() {
            self.over = true;
        }
        Some(act)
    }

    /// Its script is played.
    pub(crate) fn spent(&self) -> bool {
        self.script.is_empty() || (self.over && self.wire == 0)
    }

    pub(crate) const fn pause(&mut self, wire: u32) {
        self.paused = true;
        self.wire = wire;
    }

    pub(crate) const fn resume(&mut self) {
        self.paused = false;
    }

    /// Stop; this many acts are already on their way.
    pub(crate) const fn cancel(&mut self, wire: u32) {
        self.over = true;
        self.wire = wire;
    }
}

/// Writes a script.
struct Author<'a> {
    dice: &'a mut Dice,
    model: &'a Model,
    script: VecDeque<(Duration, Act)>,
}

impl Author<'_> {
    fn write(&mut self, talk: Talk, reply_bytes_max: u32, name: &str) {
        match talk {
            Talk::Good => {
                self.head();
                self.say(name, 30);
                self.finish();
            }
            Talk::Slow => {
                self.head();
                self.say(name, 75);
                self.finish();
            }
            Talk::Empty => {
                self.head();
                self.finish();
            }
            Talk::Long => {
                self.head();
                self.long(reply_bytes_max, name);
                self.finish();
            }
            Talk::Endless => {
                self.head();
                self.endless(name);
            }
            Talk::FailFirst => {
                if self.dice.chance(400) {
                    self.add_within(self.model.header_age_max, 50, Act::Alive);
                }
                self.fail();
            }
            Talk::FailMiddle => {
                self.head();
                self.say(name, 30);
                self.cut();
                self.fail();
            }
            Talk::SilentFirst => {}
            Talk::SilentHead => self.add_within(self.model.header_age_max, 50, Act::Alive),
            Talk::SilentMiddle => {
                self.head();
                self.say(name, 30);
                self.cut();
            }
        }
    }

    /// An act after at most this share of a limit.
    fn add_within(&mut self, limit: Duration, per_cent: u64, act: Act) {
        let most = (limit.as_millis() as u64 * per_cent / 100).max(1);
        let after = Duration::from_micros(self.dice.between(100, most * 1000));
        self.script.push_back((after, act));
    }

    /// Up to, and without, the first word.
    fn head(&mut self) {
        if self.dice.chance(500) {
            self.add_within(self.model.header_age_max, 60, Act::Alive);
        }
        for _ in 0..self.dice.below(3) {
            let thought = format!("hm{}", self.dice.below(100));
            self.add_within(self.model.silence_max.min(self.model.header_age_max), 40, Act::Think(thought));
        }
    }

    /// An answer, torn into pieces at any characters.
    fn say(&mut self, name: &str, per_cent: u64) {
        let answer = answer(self.dice, name);
        let within =
            self.model.silence_max.min(self.model.header_age_max).min(self.model.first_piece_age_max);
        let mut rest = answer.as_str();
        let largest = if per_cent > 50 { 12 } else { self.dice.between(4, 160) };
        while !rest.is_empty() {
            let mut at = (self.dice.between(0, largest) as usize).min(rest.len());
            while !rest.is_char_boundary(at) {
                at += 1;
            }
            let (piece, after) = rest.split_at(at);
            // An empty piece is no word: it must not use up the time in which one is due.
            let pace = if piece.is_empty() { 3 } else { per_cent };
            self.add_within(within, pace, Act::Say(piece.to_owned()));
            rest = after;
            if self.dice.chance(60) {
                let usage = Usage {
                    prompt: self.dice.below(90) as u32,
                    completion: self.dice.below(90) as u32,
                    estimated: false,
                };
                self.add_within(within, 3, Act::Count(usage));
            }
            if self.dice.chance(60) {
                self.add_within(within, 10, Act::Think("so".to_owned()));
            }
        }
    }

    fn long(&mut self, reply_bytes_max: u32, name: &str) {
        let mut total = 0;
        while total <= reply_bytes_max as usize + 200 {
            let part = format!("{name} says a lot. ").repeat(self.dice.between(20, 80) as usize);
            total += part.len();
            self.add_within(self.model.silence_max.min(self.model.header_age_max), 5, Act::Say(part));
        }
    }

    /// Pieces at a tolerated pace until long after the call is too old.
    fn endless(&mut self, name: &str) {
        let pace =
            self.model.silence_max.min(self.model.header_age_max).min(self.model.first_piece_age_max) / 2;
        let pieces = self.model.call_age_max.as_millis() / pace.as_millis().max(1) + 4;
        for n in 0..pieces {
            self.script.push_back((pace, Act::Say(format!("{name}{n} "))));
        }
    }

    /// Takes away some of what was to be said last.
    fn cut(&mut self) {
        let keep = self.dice.index(self.script.len() + 1);
        self.script.truncate(keep);
    }

    fn finish(&mut self) {
        if self.dice.chance(600) {
            let usage = Usage {
                prompt: self.dice.between(1, 900) as u32,
                completion: self.dice.between(1, 900) as u32,
                estimated: false,
            };
            self.add_within(self.model.silence_max.min(self.model.header_age_max), 5, Act::Count(usage));
        }
        let stop =
            *self.dice.pick(&[Stop::Complete, Stop::Complete, Stop::Complete, Stop::Length, Stop::Filtered]);
        self.add_within(self.model.silence_max.min(self.model.header_age_max), 10, Act::Finish(stop));
        self.echo();
    }

    fn fail(&mut self) {
        let retry = match self.dice.below(10) {
            0..=3 => Retry::Backoff,
            4 => Retry::AtOnce,
            5 | 6 => Retry::After(*self.dice.pick(&[
                Duration::ZERO,
                Duration::from_millis(700),
                Duration::from_secs(7),
                Duration::from_secs(3600),
            ])),
            7 | 8 => Retry::Elsewhere,
            _ => Retry::Never,
        };
        let code = match retry {
            Retry::After(_) => Code::UpstreamRateLimited,
            Retry::Backoff | Retry::AtOnce | Retry::Elsewhere | Retry::Never => {
                *self.dice.pick(&[Code::UpstreamFailed, Code::UpstreamTruncated, Code::UpstreamMalformed])
            }
        };
        let detail =
            if self.dice.chance(500) { String::new() } else { format!("fault {}", self.dice.below(1000)) };
        self.add_within(
            self.model.silence_max.min(self.model.header_age_max),
            20,
            Act::Fail { code, retry, detail },
        );
        self.echo();
    }

    /// What an upstream may still say when it has no more to say; it comes only if the call is told to echo.
    fn echo(&mut self) {
        for _ in 0..3 {
            let act = match self.dice.below(4) {
                0 => Act::Alive,
                1 => Act::Finish(Stop::Complete),
                2 => Act::Fail { code: Code::UpstreamFailed, retry: Retry::Backoff, detail: String::new() },
                _ => Act::Say("an echo".to_owned()),
            };
            self.script.push_back((self.dice.millis(0, 4000), act));
        }
    }
}

/// What a model answers: words, sentences, paragraphs, code, and the characters that are easily torn.
fn answer(dice: &mut Dice, name: &str) -> String {
    const BITS: [&str; 16] = [
        "so ",
        "it is. ",
        "And ",
        "é",
        "e\u{301}",
        "日本語",
        "👩\u{200d}👩\u{200d}👧",
        "🇩🇪",
        "\n",
        "\n\n",
        "wait! ",
        "why? ",
        "- item\n",
        "a-rather-long-word-without-any-space ",
        "👍🏽",
        "… ",
    ];
    let mut text = format!("{name} ");
    for _ in 0..dice.below(24) {
        text.push_str(dice.pick::<&str>(&BITS));
    }
    if dice.chance(80) {
        text.push_str("\n```rust\n");
        for n in 0..dice.below(12) {
            text.push_str(&format!("let x{n} = {n};\n"));
        }
        text.push_str("```\n");
        text.push_str(dice.pick::<&str>(&BITS));
    }
    text
}

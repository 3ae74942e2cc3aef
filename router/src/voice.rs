//! Who hears what a model says: the shard as pieces of an answer, or, where the turn is a whole request of a model's
//! client, that client in its own format. Owns the reply to such a request, on the side of the model's call.
//!
//! A request that came through one of the doors (`api/models`) stays as it was written: it is the turn's text, and is read
//! again for each call. What the model answers is written in the client's format here and passes the shard as opaque text,
//! so that order, back-pressure, retries and limits are those of any other turn.
use crate::clock::unix_seconds;
use crate::execute::heard;
use crate::tools::hearing::Hearing;
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Content, Event, Failure, Piece, Retry};
use clawgate_core::id::CallId;
use clawgate_core::view::Prompt;
use clawgate_providers::answer::Answer;
use clawgate_providers::door;
use clawgate_providers::raw::Text;
use clawgate_providers::reply::{Reply, Title};
use clawgate_providers::request::{Message, Part, Request, Role};
use clawgate_providers::said::Counts;
use clawgate_providers::{End, Kind, Said};
use std::borrow::Cow;

/// Characters of a token, where a provider does not count.
const CHARS_PER_TOKEN: usize = 4;

/// The doors, in the numbers of [`Content`]; 0 is what people write.
const DOORS: [Kind; 3] = [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic];

/// The content of a request that came through a door.
pub(crate) fn content_of(kind: Kind) -> Content {
    let at = DOORS.iter().position(|door| *door == kind).unwrap_or(0);
    Content(u8::try_from(at + 1).unwrap_or(1))
}

/// The door through which a turn came; `None` for what somebody wrote.
pub(crate) fn door_of(content: Content) -> Option<Kind> {
    usize::from(content.0).checked_sub(1).and_then(|at| DOORS.get(at)).copied()
}

/// A whole request, read again from its turn.
///
/// # Errors
/// It was read before, so this is a bug of ours: told in words.
pub(crate) fn request_of<'a>(
    prompt: &Prompt<'a>,
    kind: Kind,
    system: &'a str,
) -> Result<Request<'a>, String> {
    let mut request = door::read(kind, prompt.text.as_bytes()).map_err(|refusal| refusal.message)?;
    request.beta = prompt.name;
    if !system.is_empty() {
        // What the agent is told comes before what the client tells it.
        let from = request.parts.len();
        request.parts.push(Part::Text(Text::Plain(Cow::Borrowed(system))));
        request.messages.insert(0, Message { role: Role::System, from, to: from + 1, raw: None });
    }
    Ok(request)
}

/// Who hears a call.
pub(crate) enum Voice {
    /// The shard: somebody wrote the message, and reads the answer.
    Words,
    /// The client of a door.
    Door(Box<Spoken>),
    /// The shard, and the tools that the model calls.
    Tools(Box<Hearing>),
}

/// The reply to a whole request.
pub(crate) struct Spoken {
    reply: Reply,
    /// The answer so far, for a client that wants it whole.
    whole: Option<Answer>,
    out: Vec<u8>,
    counts: Option<Counts>,
    /// Characters of the prompt and of what was said, for an estimate.
    prompt_chars: usize,
    said_chars: usize,
    over: bool,
}

impl Voice {
    /// The client of a whole request; `bytes_max` of its answer are held at most. `nonce` names the reply.
    pub(crate) fn of_request(request: &Request<'_>, nonce: u64, bytes_max: usize) -> Self {
        let id = format!("{nonce:016x}");
        let model = request.model.plain();
        let title = Title { id: &id, created: unix_seconds(), model: &model };
        Self::Door(Box::new(Spoken {
            reply: Reply::new(request.source.unwrap_or(Kind::OpenAiChat), &title, request, bytes_max),
            whole: (!request.stream).then(|| Answer::new(bytes_max)),
            out: Vec::new(),
            counts: None,
            prompt_chars: chars_of(request),
            said_chars: 0,
            over: false,
        }))
    }

    /// Characters of a whole request; `None` for what somebody wrote.
    pub(crate) fn prompt_chars(&self) -> Option<u64> {
        match self {
            Self::Words | Self::Tools(_) => None,
            Self::Door(spoken) => Some(spoken.prompt_chars as u64),
        }
    }

    /// Passes on what was said. False once nothing more is wanted: the call can be given up.
    pub(crate) fn hear(&mut self, call: CallId, said: Said<'_>, each: &mut dyn FnMut(Event<'_>)) -> bool {
        match self {
            Self::Words => {
                let goes_on = !matches!(said, Said::Ended(_));
                each(heard(call, said));
                goes_on
            }
            Self::Door(spoken) => {
                if !spoken.over {
                    spoken.hear(call, said, each);
                }
                !spoken.over
            }
            Self::Tools(hearing) => hearing.hear(call, said, each),
        }
    }

    /// May a call that failed be tried again?
    pub(crate) fn retry(&self, retry: Retry) -> Retry {
        match self {
            Self::Words | Self::Door(_) => retry,
            Self::Tools(hearing) => hearing.retry(retry),
        }
    }
}

impl Spoken {
    fn hear(&mut self, call: CallId, said: Said<'_>, each: &mut dyn FnMut(Event<'_>)) {
        self.over = matches!(said, Said::Ended(_));
        match said {
            Said::Ended(End::Failed(failure)) => {
                return each(Event::Ended { call, end: event::End::Failed(failure) });
            }
            Said::Piece(Piece::Alive) => return each(Event::Piece { call, piece: Piece::Alive }),
            Said::Usage(counts) => self.counts = Some(counts),
            Said::Piece(Piece::Text(text) | Piece::Reasoning(text)) => {
                self.said_chars += text.chars().count()
            }
            Said::Piece(Piece::Usage(_))
            | Said::Call(_)
            | Said::Thought(_)
            | Said::Ended(End::Finished(_)) => {}
        }
        let mut written = Ok(());
        if self.over {
            let counts = self.counts();
            written = self.write(&Said::Usage(counts));
            each(Event::Piece { call, piece: Piece::Usage(counts.into()) });
        }
        if let Err(code) = written.and_then(|()| self.write(&said)) {
            self.over = true;
            let failure = Failure { code, retry: Retry::Never, status: 0, detail: "" };
            return each(Event::Ended { call, end: event::End::Failed(failure) });
        }
        let text = std::str::from_utf8(&self.out).unwrap_or_default();
        let piece = match said {
            _ if !text.is_empty() => Piece::Text(text),
            // Counts may come before anything is said: they do not end the wait for it.
            Said::Usage(_) => Piece::Alive,
            // What shows nothing yet is heard all the same: the model speaks.
            Said::Piece(_) | Said::Call(_) | Said::Thought(_) | Said::Ended(_) => Piece::Reasoning(""),
        };
        each(Event::Piece { call, piece });
        self.out.clear();
        if let Said::Ended(end) = said {
            each(Event::Ended { call, end: end.into() });
        }
    }

    /// Appends to what is owed to the client.
    fn write(&mut self, said: &Said<'_>) -> Result<(), Code> {
        let ends = matches!(said, Said::Ended(_));
        let Some(answer) = &mut self.whole else {
            self.reply.write(said, &mut self.out);
            return if self.reply.is_ended() == ends { Ok(()) } else { Err(Code::ReplyTooLong) };
        };
        answer.push(said).map_err(|_| Code::ReplyTooLong)?;
        if ends && !self.reply.write_whole(answer, &mut self.out) {
            return Err(Code::UpstreamMalformed);
        }
        Ok(())
    }

    /// What the provider counted, or our estimate.
    fn counts(&self) -> Counts {
        let tokens = |chars: usize| u32::try_from(chars.div_ceil(CHARS_PER_TOKEN)).unwrap_or(u32::MAX);
        self.counts.unwrap_or_else(|| Counts {
            prompt: tokens(self.prompt_chars),
            completion: tokens(self.said_chars),
            estimated: true,
            ..Counts::default()
        })
    }
}

/// Characters of what a request says.
pub(crate) fn chars_of(request: &Request<'_>) -> usize {
    let chars = |part: &Part<'_>| match part {
        Part::Text(text) | Part::Refusal(text) | Part::Reasoning { text, .. } => text.plain().chars().count(),
        Part::Call { name, arguments, .. } => {
            name.plain().chars().count() + arguments.plain().chars().count()
        }
        // What an image costs, its provider knows alone.
        Part::Image(_) | Part::Result { .. } => 0,
    };
    request.parts.iter().map(chars).sum()
}

//! What can be asked of the store, and how a backend's few primitives answer it: filters and pages are the same
//! over all of them, and no page looks at more than a bounded number of rows.
use super::backend::{Backend, Trouble};
use super::row::{CursorRow, DeadLetter, Key, Mark, Said, SessionRow, State};
use clawgate_core::event::Scope;

/// Rows that a page may look at: a filter that little fits ends a page early, with the cursor to go on from.
const LOOKED_AT_MAX: usize = 10_000;
/// Rows that a backend is asked for at once.
const FETCH: usize = 500;
/// Rows of a page, whatever was asked for.
pub(crate) const PAGE_MAX: usize = 1_000;
/// Marks of a page, whatever was asked for.
pub(crate) const MARKS_MAX: usize = 65_536;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// A session and the newest of what was said in it, as far as both bounds let.
    Load { key: Key, messages_max: usize, bytes_max: usize },
    /// Sessions in the order of their keys, from after this one on.
    Sessions { filter: SessionFilter, after: Option<Key>, limit: usize },
    /// Dead letters in the order of their uids, from after this one on.
    DeadLetters { filter: LetterFilter, after: Option<u64>, limit: usize },
    /// One of them.
    DeadLetter { uid: u64 },
    /// All cursors.
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody polls yet"))]
    Cursors,
    /// Marks of messages seen since this time, from after this place on, the newest day first: to fill memory with.
    SeenSince { unix_millis: u64, after: Option<MarkPlace>, limit: usize },
    /// When this was seen last, if it was, on the day of that time or later.
    WasSeen { mark: Mark, since_millis: u64 },
    /// The latest of the gateway's own names that it was ever told.
    LastUid,
    /// Archives sessions that nobody spoke in since `before`, the idle for longest first, at most so many.
    Expire { before_millis: u64, sessions_max: usize },
    /// Drops the marks of all whole days before this time.
    ForgetSeen { before_millis: u64 },
}

/// Which sessions are meant; what is left out admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionFilter {
    pub(crate) channel: Option<String>,
    /// The one that an operator gave it.
    pub(crate) agent: Option<String>,
    pub(crate) state: Option<State>,
    /// What the party begins with.
    pub(crate) party: String,
    /// The peer of direct sessions; with a `channel`, only theirs are looked at.
    pub(crate) owner: Option<String>,
    /// Somebody spoke at this time or later, milliseconds since 1970.
    pub(crate) active_from: u64,
    /// Nobody spoke since this time, milliseconds since 1970.
    pub(crate) active_before: Option<u64>,
}

impl SessionFilter {
    pub(super) fn admits(&self, row: &SessionRow) -> bool {
        let owned = |owner: &String| row.scope == Scope::Direct && *owner == row.party;
        self.owner.as_ref().is_none_or(owned)
            && self.active_from <= row.active_millis
            && self.active_before.is_none_or(|before| row.active_millis < before)
            && self.channel.as_ref().is_none_or(|channel| *channel == row.channel)
            && (self.agent.is_none() || self.agent == row.agent)
            && self.state.is_none_or(|state| state == row.state)
            && row.party.starts_with(&self.party)
    }

    /// What the keys of all that it admits begin with.
    fn prefix(&self) -> String {
        match (&self.channel, &self.owner) {
            (None, _) => String::new(),
            (Some(channel), None) => Key::prefix(channel),
            (Some(channel), Some(owner)) => Key::new(channel, Scope::Direct, owner, "").as_str().to_owned(),
        }
    }
}

/// Which dead letters are meant; what is left out admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LetterFilter {
    pub(crate) channel: Option<String>,
    /// The session that it belongs to.
    pub(crate) key: Option<Key>,
    /// The name of the public error code.
    pub(crate) code: Option<String>,
}

impl LetterFilter {
    fn admits(&self, letter: &DeadLetter) -> bool {
        self.channel.as_ref().is_none_or(|channel| *channel == letter.channel)
            && self.key.as_ref().is_none_or(|key| *key == letter.key())
            && self.code.as_ref().is_none_or(|code| *code == letter.code)
    }
}

/// Where a page of marks ended: a day, and a backend's own place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkPlace {
    pub(super) day: u64,
    pub(super) mark: Mark,
}

impl MarkPlace {
    /// Marks that were seen from this time on stand before it, milliseconds since 1970.
    pub(crate) fn is_whole_from(&self) -> u64 {
        super::row::millis_of(self.day.saturating_add(1), 0)
    }
}

/// A session and what was said in it, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) session: SessionRow,
    pub(crate) history: Vec<Said>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Loaded(Option<Box<Loaded>>),
    /// `next`: where the next page begins; `None` after the last.
    Sessions {
        rows: Vec<SessionRow>,
        next: Option<Key>,
    },
    DeadLetters {
        rows: Vec<DeadLetter>,
        next: Option<u64>,
    },
    DeadLetter(Option<Box<DeadLetter>>),
    Cursors(Vec<CursorRow>),
    /// Marks with the time when they were seen, milliseconds since 1970.
    Seen {
        marks: Vec<(Mark, u64)>,
        next: Option<MarkPlace>,
    },
    WasSeen(Option<u64>),
    LastUid(u64),
    /// `more`: there may be more that are as old.
    Expired {
        sessions: usize,
        more: bool,
    },
    /// So many days were dropped.
    ForgotSeen {
        days: usize,
    },
}

/// Asks the backend, as often as the question takes.
pub(super) async fn answer<B: Backend>(backend: &mut B, query: &Query) -> Result<Answer, Trouble> {
    match query {
        Query::Load { key, messages_max, bytes_max } => backend
            .load(key, *messages_max, *bytes_max)
            .await
            .map(|loaded| Answer::Loaded(loaded.map(Box::new))),
        Query::Sessions { filter, after, limit } => sessions(backend, filter, after.as_ref(), *limit).await,
        Query::DeadLetters { filter, after, limit } => letters(backend, filter, *after, *limit).await,
        Query::DeadLetter { uid } => {
            backend.letter(*uid).await.map(|letter| Answer::DeadLetter(letter.map(Box::new)))
        }
        Query::Cursors => backend.cursors().await.map(Answer::Cursors),
        Query::SeenSince { unix_millis, after, limit } => seen(backend, *unix_millis, *after, *limit).await,
        Query::WasSeen { mark, since_millis } => {
            let (first_day, _) = super::row::day_of(*since_millis);
            backend.was_seen(mark, first_day).await.map(Answer::WasSeen)
        }
        Query::LastUid => backend.last_uid().await.map(Answer::LastUid),
        Query::Expire { .. } | Query::ForgetSeen { .. } => {
            Err(Trouble::Refused("this changes the store: the line that writes does it".to_owned()))
        }
    }
}

async fn sessions<B: Backend>(
    backend: &mut B,
    filter: &SessionFilter,
    after: Option<&Key>,
    limit: usize,
) -> Result<Answer, Trouble> {
    let limit = limit.clamp(1, PAGE_MAX);
    let prefix = filter.prefix();
    let mut at = after.map_or("", Key::as_str).max(&prefix).to_owned();
    let mut rows = Vec::new();
    let mut looked_at = 0;
    while looked_at < LOOKED_AT_MAX {
        let fetched = backend.sessions(&at, FETCH).await?;
        let last = fetched.len() < FETCH;
        for (key, row) in fetched {
            if !key.as_str().starts_with(&prefix) {
                return Ok(Answer::Sessions { rows, next: None });
            }
            looked_at += 1;
            at.clear();
            at.push_str(key.as_str());
            rows.extend(row.filter(|row| filter.admits(row)));
            if rows.len() == limit {
                return Ok(Answer::Sessions { rows, next: Some(key) });
            }
        }
        if last {
            return Ok(Answer::Sessions { rows, next: None });
        }
    }
    Ok(Answer::Sessions { rows, next: Some(Key::stored(&at)) })
}

async fn letters<B: Backend>(
    backend: &mut B,
    filter: &LetterFilter,
    after: Option<u64>,
    limit: usize,
) -> Result<Answer, Trouble> {
    let limit = limit.clamp(1, PAGE_MAX);
    let mut after = after;
    let mut rows = Vec::new();
    let mut looked_at = 0;
    while looked_at < LOOKED_AT_MAX {
        // Dead letters hold whole messages: fewer at once.
        let fetched = backend.letters(after, FETCH / 10).await?;
        let last = fetched.len() < FETCH / 10;
        for (uid, letter) in fetched {
            looked_at += 1;
            after = Some(uid);
            rows.extend(letter.filter(|letter| filter.admits(letter)));
            if rows.len() == limit {
                return Ok(Answer::DeadLetters { rows, next: after });
            }
        }
        if last {
            return Ok(Answer::DeadLetters { rows, next: None });
        }
    }
    Ok(Answer::DeadLetters { rows, next: after })
}

async fn seen<B: Backend>(
    backend: &mut B,
    since: u64,
    after: Option<MarkPlace>,
    limit: usize,
) -> Result<Answer, Trouble> {
    let limit = limit.clamp(1, MARKS_MAX);
    let (first, _) = super::row::day_of(since);
    let mut days = backend.seen_days().await?;
    days.retain(|day| first <= *day && after.is_none_or(|after| *day <= after.day));
    days.sort_unstable_by(|one, other| other.cmp(one));
    let mut marks = Vec::new();
    for day in days {
        let mut mark = after.filter(|after| after.day == day).map(|after| after.mark);
        loop {
            let (found, next) = backend.seen(day, mark, limit - marks.len()).await?;
            let of_day = found.into_iter().map(|(mark, at)| (mark, super::row::millis_of(day, at)));
            marks.extend(of_day.filter(|(_, at)| since <= *at));
            match next {
                Some(next) if limit <= marks.len() => {
                    return Ok(Answer::Seen { marks, next: Some(MarkPlace { day, mark: next }) });
                }
                Some(next) => mark = Some(next),
                None => break,
            }
        }
        if limit <= marks.len() {
            return Ok(Answer::Seen { marks, next: Some(MarkPlace { day, mark: [0xff; 16] }) });
        }
    }
    Ok(Answer::Seen { marks, next: None })
}

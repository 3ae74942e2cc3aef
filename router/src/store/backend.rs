//! What a database must be able to do for us, and how it fails. Filters, pages, batches, archives and patience are not
//! its business: they are the same over all of them.
use super::query::Loaded;
use super::row::{CursorRow, DeadLetter, Key, Mark, Op, SessionRow};

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It cannot be reached, or cannot write, for now: it is tried again.
    Down(String),
    /// It did not answer in time.
    Late(String),
    /// It is not ours to use: another program's, or of a newer gateway. Trying again does not help.
    Foreign(String),
    /// What it holds cannot be read any more.
    Damaged(String),
    /// It can never hold this.
    Refused(String),
}

impl Trouble {
    /// The words for people.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Down(text)
            | Self::Late(text)
            | Self::Foreign(text)
            | Self::Damaged(text)
            | Self::Refused(text) => text,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// A page of marks with their milliseconds of the day, and the place to go on from; `None` after the last.
pub(super) type MarkPage = (Vec<(Mark, u32)>, Option<Mark>);

/// One line to a database: it does one thing after the other. It need not be `Send`: it lives where it was opened.
pub(super) trait Backend: Sized + 'static {
    /// Where the database is, and how it is used.
    type Place: Clone + Send + 'static;

    /// Connects; makes the tables, or brings them to this version, if this is the line that writes.
    async fn open(place: &Self::Place, writes: bool) -> Result<Self, Trouble>;

    /// Carries out all of it, in order, or nothing. When it returns, it is as durable as the database makes things.
    /// What was carried out before changes nothing, so that what has an unknown end is simply done again.
    async fn apply(&mut self, ops: &[Op]) -> Result<(), Trouble>;

    /// A session and its newest rows within both bounds, oldest first. A row that has no room ends it.
    async fn load(
        &mut self,
        key: &Key,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Loaded>, Trouble>;

    /// Sessions after this key in the order of bytes. `None` for a row that cannot be read.
    async fn sessions(
        &mut self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(Key, Option<SessionRow>)>, Trouble>;

    /// The keys of those that nobody spoke in since then, the idle for longest first, with their revisions: 0 for one
    /// that has rows and no session.
    async fn idle(&mut self, before_millis: u64, limit: usize) -> Result<Vec<(Key, u64)>, Trouble>;

    /// Dead letters after this uid. `None` for a row that cannot be read.
    async fn letters(
        &mut self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Option<DeadLetter>)>, Trouble>;

    /// One dead letter.
    async fn letter(&mut self, uid: u64) -> Result<Option<DeadLetter>, Trouble>;

    /// All cursors, by channel.
    async fn cursors(&mut self) -> Result<Vec<CursorRow>, Trouble>;

    /// The days that have marks, in any order.
    async fn seen_days(&mut self) -> Result<Vec<u64>, Trouble>;

    /// Marks of a day after this one, about so many, and where to go on.
    async fn seen(&mut self, day: u64, after: Option<Mark>, limit: usize) -> Result<MarkPage, Trouble>;

    /// When this was seen last, on this day since 1970 or later, milliseconds since 1970.
    async fn was_seen(&mut self, mark: &Mark, first_day: u64) -> Result<Option<u64>, Trouble>;

    /// The latest name of a turn, or of a change of a session, that it was ever told; 0 for none.
    async fn last_uid(&mut self) -> Result<u64, Trouble>;

    /// Drops a day of marks whole.
    async fn forget_day(&mut self, day: u64) -> Result<(), Trouble>;
}

/// What a session may hold in the store: beyond, the oldest rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Messages of one session.
    pub(crate) messages_max: usize,
    /// Bytes of their texts.
    pub(crate) bytes_max: usize,
}

/// A session is trimmed each time that it has so many messages more.
const TRIM_EVERY: u64 = 32;

impl Keep {
    /// Is it time to look whether this session holds too much?
    pub(super) fn is_due(row: &SessionRow) -> bool {
        row.messages.is_multiple_of(TRIM_EVERY)
    }
}

/// The rows of which this many bytes are to be kept, newest first: how many fit both bounds.
pub(super) fn fitting(lengths: impl Iterator<Item = usize>, messages_max: usize, bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    lengths
        .take(messages_max)
        .take_while(|length| {
            bytes = bytes.saturating_add(*length);
            bytes <= bytes_max
        })
        .count()
}

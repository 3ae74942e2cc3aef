//! The six stages of a message, in order, named once.

/// A stage that a message passes. Counted per shard; the shell times them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    /// The platform's bytes became an [`crate::event::Inbound`].
    Ingest,
    /// It is new, and policy lets it in.
    Validate,
    /// Its session was found or made.
    Enrich,
    /// Its agent was chosen.
    Route,
    /// A call to the agent's model was started.
    Dispatch,
    /// The answer was finished, or the failure was told.
    Respond,
}

impl Stage {
    /// All stages in the order in which a message passes them.
    pub const ALL: [Self; 6] =
        [Self::Ingest, Self::Validate, Self::Enrich, Self::Route, Self::Dispatch, Self::Respond];

    /// The name in metrics, logs and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Validate => "validate",
            Self::Enrich => "enrich",
            Self::Route => "route",
            Self::Dispatch => "dispatch",
            Self::Respond => "respond",
        }
    }
}

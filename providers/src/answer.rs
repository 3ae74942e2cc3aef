//! An answer put together from what was said: for clients that want it whole, and for the next round of a tool loop.
//!
//! Owns which words belong together. Bounded: what is more than an answer may have is refused, and nothing of it kept.
use crate::raw::Text;
use crate::request::{Part, Proof};
use crate::said::{CallPart, Counts, End, Said, Stop, Thought};
use clawgate_core::event::Piece;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Text.
    Text(String),
    /// What the model thought.
    Reasoning {
        /// As people may read it.
        text: String,
        /// What its provider wants to have back with it.
        proof: Proof<'static>,
    },
    /// A call of a tool.
    Call {
        /// Which one of the answer.
        index: u32,
        /// Its id.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments: JSON, or nothing.
        arguments: String,
    },
}

/// What ended an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Why {
    #[default]
    Open,
    Stop(Stop<'static>),
    Sequence(String),
}

/// An answer as far as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its parts, in the order in which they began.
    pub blocks: Vec<Block>,
    /// What it cost.
    pub usage: Counts,
    why: Why,
    bytes: usize,
    bytes_max: usize,
}

/// The answer is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// What a part costs beside its texts.
const BLOCK_BYTES: usize = size_of::<Block>();

impl Answer {
    /// An answer that is to come, of so many bytes at most.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Why the model stopped; `None` if it has not, or failed.
    #[must_use]
    pub fn stop(&self) -> Option<Stop<'_>> {
        match &self.why {
            Why::Open => None,
            Why::Stop(stop) => Some(*stop),
            Why::Sequence(text) => Some(Stop::Sequence(text)),
        }
    }

    /// Takes what was said.
    ///
    /// # Errors
    /// It would be too large.
    pub fn push(&mut self, said: &Said<'_>) -> Result<(), TooLarge> {
        match said {
            Said::Piece(Piece::Text(text)) => {
                if !matches!(self.blocks.last(), Some(Block::Text(_))) {
                    self.begin(Block::Text(String::new()))?;
                }
                self.take(text)?;
                if let Some(Block::Text(block)) = self.blocks.last_mut() {
                    block.push_str(text);
                }
            }
            Said::Piece(Piece::Reasoning(text)) => {
                if !matches!(self.blocks.last(), Some(Block::Reasoning { proof: Proof::None, .. })) {
                    self.begin(Block::Reasoning { text: String::new(), proof: Proof::None })?;
                }
                self.take(text)?;
                if let Some(Block::Reasoning { text: block, .. }) = self.blocks.last_mut() {
                    block.push_str(text);
                }
            }
            Said::Piece(Piece::Alive | Piece::Usage(_)) => {}
            Said::Usage(counts) => self.usage = *counts,
            Said::Call(part) => self.on_call(part)?,
            Said::Thought(thought) => self.on_thought(thought)?,
            Said::Ended(End::Finished(Stop::Sequence(text))) => self.why = Why::Sequence((*text).to_owned()),
            Said::Ended(End::Finished(stop)) => self.why = Why::Stop(plain(*stop)),
            Said::Ended(End::Failed(_)) => {}
        }
        Ok(())
    }

    fn take(&mut self, text: &str) -> Result<(), TooLarge> {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes_max < self.bytes { Err(TooLarge) } else { Ok(()) }
    }

    fn begin(&mut self, block: Block) -> Result<(), TooLarge> {
        self.bytes = self.bytes.saturating_add(BLOCK_BYTES);
        if self.bytes_max < self.bytes {
            return Err(TooLarge);
        }
        self.blocks.push(block);
        Ok(())
    }

    fn on_call(&mut self, part: &CallPart<'_>) -> Result<(), TooLarge> {
        match *part {
            CallPart::Begin { index, id, name } => {
                self.take(id)?;
                self.take(name)?;
                let (id, name) = (id.to_owned(), name.to_owned());
                self.begin(Block::Call { index, id, name, arguments: String::new() })
            }
            CallPart::Arguments { index: wanted, text } => {
                self.take(text)?;
                let arguments = self.blocks.iter_mut().rev().find_map(|block| match block {
                    Block::Call { index, arguments, .. } if *index == wanted => Some(arguments),
                    Block::Text(_) | Block::Reasoning { .. } | Block::Call { .. } => None,
                });
                arguments.into_iter().for_each(|arguments| arguments.push_str(text));
                Ok(())
            }
            CallPart::End { .. } => Ok(()),
        }
    }

    fn on_thought(&mut self, thought: &Thought<'_>) -> Result<(), TooLarge> {
        let owned = |text: &str| Text::from(text.to_owned());
        let proof = match *thought {
            Thought::Redacted(data) => {
                self.take(data)?;
                let proof = Proof::Redacted(owned(data));
                return self.begin(Block::Reasoning { text: String::new(), proof });
            }
            Thought::Signature(signature) => {
                self.take(signature)?;
                Proof::Signature(owned(signature))
            }
            Thought::Item { id, encrypted } => {
                self.take(id)?;
                self.take(encrypted)?;
                Proof::Item { id: owned(id), encrypted: owned(encrypted) }
            }
        };
        match self.blocks.last_mut() {
            Some(Block::Reasoning { proof: place @ Proof::None, .. }) => {
                *place = proof;
                Ok(())
            }
            _ => self.begin(Block::Reasoning { text: String::new(), proof }),
        }
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self
            .blocks
            .iter()
            .filter_map(|block| if let Block::Text(text) = block { Some(text) } else { None });
        texts.map(String::as_str).collect()
    }

    /// Its tool calls: index, id, name and arguments.
    pub fn calls(&self) -> impl Iterator<Item = (u32, &str, &str, &str)> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Call { index, id, name, arguments } => {
                Some((*index, id.as_str(), name.as_str(), arguments.as_str()))
            }
            Block::Text(_) | Block::Reasoning { .. } => None,
        })
    }

    /// As the parts of a message: what the next request says of it.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.blocks.iter().map(|block| match block {
            Block::Text(text) => Part::Text(text.as_str().into()),
            Block::Reasoning { text, proof } => {
                Part::Reasoning { text: text.as_str().into(), proof: proof.clone() }
            }
            Block::Call { id, name, arguments, .. } => Part::Call {
                id: id.as_str().into(),
                name: name.as_str().into(),
                arguments: arguments.as_str().into(),
            },
        })
    }
}

const fn plain(stop: Stop<'_>) -> Stop<'static> {
    match stop {
        Stop::Complete | Stop::Sequence(_) => Stop::Complete,
        Stop::Length => Stop::Length,
        Stop::Filtered => Stop::Filtered,
        Stop::ToolCalls => Stop::ToolCalls,
    }
}

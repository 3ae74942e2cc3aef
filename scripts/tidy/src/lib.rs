//! The rules of the tree. Each is a function from the tree to its findings, tried on a planted breach beside it and
//! on the real tree in `tests/tree.rs`. Nothing here changes a file or needs the network.
#![forbid(unsafe_code)]

pub mod bans;
pub mod documents;
pub mod edges;
pub mod finding;
pub mod layout;
pub mod sizes;
pub mod source;
pub mod tree;

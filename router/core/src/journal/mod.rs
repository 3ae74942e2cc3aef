//! The journal below the shard's logic: numbered records to the disk and back. Payloads are opaque bytes here.
//!
//! - [`format`]: the bytes of a segment, and nothing else.
//! - [`writer`]: records in, writes and syncs out; says what is durable.
//! - [`reader`]: bytes in, records out; says what is lost.
//!
//! Checksums are XXH3-64: 216 instructions for a record of 200 bytes, 750 for one of 600, where a plain CRC32C takes 850
//! and 2,430. With the processor's own CRC32C it is 190 and 260, but to know whether a processor has that needs std, and
//! 32 bits are few for a journal.
//!
//! Neither touches a file: the shell carries out what the writer asks for, and feeds the reader. So both run in tests
//! over a disk that tears, forgets, lies and fails.
mod carry;
pub mod format;
pub mod reader;
mod segments;
pub mod writer;

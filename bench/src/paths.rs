//! The hot paths by name: what `bin/count.rs` counts, `benches/` times and `tests/allocations.rs` holds to its count.
//!
//! Each is prepared once, and then does the same work again and again on the same input, with memory that is warm.
//! Nothing in it is hashed by a random key, and nothing reads a clock, so that its instructions can be counted.
mod adapters;
mod providers;
mod route;
pub mod shard;
mod wire;

/// A path, ready to be run: each call is one operation.
pub type Operation = Box<dyn FnMut()>;

/// A hot path.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Its name: the package, a slash, what happens.
    pub name: &'static str,
    /// What one operation is.
    pub what: &'static str,
    /// Allocations of one operation once all memory is warm.
    pub allocations: u64,
    /// How often it is run to be counted: the more, the less one of them does.
    pub operations: u64,
    prepare: fn() -> Operation,
}

impl Path {
    const fn new(name: &'static str, what: &'static str, prepare: fn() -> Operation) -> Self {
        Self { name, what, allocations: 0, operations: 1_000, prepare }
    }

    /// One that allocates so often.
    const fn allocating(self, allocations: u64) -> Self {
        Self { allocations, ..self }
    }

    /// One that does much in an operation.
    const fn long(self) -> Self {
        Self { operations: 100, ..self }
    }

    /// Makes its input and warms its memory.
    #[must_use]
    pub fn prepare(&self) -> Operation {
        (self.prepare)()
    }
}

/// All of them, package by package.
#[must_use]
pub fn all() -> Vec<Path> {
    [wire::PATHS, shard::PATHS, adapters::PATHS, providers::PATHS, route::PATHS].concat()
}

/// Those of a package: `wire`, `core`, `adapters`, `providers`, or `route` for the way through all of them.
#[must_use]
pub fn of(package: &str) -> Vec<Path> {
    all().into_iter().filter(|path| path.name.split('/').next() == Some(package)).collect()
}

/// The path of this name.
#[must_use]
pub fn named(name: &str) -> Option<Path> {
    all().into_iter().find(|path| path.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_path_runs_and_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = all().iter().map(|path| path.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(named("wire/http-head").is_some() && named("wire/nothing").is_none());
        for path in all() {
            let mut run = path.prepare();
            (0..40).for_each(|_| run());
        }
    }
}

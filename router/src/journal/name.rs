//! What the files of the journal are called: lineage, shard and segment, so that a list of them is in the order in which
//! they were begun.
use clawgate_core::journal::format::Name;

/// What a file of the journal ends in.
const EXTENSION: &str = "log";
/// What a file ends in that could not be read whole, and was put aside.
pub(super) const DAMAGED: &str = "damaged";

/// The name of a file.
pub(super) fn of(name: Name) -> String {
    format!("{:010}-{:04}-{:010}.{EXTENSION}", name.lineage, name.shard, name.segment)
}

/// What a file of this name is, if it is of the journal.
pub(super) fn parse(file: &str) -> Option<Name> {
    let (stem, extension) = file.rsplit_once('.')?;
    let mut parts = stem.split('-');
    let mut part = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let name =
        Name { lineage: part()?.parse().ok()?, shard: part()?.parse().ok()?, segment: part()?.parse().ok()? };
    // Written in one way only.
    (extension == EXTENSION && of(name) == file).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let name = Name { lineage: 12, shard: 3, segment: 450 };
        assert_eq!(of(name), "0000000012-0003-0000000450.log");
        let large = Name { lineage: u64::MAX, shard: u16::MAX, segment: u64::MAX };
        assert!([name, large].into_iter().all(|name| parse(&of(name)) == Some(name)));
        for other in [
            "",
            "lock",
            "12-3-450.log",
            "0000000012-0003-0000000450.damaged",
            "0000000012-0003-0000000450",
            "+000000012-0003-0000000450.log",
            "0000000012-0003-0000000450-1.log",
            "0000000012-99999-0000000450.log",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

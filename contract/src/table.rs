//! The packed data of `data/`: static indexes and the text they point into.
//! Owns the generated tables and their decoding; knows nothing of what the records mean.

use serde::de::DeserializeOwned;

/// A method's place in the tables; `verb` is an index into [`crate::Verb::ALL`].
pub(crate) struct MethodRow {
    pub(crate) verb: u8,
    pub(crate) node: u16,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// One component of the tree of paths.
pub(crate) struct Node {
    pub(crate) template: &'static str,
    pub(crate) methods: [u16; 4],
    pub(crate) fixed: &'static [(&'static str, u16)],
    pub(crate) variable: Option<(&'static str, u16)>,
    /// The variable child takes the rest of the path, slashes included.
    pub(crate) swallows: bool,
}

/// Marks a verb that a path does not have.
pub(crate) const NONE: u16 = u16::MAX;

/// A sorted table of named records.
pub(crate) type Records = [(&'static str, usize, usize)];

include!(concat!(env!("OUT_DIR"), "/index.rs"));

static BLOB: &str = include_str!(concat!(env!("OUT_DIR"), "/blob.json"));

/// Decodes one record.
pub(crate) fn decode<T: DeserializeOwned>(name: &str, start: usize, end: usize) -> T {
    match serde_json::from_str(&BLOB[start..end]) {
        Ok(value) => value,
        // The tables are fixed at build time and a test decodes each record, so this is a defect of the data.
        Err(error) => panic!("{name} in the interface tables: {error}"),
    }
}

/// Position of a name in a sorted table.
pub(crate) fn position(records: &Records, name: &str) -> Option<usize> {
    records.binary_search_by(|(key, _, _)| (*key).cmp(name)).ok()
}

/// Decodes a record by name.
pub(crate) fn record<T: DeserializeOwned>(records: &Records, name: &str) -> Option<T> {
    let (name, start, end) = records[position(records, name)?];
    Some(decode(name, start, end))
}

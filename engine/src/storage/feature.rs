//! What volumes can do, as data: each type of storage declares a table, by feature, state of the volume and format.
//! (PVE: pve-storage PVE/Storage/Plugin.pm, volume_has_feature)
//!
//! The same tables answer the API, decide how a clone is made, and become the page `docs/storage.md`.

use super::volume::Format;
use std::fmt;

/// Something that not every volume can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// States can be kept and come back to.
    Snapshot,
    /// A linked clone can be made.
    Clone,
    /// It can become a template's image.
    Template,
    /// A full copy can be made.
    Copy,
    /// A new volume reads as zeros, so that a copy may leave zeros out.
    SparseInit,
    /// It can be given to another guest.
    Rename,
}

impl Feature {
    /// All features, in the order of the documentation.
    pub const ALL: [Feature; 6] =
        [Feature::Snapshot, Feature::Clone, Feature::Template, Feature::Copy, Feature::SparseInit, Feature::Rename];

    /// PVE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Snapshot => "snapshot",
            Feature::Clone => "clone",
            Feature::Template => "template",
            Feature::Copy => "copy",
            Feature::SparseInit => "sparseinit",
            Feature::Rename => "rename",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which state of a volume a feature is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// A guest's volume as it is now.
    Current,
    /// A template's volume.
    Base,
    /// One of its snapshots.
    Snapshot,
}

impl State {
    /// All states, in the order of the documentation.
    pub const ALL: [State; 3] = [State::Current, State::Base, State::Snapshot];

    /// PVE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            State::Current => "current",
            State::Base => "base",
            State::Snapshot => "snap",
        }
    }
}

/// One row of a type's table.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// What can be done.
    pub feature: Feature,
    /// With volumes in which state.
    pub state: State,
    /// Of which formats.
    pub formats: &'static [Format],
}

/// One row.
pub const fn can(feature: Feature, state: State, formats: &'static [Format]) -> Capability {
    Capability { feature, state, formats }
}

/// Whether a table has a row for it.
pub fn declared(table: &[Capability], feature: Feature, state: State, format: Format) -> bool {
    table.iter().any(|row| row.feature == feature && row.state == state && row.formats.contains(&format))
}

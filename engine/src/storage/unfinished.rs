//! Volumes on their way: made, but not yet anybody's.
//!
//! Whoever fills a volume from outside (a copy, an import) gets one of these. It is gone unless it is finished.

use super::driver::{Driver, Storage};
use super::feature::Feature;
use super::volume::{Format, NewVolume};
use crate::{Result, bail};
use std::path::{Path, PathBuf};

/// A volume that vanishes when it is dropped before it is finished.
pub trait Unfinished {
    /// Where its bytes go: an image, a device or a directory, of the wanted size and empty.
    fn path(&self) -> &Path;

    /// Its format.
    fn format(&self) -> Format;

    /// Whether it reads as zeros now, so that a copy may leave zeros out.
    fn reads_as_zeros(&self) -> bool;

    /// Gives it a place of the caller's choice on its file system instead of a name.
    fn keep(self: Box<Self>, place: &Path) -> Result<()> {
        bail!("'{}' cannot be kept as '{}'", self.path().display(), place.display());
    }

    /// Makes it a volume like any other and answers its name.
    fn finish(self: Box<Self>) -> Result<String>;
}

/// A volume that was allocated as any other and is freed again unless finished.
pub struct Allocated<'a> {
    driver: &'a dyn Driver,
    storage: &'a Storage<'a>,
    name: String,
    path: PathBuf,
    format: Format,
    zeros: bool,
    finished: bool,
}

impl<'a> Allocated<'a> {
    /// Allocates and activates it.
    pub fn new(driver: &'a dyn Driver, storage: &'a Storage<'a>, new: &NewVolume) -> Result<Self> {
        let name = driver.allocate(storage, new)?;
        let mut made = Allocated {
            driver,
            storage,
            name,
            path: PathBuf::new(),
            format: Format::Raw,
            zeros: false,
            finished: false,
        };
        // From here on dropping it frees the volume.
        made.path = driver.activate_volume(storage, &made.name, None)?;
        made.format = driver.describe(storage, &made.name)?.format;
        made.zeros = driver.can(storage, Feature::SparseInit, &made.name, None, false)?;
        Ok(made)
    }
}

impl Unfinished for Allocated<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn format(&self) -> Format {
        self.format
    }

    fn reads_as_zeros(&self) -> bool {
        self.zeros
    }

    fn finish(mut self: Box<Self>) -> Result<String> {
        self.driver.deactivate_volume(self.storage, &self.name, None)?;
        self.finished = true;
        Ok(std::mem::take(&mut self.name))
    }
}

impl Drop for Allocated<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be undone is said by the error that brought us here; the volume has a name to free it by.
            let _ = self.driver.deactivate_volume(self.storage, &self.name, None);
            let _ = self.driver.free(self.storage, &self.name);
        }
    }
}

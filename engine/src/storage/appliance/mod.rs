//! Container templates that others offer: indexes of them, as PVE's appliance index is, and templates built on this node.
//!
//! `pveam update` fetches each [`source`]'s index, checks its signature and keeps it in `/var/lib/pve-manager/apl-info`;
//! lists and downloads read only what is kept there. (PVE: pve-manager PVE/APLInfo.pm)

mod build;
mod index;
mod source;
mod update;

pub use build::{Recipe, build};
pub use index::Appliance;
pub use source::{Location, Source, sources};
pub use update::update;

use super::download::{self, Wanted};
use super::transfer::{Checksum, Incoming, Target};
use crate::{Context, Result, Task, bail, file};
use std::collections::BTreeMap;
use std::fs::File;

/// All templates of the indexes that this node keeps, by template name; the last source wins. An index that cannot be
/// read is left out with a warning in the log.
pub fn load(ctx: &Context) -> Result<BTreeMap<String, Appliance>> {
    let mut all = BTreeMap::new();
    for source in sources(ctx)? {
        let text = file::read_or_empty(&source.kept_index(ctx))?;
        match index::parse(&text, &source.base()) {
            Ok(appliances) => all.extend(appliances.into_iter().map(|entry| (entry.template.clone(), entry))),
            Err(error) => eprintln!("template index '{}': {}", source.name, error.message()),
        }
    }
    Ok(all)
}

/// Fetches a template to its place; its checksum decides.
pub fn fetch(task: &Task, appliance: &Appliance, target: &Target) -> Result<()> {
    let checksum = appliance.checksum();
    if checksum.is_none() {
        bail!("checksum required but not specified");
    }
    match Location::of(&appliance.location)? {
        Location::Url(url) => {
            let wanted = Wanted { checksum, compression: None };
            download::Source::new(task.ctx, url, true)?.fetch(task, target, &wanted)
        }
        Location::Path(path) => {
            task.log(format!("copying {} to {}", path.display(), target.path().display()));
            let mut incoming = Incoming::create(target)?;
            super::transfer::copy(&mut File::open(&path)?, &mut incoming.file)?;
            verify(task, &incoming, checksum)?;
            incoming.place_new()
        }
    }
}

fn verify(task: &Task, incoming: &Incoming, checksum: Option<Checksum>) -> Result<()> {
    checksum.map_or(Ok(()), |checksum| checksum.verify(incoming.path(), &mut |line| task.log(line)))
}

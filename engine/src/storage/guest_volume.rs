//! Names of volumes that lie flat in a pool (LVM, ZFS, RBD): `vm-100-disk-0`, `base-100-disk-0`, `subvol-100-disk-0`,
//! and linked clones as `base-100-disk-0/vm-101-disk-0`.
//! (PVE: pve-storage PVE/Storage/Plugin.pm, parse_lvm_name and get_next_vm_diskname; the plugins' parse_volname)
//!
//! A name that parses has only letters, digits, `-`, `_`, `.` and begins with a known word, so it is never an option, a
//! path or a pattern to any tool.

use super::directory::name::disk_number;
use crate::{Error, Result, Vmid, bail};

/// Most disks of a guest on one storage.
const MAX_VOLUMES_PER_GUEST: u32 = 1024;

/// What a volume's name begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// `vm-`: a block device of a guest.
    Vm,
    /// `base-`: the block device of a template.
    Base,
    /// `subvol-`: a file system of a container.
    Subvol,
    /// `basevol-`: the file system of a template.
    Basevol,
}

impl Prefix {
    const ALL: [Prefix; 4] = [Prefix::Vm, Prefix::Basevol, Prefix::Base, Prefix::Subvol];

    /// The word in the name.
    pub fn name(self) -> &'static str {
        match self {
            Prefix::Vm => "vm",
            Prefix::Base => "base",
            Prefix::Subvol => "subvol",
            Prefix::Basevol => "basevol",
        }
    }

    /// A template has it.
    pub fn is_base(self) -> bool {
        matches!(self, Prefix::Base | Prefix::Basevol)
    }

    /// The same for a template.
    pub fn of_template(self) -> Prefix {
        if matches!(self, Prefix::Subvol | Prefix::Basevol) { Prefix::Basevol } else { Prefix::Base }
    }
}

/// A parsed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestVolume {
    /// The name within the pool: what stands behind the slash of a linked clone.
    pub name: String,
    /// What it begins with.
    pub prefix: Prefix,
    /// The guest that owns it.
    pub vmid: Vmid,
    /// Of a linked clone: the volume that it was made of.
    pub base: Option<String>,
}

impl GuestVolume {
    /// Reads a volume's name. `kind` is the word for it in the error, such as `lvm`.
    ///
    /// # Errors
    /// `unable to parse KIND volume name 'X'`.
    pub fn parse(text: &str, kind: &str) -> Result<Self> {
        let bad = || Error::new(format!("unable to parse {kind} volume name '{}'", text.escape_debug()));
        let (base, name) = match text.split_once('/') {
            Some((base, name)) => (Some(base), name),
            None => (None, text),
        };
        let (prefix, vmid) = parts(name).ok_or_else(bad)?;
        if let Some(base) = base
            && !parts(base).is_some_and(|(prefix, _)| prefix.is_base())
        {
            return Err(bad());
        }
        Ok(GuestVolume { name: name.to_owned(), prefix, vmid, base: base.map(str::to_owned) })
    }

    /// The same volume's name as a template's, on its own.
    pub fn template_name(&self) -> String {
        let rest = &self.name[self.prefix.name().len()..];
        format!("{}{rest}", self.prefix.of_template().name())
    }
}

/// Prefix and owner of one component.
fn parts(name: &str) -> Option<(Prefix, Vmid)> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > 127 || !name.chars().all(inner) || !name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let (word, rest) = name.split_once('-')?;
    let prefix = Prefix::ALL.into_iter().find(|prefix| prefix.name() == word)?;
    let (vmid, rest) = rest.split_once('-')?;
    if rest.is_empty() { None } else { Some((prefix, vmid.parse().ok()?)) }
}

/// Refuses a snapshot's name that is none, so that it can stand in a command.
pub fn check_snapshot(name: &str) -> Result<&str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 64 && name.chars().all(inner);
    if !good {
        bail!("invalid snapshot name '{}'", name.escape_debug());
    }
    Ok(name)
}

/// The first free `PREFIX-VMID-disk-N` beside names that exist, with `suffix` behind it.
///
/// # Errors
/// When the guest has the most disks that one can have.
pub fn next_name<'n>(
    existing: impl IntoIterator<Item = &'n str>,
    storage: &str,
    prefix: Prefix,
    vmid: Vmid,
    suffix: &str,
) -> Result<String> {
    let taken: Vec<u32> = existing.into_iter().filter_map(|name| disk_number(name, vmid)).collect();
    let number = (0..MAX_VOLUMES_PER_GUEST)
        .find(|number| !taken.contains(number))
        .ok_or_else(|| Error::new(format!("unable to allocate an image name for VM {vmid} in storage '{storage}'")))?;
    Ok(format!("{}-{vmid}-disk-{number}{suffix}", prefix.name()))
}

/// Refuses a name that was asked for but belongs to another guest. (PVE: alloc_image of the plugins)
pub fn check_owner(name: &str, prefix: Prefix, vmid: Vmid) -> Result<()> {
    let word = prefix.name();
    if !name.starts_with(&format!("{word}-{vmid}-")) {
        bail!("illegal name '{}' - should be '{word}-{vmid}-*'", name.escape_debug());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<GuestVolume> {
        GuestVolume::parse(text, "lvm")
    }

    #[test]
    fn names_have_an_owner_and_perhaps_a_base() {
        let volume = parse("vm-100-disk-0").unwrap();
        assert_eq!((volume.prefix, volume.vmid.to_string().as_str(), volume.base), (Prefix::Vm, "100", None));
        let clone = parse("base-100-disk-0/vm-101-disk-2").unwrap();
        assert_eq!((clone.name.as_str(), clone.base.as_deref()), ("vm-101-disk-2", Some("base-100-disk-0")));
        assert_eq!(parse("subvol-100-disk-0").unwrap().template_name(), "basevol-100-disk-0");
        assert_eq!(clone.template_name(), "base-101-disk-2");
        assert_eq!(parse("vm-100-disk-0.qcow2").unwrap().name, "vm-100-disk-0.qcow2");
        for bad in [
            "",
            "data",
            "vm-100-",
            "vm-x-disk",
            "vm--1-disk",
            "-vm-100-disk-0",
            "vm-100-a b",
            "vm-100-a/../b",
            "vm-100-x/",
            "/vm-100-x",
            "vm-1-disk-0",
            "vm-101-disk-0/vm-102-disk-0",
            "vm-100-a@s",
            "vm-100-a;b",
            "snap_vm-100-disk-0_a",
            "base-100-a/base-101-b/vm-102-c",
            "vm-100-disk-0-",
            "vm-100-\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn free_names_skip_the_taken_numbers() {
        let vmid: Vmid = "100".parse().unwrap();
        let existing = ["vm-100-disk-0", "base-100-disk-1", "vm-1000-disk-2", "vm-100-cloudinit"];
        assert_eq!(next_name(existing, "s", Prefix::Vm, vmid, "").unwrap(), "vm-100-disk-2");
        assert_eq!(next_name([], "s", Prefix::Subvol, vmid, ".x").unwrap(), "subvol-100-disk-0.x");
        let all: Vec<String> = (0..1024).map(|number| format!("vm-100-disk-{number}")).collect();
        assert!(next_name(all.iter().map(String::as_str), "s", Prefix::Vm, vmid, "").is_err());
        assert!(check_owner("vm-101-x", Prefix::Vm, vmid).is_err());
        assert!(check_owner("vm-100-x", Prefix::Vm, vmid).is_ok());
    }

    #[test]
    fn snapshot_names_are_plain_words() {
        for bad in ["", "-x", "_x", "a@b", "a/b", "a b", "a\n"] {
            assert!(check_snapshot(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_snapshot("before-Update_2").unwrap(), "before-Update_2");
    }

    proptest! {
        #[test]
        fn what_parses_is_never_an_option_or_a_path(text in "((base|basevol|vm|subvol)-[0-9]{0,5}-[ -~\0\n]{0,9}/?){1,2}") {
            if let Ok(volume) = parse(&text) {
                for part in text.split('/') {
                    prop_assert!(part.starts_with(|c: char| c.is_ascii_lowercase()));
                    prop_assert!(part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
                }
                prop_assert!(text.ends_with(&volume.name));
            }
        }
    }
}

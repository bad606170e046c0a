//! Cloud-init: the small disc from which a guest learns at its start who it is.
//!
//! The disc is written before each start, and while the VM runs when somebody asks for it.
//! (PVE: qemu-server PVE/QemuServer/Cloudinit.pm)

pub mod changes;
pub mod text;

use super::config::{Drive, Properties, Slot, Vm};
use super::qmp::Monitor;
use super::{disks, status};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, Content, VolumeId};
use crate::{Context, Error, Result, Vmid, command, error::ResultExt, file, guest};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use text::{Kind, Resolver};

/// All texts together may be as long as this: the disc has 4 MiB.
const LONGEST: usize = 3 << 20;

/// Which text is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The user's part.
    User,
    /// The network's part.
    Network,
    /// The instance.
    Meta,
}

/// A text as it is generated, without the administrator's own files.
pub fn dump(ctx: &Context, vmid: Vmid, part: &Part, section: Section, mask: bool) -> Result<String> {
    let vm = Vm::new(vmid, part);
    let host = resolver(ctx)?;
    let network = || match text::kind(&vm) {
        Kind::NoCloud => text::network_v1(part, &vm, &host),
        Kind::ConfigDrive | Kind::OpenNebula => text::network_interfaces(part, &vm, &host),
    };
    match section {
        Section::User => Ok(text::user(&vm, mask)),
        Section::Network => network(),
        // The instance does not tell the password, but depends on it.
        Section::Meta => Ok(text::meta(&vm, text::user(&vm, false).as_bytes(), network()?.as_bytes())),
    }
}

fn resolver(ctx: &Context) -> Result<Resolver> {
    let own = ctx.root.path("/etc/resolv.conf");
    let path = if own.exists() { own } else { "/etc/resolv.conf".into() };
    Ok(Resolver::parse(&file::read_or_empty(&path)?))
}

/// A file of the disc: its path and what is in it.
type DiscFile = (&'static str, Vec<u8>);

/// The files on the disc, and its label.
fn files(ctx: &Context, vmid: Vmid, part: &Part) -> Result<(Vec<DiscFile>, &'static str)> {
    let vm = Vm::new(vmid, part);
    let kind = text::kind(&vm);
    if kind == Kind::OpenNebula {
        return Ok((vec![("context.sh", text::context(part, &vm, &resolver(ctx)?)?.into_bytes())], "CONTEXT"));
    }
    let own = vm.properties("pve-qm-cicustom", "cicustom")?.unwrap_or_default();
    let custom = |key: &str| snippet(ctx, &own, key);
    let user = match custom("user")? {
        Some(text) => text,
        None => dump(ctx, vmid, part, Section::User, false)?.into_bytes(),
    };
    let network = match custom("network")? {
        Some(text) => text,
        None => dump(ctx, vmid, part, Section::Network, false)?.into_bytes(),
    };
    let meta = match custom("meta")? {
        Some(text) => text,
        None => text::meta(&vm, &user, &network).into_bytes(),
    };
    let vendor = custom("vendor")?.unwrap_or_default();
    if user.len() + network.len() + meta.len() + vendor.len() > LONGEST {
        crate::bail!("Cloud-Init sum of snippets too big (> 3 MiB)");
    }
    Ok(match kind {
        Kind::ConfigDrive => (
            [
                ("openstack/latest/user_data", user),
                ("openstack/content/0000", network),
                ("openstack/latest/meta_data.json", meta),
                // PVE writes an empty one, which is no JSON: cloud-init takes the whole disc for broken then.
                ("openstack/latest/vendor_data.json", vendor),
            ]
            .into_iter()
            .filter(|(name, content)| !(content.is_empty() && name.contains("vendor_data")))
            .collect(),
            "config-2",
        ),
        _ => (
            vec![("user-data", user), ("network-config", network), ("meta-data", meta), ("vendor-data", vendor)],
            "cidata",
        ),
    })
}

/// A file of the administrator instead of a generated one. It need not be text: cloud-init takes compressed files.
fn snippet(ctx: &Context, own: &Properties, key: &str) -> Result<Option<Vec<u8>>> {
    let Some(volume) = own.text(key) else { return Ok(None) };
    let id: VolumeId = volume.parse().map_err(Error::new)?;
    if storage::describe(ctx, &id)?.content != Content::Snippets {
        crate::bail!("{volume} is not in the snippets directory");
    }
    let path = storage::path(ctx, &id)?;
    std::fs::read(&path).map(Some).context(|| format!("unable to read '{}'", path.display()))
}

/// The VM's cloud-init drive, if it has one.
pub fn drive(vmid: Vmid, part: &Part) -> Result<Option<Drive>> {
    Ok(Vm::new(vmid, part).drives()?.into_iter().map(|(_, drive)| drive).find(Drive::is_cloudinit))
}

/// Fails when a VM has a cloud-init drive already, in another place than `slot`. (PVE: API2/Qemu.pm, create_disks)
pub fn refuse_second(slot: Slot, parts: &[&BTreeMap<String, String>]) -> Result<()> {
    let key = slot.to_string();
    let others = parts.iter().flat_map(|options| options.iter()).filter(|(other, _)| **other != key);
    for (other, text) in others {
        let drive = Slot::of_key(other).and_then(|slot| Drive::parse_request(slot, text).ok());
        if drive.is_some_and(|drive| drive.is_cloudinit()) {
            crate::bail!("{key} - cloud-init drive is already attached at '{other}'");
        }
    }
    Ok(())
}

/// Writes the disc of a VM that has one, as [`write`], and notes that it is up to date.
pub fn renew(ctx: &Context, vmid: Vmid, config: &GuestConfig, log: &mut dyn FnMut(&str)) -> Result<()> {
    write(ctx, vmid, config, status::is_running(ctx, vmid), log)?;
    if changes::exist(config) {
        guest::update(ctx, GuestKind::Qemu, vmid, |config| {
            changes::forget(config);
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes the disc of a VM that has one. A running guest whose drive it is in (`in_drive`) finds the new one there.
pub fn write(ctx: &Context, vmid: Vmid, config: &GuestConfig, in_drive: bool, log: &mut dyn FnMut(&str)) -> Result<()> {
    let Some(drive) = drive(vmid, &config.current)? else { return Ok(()) };
    let volume = drive.volume().ok_or_else(|| Error::new(format!("'{}' is no volume", drive.file)))?;
    let (files, label) = files(ctx, vmid, &config.current)?;
    if storage::info(ctx, &volume).is_err() {
        // Restored without it, or taken away by hand: it holds nothing that cannot be made again.
        let made = disks::allocate_cloudinit(ctx, vmid, &volume.storage)?;
        if made != volume {
            storage::free(ctx, &made)?;
            crate::bail!("cloud-init volume '{volume}' does not exist");
        }
    }
    let place = ctx.root.run("pve/cloudinit");
    std::fs::create_dir_all(&place).context(|| place.display().to_string())?;
    let directory = place.join(vmid.to_string());
    let image = place.join(format!("{vmid}.iso"));
    log("generating cloud-init ISO");
    let outcome =
        burn(&directory, &image, &files, label).and_then(|()| fill(ctx, vmid, &drive, &volume, &image, in_drive));
    // Passwords must not stay behind; what is not there needs no removal.
    let _ = std::fs::remove_dir_all(&directory);
    let _ = std::fs::remove_file(&image);
    outcome
}

fn burn(directory: &Path, image: &Path, files: &[DiscFile], label: &str) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let place = || directory.display().to_string();
    // What an interrupted run has left.
    let _ = std::fs::remove_dir_all(directory);
    std::fs::DirBuilder::new().mode(0o700).create(directory).context(place)?;
    for (name, content) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(directory)).context(place)?;
        std::fs::write(&path, content).context(place)?;
    }
    let (image, tree) = (image.to_string_lossy(), directory.to_string_lossy());
    let words = ["-quiet", "-iso-level", "3", "-J", "-R", "-V", label, "-o", &image, &tree];
    command::run("genisoimage", &words).map(drop)
}

/// Copies the image into the volume; QEMU lets go of the old disc first.
fn fill(ctx: &Context, vmid: Vmid, drive: &Drive, volume: &VolumeId, image: &Path, running: bool) -> Result<()> {
    let name = drive.slot.to_string();
    if running {
        Monitor::connect(ctx, vmid)?.execute("eject", json!({"id": name, "force": true}))?;
    }
    let path = storage::activate_volume(ctx, volume, None)?;
    let format = storage::describe(ctx, volume)?.format;
    let (from, to) = (image.to_string_lossy(), path.to_string_lossy());
    let copied = command::run("qemu-img", &["convert", "-n", "-f", "raw", "-O", format.name(), &from, &to]);
    if running {
        let medium = json!({"id": name, "filename": path, "format": format.name()});
        Monitor::connect(ctx, vmid)?.execute("blockdev-change-medium", medium)?;
    }
    copied.map(drop)
}

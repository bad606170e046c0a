//! Clones: linked to a template or snapshot, or copied in full, also while the source runs.
//! (PVE: qemu-server PVE/API2/Qemu.pm, clone_vm)

use super::block::{End, Mirror};
use super::config::{Drive, NetDevice, Properties, Slot, Vm, random_mac};
use super::disks::{Made, check_place};
use super::permission::Subject;
use super::recovery::{self, Facts};
use super::request::mac_prefix;
use super::{agent, snapshot::plan, status};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, Copy, Feature, Format, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Task, Vmid, access, guest};

/// A wish for a clone.
#[derive(Debug, Clone)]
pub struct Clone {
    /// The VM that is cloned.
    pub source: Vmid,
    /// The number of the new one.
    pub target: Vmid,
    /// The snapshot that is cloned instead of the present state.
    pub snapshot: Option<String>,
    /// A copy of its own; absent: unless the source is a template.
    pub full: Option<bool>,
    /// The new name.
    pub name: Option<String>,
    /// The new description.
    pub description: Option<String>,
    /// The pool that it joins.
    pub pool: Option<String>,
    /// Where its disks go.
    pub storage: Option<String>,
    /// The format of its disks.
    pub format: Option<Format>,
    /// KiB per second at most.
    pub limit: Option<u64>,
}

/// What a source is cloned into: the configuration without disks, and the disks that have to be made.
struct Draft {
    config: GuestConfig,
    disks: Vec<(Drive, bool)>,
    warnings: Vec<String>,
}

/// Refuses what cannot be; asks for the caller's rights on storages and bridges.
pub fn check(ctx: &Context, wish: &Clone) -> Result<()> {
    status::checked_running(ctx, wish.source)?;
    if let Some(storage) = &wish.storage {
        check_place(ctx, storage)?;
    }
    let (config, running) = source(ctx, wish)?;
    let part = part(&config, wish)?;
    if guest::find(ctx, wish.target).is_some() {
        return Err(Error::new(format!("unable to create VM {}: config file already exists", wish.target)));
    }
    Subject { ctx, vmid: wish.source, pool: None, is_new: false }.check_copied(part)?;
    if let Some(storage) = part.get("vmstatestorage") {
        access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    if Vm::new(wish.source, part).drives()?.iter().any(|(_, drive)| drive.is_cdrom() && drive.file == "cdrom") {
        access::check(ctx, "/", &["Sys.Console"])?;
    }
    for drive in plan::disks(wish.source, part)? {
        let Some(volume) = drive.volume() else { continue };
        let storage = wish.storage.as_deref().unwrap_or(&volume.storage);
        access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    for (_, net) in Vm::new(wish.source, part).nets()? {
        if let Some(bridge) = net.bridge() {
            access::check_bridge(ctx, &bridge, net.option("tag").as_deref(), net.option("trunks").as_deref())?;
        }
    }
    draft(ctx, wish, &config, running).map(drop)
}

fn source(ctx: &Context, wish: &Clone) -> Result<(GuestConfig, bool)> {
    let config = guest::load(ctx, GuestKind::Qemu, wish.source)?;
    guest::check_lock(&config)?;
    Ok((config, status::is_running(ctx, wish.source)))
}

fn part<'a>(config: &'a GuestConfig, wish: &Clone) -> Result<&'a Part> {
    match &wish.snapshot {
        None => Ok(&config.current),
        Some(name) => config.snapshots.get(name).ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist"))),
    }
}

/// Plans the clone. No volume is touched.
fn draft(ctx: &Context, wish: &Clone, config: &GuestConfig, running: bool) -> Result<Draft> {
    let full = wish.full.unwrap_or(!config.current.flag("template"));
    if !full && wish.storage.is_some() {
        crate::bail!("parameter 'storage' not allowed for linked clones");
    }
    if !full && wish.format.is_some() {
        crate::bail!("parameter 'format' not allowed for linked clones");
    }
    let part = part(config, wish)?;
    let mut new = GuestConfig::new(GuestKind::Qemu);
    let mut disks = Vec::new();
    let prefix = mac_prefix(ctx)?;
    for (key, value) in &part.options {
        let is_own =
            ["parent", "snaptime", "vmstate", "snapstate", "lock", "digest", "template"].contains(&key.as_str());
        if is_own || plan::RUNNING.contains(&key.as_str()) || key.starts_with("unused") {
            continue;
        }
        if key.strip_prefix("net").is_some_and(|number| number.parse::<u32>().is_ok()) {
            let mut net = NetDevice::parse(key, value)?;
            net.set_mac(random_mac(prefix.as_deref()));
            new.current.set(key, net.to_string());
            continue;
        }
        let Some(slot) = Slot::of_key(key) else {
            new.current.set(key, value);
            continue;
        };
        let drive = Drive::parse(slot, value)?;
        if drive.is_plain_cdrom() {
            new.current.set(key, value);
            continue;
        }
        let is_copy = full || drive.is_cloudinit() || slot.bus == super::config::Bus::Tpmstate;
        check_disk(ctx, wish, &drive, is_copy, running)?;
        disks.push((drive, is_copy));
    }
    // Volumes get their numbers in this order, that of the names as text.
    disks.sort_by_key(|(drive, _)| drive.slot.to_string());
    identity(wish, part, &mut new)?;
    let pending: Vec<&str> = config.pending.part.options.keys().map(String::as_str).collect();
    let warnings = if pending.is_empty() || wish.snapshot.is_some() {
        Vec::new()
    } else {
        vec![format!("found pending changes for '{}', discarding for clone", pending.join(","))]
    };
    Ok(Draft { config: new, disks, warnings })
}

fn check_disk(ctx: &Context, wish: &Clone, drive: &Drive, is_copy: bool, running: bool) -> Result<()> {
    let slot = drive.slot;
    if is_copy && running && wish.snapshot.is_none() && slot.bus == super::config::Bus::Tpmstate {
        crate::bail!("cannot clone TPM state while VM is running");
    }
    if drive.is_cloudinit() {
        return Ok(());
    }
    let (kind, feature) = if is_copy { ("Full", Feature::Copy) } else { ("Linked", Feature::Clone) };
    let volume = drive.volume();
    let can = match &volume {
        Some(volume) => storage::has_feature(ctx, feature, volume, wish.snapshot.as_deref(), running)?,
        None => false,
    };
    if can {
        return Ok(());
    }
    let of = if wish.snapshot.is_some() { " a snapshot of" } else { "" };
    Err(Error::new(format!("{kind} clone feature is not supported for{of} '{}' ({slot})", drive.file)))
}

/// What tells the clone from its source.
fn identity(wish: &Clone, part: &Part, new: &mut GuestConfig) -> Result<()> {
    let mut smbios = match part.get("smbios1") {
        Some(text) => Properties::parse("pve-qm-smbios1", "smbios1", text)?,
        None => Properties::default(),
    };
    smbios.set("uuid", crate::types::random_uuid());
    new.current.set("smbios1", smbios.print("pve-qm-smbios1"));
    if new.current.get("vmgenid").is_some() {
        new.current.set("vmgenid", crate::types::random_uuid());
    }
    let old_name = part.get("name").map_or_else(|| wish.source.to_string(), str::to_owned);
    new.current.set("name", wish.name.clone().unwrap_or_else(|| format!("Copy-of-VM-{old_name}")));
    new.current.description = wish.description.clone().filter(|text| !text.is_empty()).or(part.description.clone());
    Ok(())
}

/// Makes the clone. The source is locked unless it is a template, which does not change.
pub fn clone(task: &Task, wish: &Clone) -> Result<()> {
    let ctx = task.ctx;
    let is_template = guest::load(ctx, GuestKind::Qemu, wish.source)?.current.flag("template");
    // Two VMs are always locked in the order of their numbers.
    let mut numbers = vec![wish.target];
    numbers.extend(Some(wish.source).filter(|_| !is_template));
    numbers.sort();
    let _locks = numbers.into_iter().map(|vmid| recovery::NOTES.lock(task, vmid)).collect::<Result<Vec<_>>>()?;
    let (config, running) = source(ctx, wish)?;
    let draft = draft(ctx, wish, &config, running)?;
    draft.warnings.iter().for_each(|warning| task.log(warning));
    task.log(format!("creating a clone of VM {} with ID {}", wish.source, wish.target));
    let mut reserved = GuestConfig::new(GuestKind::Qemu);
    reserved.current.set("lock", "clone");
    let mut made = Made::new(ctx);
    let storages = places(wish, &draft);
    let storages = storages.iter().map(String::as_str).collect();
    let work = recovery::begin(ctx, wish.target, &Facts { storages, source: Some(wish.source), ..Facts::default() })?;
    guest::create(ctx, wish.target, &reserved)?;
    let outcome = make_disks(task, wish, &config, running, draft, &mut made).and_then(|config| {
        // A template is not locked meanwhile, so it may be on its way out.
        source(ctx, wish)?;
        guest::update(ctx, GuestKind::Qemu, wish.target, |stored| {
            *stored = config;
            Ok(())
        })?;
        // A guest of this number that is long gone may have left some.
        guest::firewall::remove(ctx, wish.target)?;
        guest::firewall::copy(ctx, wish.source, wish.target)?;
        wish.pool.as_ref().map_or(Ok(()), |pool| access::pool_add_guest(ctx, pool, wish.target))
    });
    let outcome = outcome.map_err(|error| {
        let error = made.undo(Error::new(format!("clone failed: {}", error.message())));
        let failures = [guest::firewall::remove(ctx, wish.target), guest::remove(ctx, GuestKind::Qemu, wish.target)];
        error.with_cleanup_failures(&failures.into_iter().filter_map(Result::err).collect::<Vec<_>>())
    });
    drop(work);
    outcome
}

/// The storages of the new disks.
fn places(wish: &Clone, draft: &Draft) -> Vec<String> {
    let place = |drive: &Drive| wish.storage.clone().or_else(|| drive.volume().map(|volume| volume.storage));
    draft.disks.iter().filter_map(|(drive, _)| place(drive)).collect()
}

fn make_disks(
    task: &Task,
    wish: &Clone,
    source: &GuestConfig,
    running: bool,
    draft: Draft,
    made: &mut Made,
) -> Result<GuestConfig> {
    let ctx = task.ctx;
    let mut config = draft.config;
    let mut mirror = Mirror::new(task, wish.source);
    for (mut drive, is_copy) in draft.disks {
        let kind = if is_copy { "full" } else { "linked" };
        task.log(format!("create {kind} clone of drive {} ({})", drive.slot, drive.file));
        let old = drive.volume().ok_or_else(|| Error::new(format!("'{}' is no volume", drive.file)))?;
        let live = running && wish.snapshot.is_none();
        let new = if !is_copy {
            storage::clone_linked(ctx, &old, wish.snapshot.as_deref(), wish.target)?
        } else if drive.is_cloudinit() {
            super::disks::allocate_cloudinit(ctx, wish.target, wish.storage.as_deref().unwrap_or(&old.storage))?
        } else {
            let storages: Vec<&str> =
                [Some(old.storage.as_str()), wish.storage.as_deref()].into_iter().flatten().collect();
            let limit = storage::bandwidth_limit(ctx, "clone", &storages, wish.limit)?;
            let copy = Copy {
                source: &old,
                snapshot: wish.snapshot.as_deref(),
                storage: wish.storage.as_deref().unwrap_or(&old.storage),
                vmid: wish.target,
                format: wish.format,
                kind: VolumeKind::Image,
                limit,
            };
            if live {
                let new = allocate_like(ctx, &copy)?;
                made.note(new.clone());
                mirror.start(&drive, &new, limit)?;
                finish_drive(ctx, &mut drive, &new)?;
                config.current.set(drive.slot.to_string(), drive.to_string());
                continue;
            }
            storage::copy(ctx, &copy, &mut |line| task.log(line))?
        };
        made.note(new.clone());
        finish_drive(ctx, &mut drive, &new)?;
        config.current.set(drive.slot.to_string(), drive.to_string());
    }
    if !mirror.is_empty() {
        mirror.wait_until_ready()?;
        let frozen = agent::freeze(task, wish.source, source);
        let outcome = mirror.finish(End::Leave);
        drop(frozen);
        outcome?;
    }
    Ok(config)
}

/// The drive names the new volume.
pub fn finish_drive(ctx: &Context, drive: &mut Drive, volume: &VolumeId) -> Result<()> {
    drive.file = volume.to_string();
    drive.options.remove("format");
    drive.options.set("size", storage::print_size(storage::info(ctx, volume)?.size));
    Ok(())
}

/// An empty volume for a copy that QEMU itself will make: as large as the source.
pub fn allocate_like(ctx: &Context, copy: &Copy) -> Result<VolumeId> {
    let size = storage::info(ctx, copy.source)?.size;
    let entry_config = storage::config(ctx)?;
    let entry = entry_config.entry(copy.storage)?;
    let wanted = copy.format.unwrap_or(storage::describe(ctx, copy.source)?.format);
    let format = if entry.formats().contains(&wanted) { wanted } else { entry.default_format() };
    let new = storage::NewVolume { vmid: copy.vmid, format: Some(format), name: None, size, kind: VolumeKind::Image };
    storage::allocate(ctx, copy.storage, &new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Clone {
        Clone {
            source: "100".parse().unwrap(),
            target: "101".parse().unwrap(),
            snapshot: None,
            full: None,
            name: None,
            description: None,
            pool: None,
            storage: None,
            format: None,
            limit: None,
        }
    }

    #[test]
    fn a_clone_has_an_identity_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let text = "#hello\ncores: 2\nide2: none,media=cdrom\nname: web\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\n\
                    parent: one\nsmbios1: uuid=11111111-2222-3333-4444-555555555555,manufacturer=TWU=,base64=1\n\
                    unused0: local:100/vm-100-disk-9.raw\nvmgenid: 11111111-2222-3333-4444-555555555555\n\n[PENDING]\n\
                    cores: 4\n\n[one]\nsnaptime: 1\n";
        let config = GuestConfig::parse(GuestKind::Qemu, text);
        let draft = draft(&ctx, &wish(), &config, false).unwrap();
        let new = &draft.config.current;
        assert_eq!((new.get("cores"), new.get("parent"), new.get("unused0")), (Some("2"), None, None));
        assert_eq!((new.get("name"), new.get("ide2")), (Some("Copy-of-VM-web"), Some("none,media=cdrom")));
        assert!(!new.get("net0").unwrap().contains("00:00:01") && new.get("net0").unwrap().ends_with("bridge=vmbr0"));
        // Random ones may have any part in common with the old.
        let old = "11111111-2222-3333-4444-555555555555";
        assert!(!new.get("smbios1").unwrap().contains(old) && new.get("smbios1").unwrap().contains("TWU="));
        assert_ne!(new.get("vmgenid"), Some(old));
        assert_eq!(new.description.as_deref(), Some("hello"));
        assert_eq!(draft.warnings, ["found pending changes for 'cores', discarding for clone"]);
    }

    #[test]
    fn linked_clones_choose_nothing() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let config = GuestConfig::parse(GuestKind::Qemu, "template: 1\n");
        let refused = |wish: Clone| draft(&ctx, &wish, &config, false).err().unwrap().message().to_owned();
        let text = refused(Clone { storage: Some("local".into()), ..wish() });
        assert_eq!(text, "parameter 'storage' not allowed for linked clones");
        assert!(
            draft(&ctx, &Clone { full: Some(true), storage: Some("local".into()), ..wish() }, &config, false).is_ok()
        );
    }
}

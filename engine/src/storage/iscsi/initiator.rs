//! Storages of type `iscsi`: the machine is logged in to a target, its disks are volumes such as
//! `0.0.1.scsi-36001405…`: channel, id and number of the disk, and its stable name below `/dev/disk/by-id`.
//! (PVE: pve-storage PVE/Storage/ISCSIPlugin.pm)

use super::{ANSWER, place, portal_parts, targets};
use crate::storage::Content;
use crate::storage::config::Entry;
use crate::storage::driver::{Described, Driver, Filter, Space, Storage};
use crate::storage::feature::{Capability, Feature, State, can};
use crate::storage::mounted::ping;
use crate::storage::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::tool::Tool;
use crate::{Context, Error, Result, bail};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// What disks of a target can do.
const CAPABILITIES: &[Capability] = &[can(Feature::Copy, State::Current, &[Format::Raw])];

/// The driver.
pub struct Iscsi;

/// A session of this machine.
#[derive(Debug, PartialEq, Eq)]
struct Session {
    id: String,
    portal: String,
    target: String,
}

/// A disk of a target.
#[derive(Debug, PartialEq, Eq)]
struct Disk {
    name: String,
    size: u64,
}

/// The stable name in a volume's name.
fn stable_name(name: &str) -> Result<&str> {
    let bad = || Error::new(format!("unable to parse iscsi volume name '{}'", name.escape_debug()));
    let parts: Vec<&str> = name.splitn(4, '.').collect();
    let [channel, id, lun, stable] = parts.as_slice() else { return Err(bad()) };
    let is_number = |text: &&&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let allowed = |c: char| c.is_ascii_graphic() && c != '/';
    let good = [channel, id, lun].iter().all(is_number)
        && !stable.is_empty()
        && !stable.starts_with('.')
        && stable.chars().all(allowed);
    if good { Ok(stable) } else { Err(bad()) }
}

/// Sessions as `iscsiadm` prints them: `tcp: [1] 10.0.0.1:3260,1 iqn.x (non-flash)`.
fn sessions(ctx: &Context) -> Result<Vec<Session>> {
    let tool = Tool::new("iscsiadm").args(["--mode", "session"]).within(ANSWER);
    let ended = tool.end(ctx)?;
    if ended.code != 0 && !ended.stderr.to_lowercase().contains("no active sessions") {
        bail!("iscsi session scan failed: {}", ended.stderr.trim());
    }
    Ok(parse_sessions(&ended.stdout))
}

fn parse_sessions(text: &str) -> Vec<Session> {
    let session = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "tcp:").then_some(())?;
        let id = words.next()?.strip_prefix('[')?.strip_suffix(']')?.to_owned();
        let portal = words.next()?.rsplit_once(',')?.0.to_owned();
        Some(Session { id, portal, target: words.next()?.to_owned() })
    };
    text.lines().filter_map(session).filter(|session| session.id.chars().all(|c| c.is_ascii_digit())).collect()
}

/// The portals that are known to lead to a target; the configured one if none are.
fn portals(ctx: &Context, target: &str, portal: &str) -> Vec<String> {
    let text = Tool::new("iscsiadm").args(["--mode", "node"]).within(ANSWER).read(ctx).unwrap_or_default();
    targets(&text).remove(target).unwrap_or_else(|| vec![portal.to_owned()])
}

fn login(ctx: &Context, target: &str, portals: &[String]) -> Result<()> {
    for portal in portals {
        // One portal that answers tells about all of them.
        let discovery = ["--mode", "discovery", "--type", "sendtargets", "--portal", portal];
        if Tool::new("iscsiadm").args(discovery).within(ANSWER).run(ctx).is_ok() {
            break;
        }
    }
    let node = || Tool::new("iscsiadm").args(["--mode", "node", "--targetname", target]);
    // Tried again by whoever needs it next; retries here would only make it wait.
    let _ = node()
        .args(["--op", "update", "--name", "node.session.initial_login_retry_max", "--value", "0"])
        .within(ANSWER)
        .run(ctx);
    node().arg("--login").within(ANSWER).run(ctx)
}

fn first_line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Disks of a target, as the kernel shows them below `sys`, by their names in `by_id`.
fn disks(sys: &Path, by_id: &Path, target: &str) -> Vec<Disk> {
    let mut found = Vec::new();
    let sessions = sys.join("class/iscsi_session");
    for session in names_in(&sessions) {
        let directory = sessions.join(&session);
        if first_line(&directory.join("targetname")).as_deref() != Some(target) {
            continue;
        }
        // `target3:0:0` tells the host's number.
        let host = names_in(&directory.join("device")).into_iter().find_map(|name| {
            let number = name.strip_prefix("target")?.split(':').next()?.to_owned();
            number.parse::<u32>().ok()
        });
        let Some(host) = host else { continue };
        for device in names_in(&sys.join("bus/scsi/devices")) {
            let Some(address) = device.strip_prefix(&format!("{host}:")) else { continue };
            let directory = sys.join("bus/scsi/devices").join(&device);
            // Type 0 is a disk.
            if address.split(':').count() != 3 || first_line(&directory.join("type")).as_deref() != Some("0") {
                continue;
            }
            let Some(block) = names_in(&directory.join("block")).into_iter().next() else { continue };
            let holders = names_in(&sys.join("block").join(&block).join("holders"));
            // With several ways to a disk, the device that joins them is the one to use.
            let device = holders.into_iter().next().unwrap_or(block);
            let size =
                first_line(&sys.join("block").join(&device).join("size")).and_then(|text| text.parse::<u64>().ok());
            if let (Some(stable), Some(sectors)) = (stable_link(by_id, &device), size) {
                found.push(Disk { name: format!("{}.{stable}", address.replace(':', ".")), size: sectors * 512 });
            }
        }
    }
    found.sort_by(|left, right| left.name.cmp(&right.name));
    found.dedup();
    found
}

/// The name of a device that stays: SCSI's own, or the one of multipath.
fn stable_link(by_id: &Path, device: &str) -> Option<String> {
    names_in(by_id).into_iter().find(|name| {
        let is_stable = name.starts_with("scsi-") || name.starts_with("dm-uuid-mpath-");
        let is_part = name.rsplit_once("-part").is_some_and(|(_, rest)| rest.chars().all(|c| c.is_ascii_digit()));
        let leads = fs::read_link(by_id.join(name)).ok().and_then(|link| Some(link.file_name()? == device));
        is_stable && !is_part && leads == Some(true)
    })
}

/// Whether a block device, or one that it is made of, belongs to a session of that target.
fn belongs_to(sys: &Path, device: &str, target: &str, depth: u32) -> bool {
    let directory = sys.join("class/block").join(device);
    let real = fs::canonicalize(&directory).unwrap_or_default();
    let session =
        real.components().find_map(|part| part.as_os_str().to_str()?.strip_prefix("session").map(str::to_owned));
    if let Some(session) = session {
        let name = sys.join("class/iscsi_session").join(format!("session{session}/targetname"));
        return first_line(&name).as_deref() == Some(target);
    }
    depth > 0 && names_in(&directory.join("slaves")).iter().any(|slave| belongs_to(sys, slave, target, depth - 1))
}

impl Driver for Iscsi {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut Entry, _create: bool) -> Result<()> {
        place(&Storage { ctx, id: id.to_owned(), entry: entry.clone() }).map(drop)
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        let (portal, target) = place(storage)?;
        let ctx = storage.ctx;
        let open: Vec<Session> = sessions(ctx)?.into_iter().filter(|session| session.target == target).collect();
        let ways = portals(ctx, target, portal);
        let has_all = ways.iter().all(|way| open.iter().any(|session| session.portal == *way));
        if !open.is_empty() && has_all {
            for session in &open {
                // New disks show up; a session that is just broken is the target's matter.
                let rescan = ["--mode", "session", "--sid", &session.id, "--rescan"];
                let _ = Tool::new("iscsiadm").args(rescan).within(ANSWER).run(ctx);
            }
            return Ok(());
        }
        if open.is_empty() {
            let reached = ways.iter().any(|way| portal_parts(way).and_then(|(host, port)| ping(host, port)).is_ok());
            if !reached {
                bail!("storage '{}' is not online - no portal of target '{target}' answers", storage.id);
            }
        }
        match login(ctx, target, &ways) {
            // With one session the disks are there; the other ways are tried again next time.
            Err(_) if !open.is_empty() => Ok(()),
            result => result,
        }
    }

    fn deactivate(&self, storage: &Storage) -> Result<()> {
        let (_, target) = place(storage)?;
        if !sessions(storage.ctx)?.iter().any(|session| session.target == target) {
            return Ok(());
        }
        Tool::new("iscsiadm")
            .args(["--mode", "node", "--targetname", target, "--logout"])
            .within(ANSWER)
            .run(storage.ctx)
    }

    /// A target has no size of its own.
    fn space(&self, storage: &Storage) -> Result<Space> {
        let (_, target) = place(storage)?;
        if !sessions(storage.ctx)?.iter().any(|session| session.target == target) {
            bail!("no session with target '{target}'");
        }
        Ok(Space::default())
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        let (_, target) = place(storage)?;
        // Disks of a target have no owner.
        if filter.vmid.is_some() {
            return Ok(Vec::new());
        }
        let found = disks(Path::new("/sys"), Path::new("/dev/disk/by-id"), target);
        Ok(found.into_iter().map(|disk| super::direct::row(storage, disk.name, disk.size)).collect())
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        stable_name(name)?;
        Ok(Described { content: Content::Images, vmid: None, is_base: false, format: Format::Raw, base: None })
    }

    fn path(&self, _storage: &Storage, name: &str) -> Result<PathBuf> {
        Ok(Path::new("/dev/disk/by-id").join(stable_name(name)?))
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        let path = self.source(storage, name, snapshot)?.path;
        let (_, target) = place(storage)?;
        let real = fs::canonicalize(&path)
            .map_err(|_| Error::new(format!("failed to get realpath for '{}'", path.display())))?;
        if !fs::metadata(&real)?.file_type().is_block_device() {
            bail!("resolved realpath '{}' is not a block device", real.display());
        }
        let device = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !belongs_to(Path::new("/sys"), &device, target, 4) {
            bail!("volume '{name}' not part of target '{target}'");
        }
        Ok(path)
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let (_, target) = place(storage)?;
        let found = disks(Path::new("/sys"), Path::new("/dev/disk/by-id"), target);
        match found.into_iter().find(|disk| disk.name == name) {
            Some(disk) => Ok(VolumeInfo { size: disk.size, used: 0, format: Format::Raw, parent: None }),
            None => bail!("volume '{}' does not exist", storage.volume(name)),
        }
    }

    fn allocate(&self, _storage: &Storage, _new: &NewVolume) -> Result<String> {
        bail!("can't allocate space in iscsi storage")
    }

    fn free(&self, _storage: &Storage, _name: &str) -> Result<()> {
        bail!("can't free space in iscsi storage")
    }

    fn resize(&self, _storage: &Storage, _name: &str, _size: u64) -> Result<()> {
        bail!("volume resize is not possible on iscsi device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::script::Script;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_have_numbers_and_a_stable_name() {
        assert_eq!(stable_name("0.0.1.scsi-36001405.x").unwrap(), "scsi-36001405.x");
        for bad in ["", "0.0.1", "0.0.1.", "a.0.1.x", "0.0.1../x", "0.0.1.a/b", "0.0.1...", "0.0.1.a b"] {
            assert!(stable_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sessions_are_read_as_printed() {
        let found = parse_sessions("tcp: [12] 10.0.0.1:3260,1 iqn.a:b (non-flash)\niser: [1] x,1 y\n");
        assert_eq!(found, [Session { id: "12".into(), portal: "10.0.0.1:3260".into(), target: "iqn.a:b".into() }]);
    }

    #[test]
    fn disks_of_a_target_are_found_below_its_session() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/class/iscsi_session/session7/targetname", "iqn.a\n");
        write("sys/class/iscsi_session/session7/device/target3:0:0/x", "");
        write("sys/bus/scsi/devices/3:0:0:1/type", "0\n");
        write("sys/bus/scsi/devices/3:0:0:1/block/sdx/x", "");
        write("sys/bus/scsi/devices/3:0:0:0/type", "12\n");
        write("sys/bus/scsi/devices/4:0:0:1/type", "0\n");
        write("sys/block/sdx/size", "2048\n");
        let by_id = root.path().join("by-id");
        fs::create_dir_all(&by_id).unwrap();
        symlink("../../sdx", by_id.join("scsi-360")).unwrap();
        symlink("../../sdx", by_id.join("wwn-0x6")).unwrap();
        symlink("../../sdx", by_id.join("scsi-1-part1")).unwrap();
        let found = disks(&root.path().join("sys"), &by_id, "iqn.a");
        assert_eq!(found, [Disk { name: "0.0.1.scsi-360".into(), size: 1 << 20 }]);
        assert!(disks(&root.path().join("sys"), &by_id, "iqn.b").is_empty());
    }

    #[test]
    fn a_missing_session_is_opened_and_an_open_one_looked_through() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let portal = listener.local_addr().unwrap().to_string();
        let script = Script::new().fail("iscsiadm --mode session", "iscsiadm: No active sessions.");
        let ctx = script.context(Path::new("/nowhere"));
        let mut entry = Entry::new("iscsi");
        entry.set("portal", portal.clone());
        entry.set("target", "iqn.a");
        let storage = Storage { ctx: &ctx, id: "san".into(), entry };
        Iscsi.activate(&storage).unwrap();
        assert_eq!(
            script.take(),
            format!(
                "iscsiadm --mode session\niscsiadm --mode node\n\
                 iscsiadm --mode discovery --type sendtargets --portal {portal}\n\
                 iscsiadm --mode node --targetname iqn.a --op update --name node.session.initial_login_retry_max --value 0\n\
                 iscsiadm --mode node --targetname iqn.a --login\n"
            )
        );
        script.answer("iscsiadm --mode session", &format!("tcp: [3] {portal},1 iqn.a (non-flash)"));
        Iscsi.activate(&storage).unwrap();
        Iscsi.deactivate(&storage).unwrap();
        assert_eq!(
            script.take(),
            "iscsiadm --mode session\niscsiadm --mode node\niscsiadm --mode session --sid 3 --rescan\n\
             iscsiadm --mode session\niscsiadm --mode node --targetname iqn.a --logout\n"
        );
    }
}

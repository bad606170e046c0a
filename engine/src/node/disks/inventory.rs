//! Which disks there are and what they are used for. Looks and changes nothing.
//! (PVE: pve-storage PVE/Diskmanage.pm, get_disks)

use super::smart;
use super::udev::Properties;
use crate::storage::lvm::report;
use crate::tool::{QUESTION, Tool};
use crate::{Context, mounts};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel counts in these, whatever the disk does.
const SECTOR: u64 = 512;

/// Partition types of GPT that tell what a partition is for.
const LVM_TYPE: &str = "e6d6d379-f507-44c2-a23c-238f2a3df928";
const ZFS_TYPES: [&str; 2] = ["6a898cc3-1dd2-11b2-99a6-080020736631", "516e7cba-6ecf-11d6-8ff8-00022d09712b"];
const OTHER_TYPES: [(&str, &str); 3] = [
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI"),
    ("6a945a3b-1dd2-11b2-99a6-080020736631", "ZFS reserved"),
];

/// Where the kernel and udev tell about devices.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/run/udev/data`.
    pub udev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places { sys: "/sys".into(), udev: "/run/udev/data".into() }
    }
}

/// What is wanted of a look.
#[derive(Debug, Clone, Default)]
pub struct Look<'a> {
    /// Only this disk, or the disk of this partition (a name below `/dev`).
    pub only: Option<&'a str>,
    /// Ask disks about their health, which may wake them up.
    pub smart: bool,
    /// Partitions as rows of their own.
    pub partitions: bool,
}

/// A disk or partition: what the API answers, and what we decide by.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its node.
    pub path: String,
    /// Of a partition: the node of its disk.
    pub parent: Option<String>,
    /// What it is used for, if it is.
    pub used: Option<String>,
    /// It has a GUID partition table.
    pub gpt: bool,
    /// The row of the API.
    row: Map<String, Value>,
}

impl Device {
    /// The row of the API.
    pub fn shape(&self) -> Value {
        let mut row = self.row.clone();
        row.insert("devpath".into(), json!(self.path));
        row.insert("gpt".into(), json!(u8::from(self.gpt)));
        if let Some(parent) = &self.parent {
            row.insert("parent".into(), json!(parent));
        }
        if let Some(used) = &self.used {
            row.insert("used".into(), json!(used));
        }
        Value::Object(row)
    }

    /// Ceph's daemon on it; -1 for none.
    pub fn osd(&self) -> i64 {
        self.row.get("osdid").and_then(Value::as_i64).unwrap_or(-1)
    }
}

/// What is known about all devices before one is looked at.
struct Knowledge {
    mounted: HashSet<String>,
    blocks: HashMap<String, Block>,
    lvm: HashSet<String>,
    zfs: HashSet<String>,
    ceph: HashMap<String, Osd>,
}

/// What `lsblk` says about a device.
#[derive(Debug, Clone, Default)]
struct Block {
    partition_type: Option<String>,
    file_system: Option<String>,
}

/// Parts of Ceph's daemons on a device.
#[derive(Debug, Clone, Default)]
struct Osd {
    ids: Vec<i64>,
    encrypted: bool,
    journals: u64,
    db: u64,
    wal: u64,
}

/// All disks, by their name below `/dev`.
pub fn look(ctx: &Context, places: &Places, look: &Look) -> BTreeMap<String, Device> {
    let knowledge = Knowledge::gather(ctx);
    let only = look.only.map(|name| disk_of(places, name));
    let mut found = BTreeMap::new();
    for name in names_in(&places.sys.join("block")) {
        let shown = name.replace('!', "/");
        if is_disk_name(&name) && only.as_ref().is_none_or(|only| *only == shown) {
            disk(ctx, places, look, &knowledge, &name, &mut found);
        }
    }
    found
}

/// The disk's name for a disk or partition.
fn disk_of(places: &Places, name: &str) -> String {
    let entry = places.sys.join("class/block").join(name.replace('/', "!"));
    if !entry.join("partition").exists() {
        return name.to_owned();
    }
    let real = fs::canonicalize(entry).unwrap_or_default();
    let parent = real.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().replace('!', "/"));
    parent.unwrap_or_else(|| name.to_owned())
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// IDE, SCSI, virtio and Xen disks, NVMe name spaces and old array controllers; nothing that is made of other devices.
fn is_disk_name(name: &str) -> bool {
    let letters = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_lowercase());
    let numbers = |rest: &str, middle: char| {
        let pair = rest.split_once(middle);
        let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        pair.is_some_and(|(left, right)| number(left) && number(right))
    };
    ["hd", "sd", "vd", "xvd"].iter().any(|prefix| name.strip_prefix(prefix).is_some_and(letters))
        || name.strip_prefix("nvme").is_some_and(|rest| numbers(rest, 'n'))
        || name.strip_prefix("cciss!c").is_some_and(|rest| numbers(rest, 'd'))
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn size_of(directory: &Path) -> u64 {
    first_line(&directory.join("size")).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * SECTOR
}

/// Something is made of the device: multipath, RAID, device mapper.
pub fn has_holders(directory: &Path) -> bool {
    !names_in(&directory.join("holders")).is_empty()
}

fn disk(
    ctx: &Context,
    places: &Places,
    look: &Look,
    knowledge: &Knowledge,
    name: &str,
    found: &mut BTreeMap<String, Device>,
) {
    let directory = places.sys.join("block").join(name);
    let real = fs::canonicalize(&directory).unwrap_or_default();
    // Disks of iSCSI are those of a storage, not of this machine.
    let is_iscsi = real.components().any(|part| part.as_os_str().to_string_lossy().starts_with("session"));
    let size = size_of(&directory);
    let Some(properties) = Properties::read(&directory, &places.udev) else { return };
    if is_iscsi || size == 0 || !directory.join("device").is_dir() || properties.get("ID_CDROM").is_some() {
        return;
    }
    let Some(path) = properties.device() else { return };
    let shown = name.replace('!', "/");
    let mut row = description(ctx, &directory, &properties, name, &path, look.smart);
    row.insert("size".into(), json!(size));
    if knowledge.mounted.contains(&path) {
        row.insert("mounted".into(), json!(1));
    }
    let gpt = properties.get("ID_PART_TABLE_TYPE") == Some("gpt");
    let mut partitions = BTreeMap::new();
    let mut ceph = knowledge.ceph.get(&path).cloned().unwrap_or_default();
    for part in names_in(&directory).into_iter().filter(|part| part.starts_with(name)) {
        let part_path = format!("/dev/{}", part.replace('!', "/"));
        if let Some(osd) = knowledge.ceph.get(&part_path) {
            ceph.add(osd);
        }
        let device = partition(knowledge, &directory.join(&part), part_path, &path, gpt);
        partitions.insert(part.replace('!', "/"), device);
    }
    let mut used = knowledge.usage(&path);
    if look.partitions {
        // A file system may have been there before the partition table.
        used = if partitions.is_empty() { used } else { Some("partitions".into()) };
    } else {
        used = used.or_else(|| partitions.values().find_map(|part| part.used.clone()));
    }
    let used = used
        .or_else(|| (!partitions.is_empty()).then(|| "partitions".into()))
        .or_else(|| has_holders(&directory).then(|| "Device Mapper".into()));
    ceph.describe(&mut row);
    found.insert(shown, Device { path, parent: None, used, gpt, row });
    if look.partitions {
        found.extend(partitions);
    }
}

fn partition(knowledge: &Knowledge, directory: &Path, path: String, disk: &str, gpt: bool) -> Device {
    let mut row = Map::new();
    row.insert("type".into(), json!("partition"));
    row.insert("size".into(), json!(size_of(directory)));
    if knowledge.mounted.contains(&path) {
        row.insert("mounted".into(), json!(1));
    }
    knowledge.ceph.get(&path).cloned().unwrap_or_default().describe(&mut row);
    let used = knowledge.usage(&path).or_else(|| has_holders(directory).then(|| "Device Mapper".into()));
    Device { path, parent: Some(disk.to_owned()), used, gpt, row }
}

/// What kind of disk it is, and how it is.
fn description(
    ctx: &Context,
    directory: &Path,
    properties: &Properties,
    name: &str,
    path: &str,
    ask: bool,
) -> Map<String, Value> {
    let rotational = first_line(&directory.join("queue/rotational"));
    let rpm: i64 = properties.get("ID_ATA_ROTATION_RATE_RPM").and_then(|rpm| rpm.parse().ok()).unwrap_or(-1);
    let (kind, rpm) = match rotational.as_deref() {
        Some("0") if name.starts_with("nvme") => ("nvme", 0),
        Some("0") => ("ssd", 0),
        Some("1") if rpm != -1 => ("hdd", rpm),
        Some("1") if properties.get("ID_BUS") == Some("usb") => ("usb", 0),
        _ => ("unknown", rpm),
    };
    let is_flash = kind == "ssd" || kind == "nvme";
    let answer = if ask { smart::read(ctx, path, !is_flash).unwrap_or_default() } else { smart::Smart::default() };
    let wearout = answer.life_left().filter(|_| is_flash).map_or_else(|| json!("N/A"), smart::number);
    let text = |key: &str| properties.get(key).map(str::to_owned);
    let file = |name: &str| first_line(&directory.join("device").join(name));
    let unknown = || "unknown".to_owned();
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put("vendor", json!(file("vendor").unwrap_or_else(unknown)));
    put("model", json!(text("ID_MODEL").or_else(|| file("model")).unwrap_or_else(unknown)));
    put("serial", json!(text("ID_SERIAL_SHORT").unwrap_or_else(unknown)));
    put("wwn", json!(text("ID_WWN").unwrap_or_else(unknown)));
    put("rpm", json!(rpm));
    put("type", json!(kind));
    put("health", json!(answer.health.unwrap_or_else(|| "UNKNOWN".into())));
    put("wearout", wearout);
    if let Some(link) = properties.stable_link() {
        put("by_id_link", json!(link));
    }
    row
}

impl Osd {
    fn add(&mut self, other: &Osd) {
        self.ids.extend(&other.ids);
        self.encrypted |= other.encrypted;
        self.journals += other.journals;
        self.db += other.db;
        self.wal += other.wal;
    }

    fn describe(&self, row: &mut Map<String, Value>) {
        row.insert("osdid".into(), json!(self.ids.first().copied().unwrap_or(-1)));
        let ids = if self.ids.is_empty() { Value::Null } else { json!(self.ids) };
        row.insert("osdid-list".into(), ids);
        if !self.ids.is_empty() {
            row.insert("bluestore".into(), json!(1));
            row.insert("osdencrypted".into(), json!(u8::from(self.encrypted)));
        }
        for (key, count) in [("journals", self.journals), ("db", self.db), ("wal", self.wal)] {
            if count > 0 {
                row.insert(key.into(), json!(count));
            }
        }
    }
}

impl Knowledge {
    /// A tool that is missing or fails knows nothing; the others still do.
    fn gather(ctx: &Context) -> Self {
        let is_device = |mount: &mounts::Mount| mount.source.starts_with("/dev/");
        let real = |path: String| fs::canonicalize(&path).map_or(path, |real| real.to_string_lossy().into_owned());
        let mounted = mounts::all().into_iter().filter(is_device).map(|mount| real(mount.source)).collect();
        let blocks = blocks(ctx);
        let of_types = |types: &[&str]| {
            let is_of = |block: &Block| block.partition_type.as_deref().is_some_and(|kind| types.contains(&kind));
            blocks.iter().filter(|(_, block)| is_of(block)).map(|(path, _)| path.clone()).collect::<HashSet<_>>()
        };
        let mut lvm = of_types(&[LVM_TYPE]);
        lvm.extend(physical_volumes(ctx));
        let mut zfs = of_types(&ZFS_TYPES);
        zfs.extend(pool_devices(ctx));
        Knowledge { mounted, lvm, zfs, ceph: osds(ctx), blocks }
    }

    fn usage(&self, path: &str) -> Option<String> {
        if self.lvm.contains(path) {
            return Some("LVM".into());
        }
        if self.zfs.contains(path) {
            return Some("ZFS".into());
        }
        let block = self.blocks.get(path).cloned().unwrap_or_default();
        let by_type = OTHER_TYPES.iter().find(|(kind, _)| block.partition_type.as_deref() == Some(kind));
        by_type
            .map(|(_, word)| (*word).to_owned())
            .or(block.file_system)
            .or_else(|| self.mounted.contains(path).then(|| "mounted".into()))
    }
}

fn blocks(ctx: &Context) -> HashMap<String, Block> {
    let tool = Tool::new("lsblk").args(["--json", "--list", "-o", "path,parttype,fstype"]).within(QUESTION);
    let answer: Value = tool.read(ctx).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let rows = answer["blockdevices"].as_array().into_iter().flatten();
    rows.filter_map(|row| {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        Some((text("path")?, Block { partition_type: text("parttype"), file_system: text("fstype") }))
    })
    .collect()
}

fn physical_volumes(ctx: &Context) -> Vec<String> {
    let tool = Tool::new("pvs").args(["--noheadings", "--readonly", "-o", "pv_name"]).within(QUESTION);
    let text = tool.read(ctx).unwrap_or_default();
    text.lines().map(str::trim).filter(|line| line.starts_with("/dev/")).map(str::to_owned).collect()
}

/// Devices of imported pools; logs and caches have no partition type of their own.
fn pool_devices(ctx: &Context) -> Vec<String> {
    let text = Tool::new("zpool").args(["list", "-HPLv"]).within(QUESTION).read(ctx).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.strip_prefix('\t')?.split('\t').next());
    names.filter(|name| name.starts_with("/dev/")).map(str::to_owned).collect()
}

/// Ceph's volumes, by the device that they lie on.
fn osds(ctx: &Context) -> HashMap<String, Osd> {
    let mut found: HashMap<String, Osd> = HashMap::new();
    let rows = report::ceph_volumes(ctx).unwrap_or_default();
    for (device, name, tags) in rows {
        let osd = found.entry(device).or_default();
        let tag = |key: &str| tags.split(',').find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='));
        match name.strip_prefix("osd-").and_then(|rest| rest.split('-').next()) {
            Some("block" | "data") => {
                osd.ids.extend(tag("ceph.osd_id").and_then(|id| id.parse::<i64>().ok()));
                osd.encrypted |= tag("ceph.encrypted") == Some("1");
            }
            Some("journal") => osd.journals += 1,
            Some("db") => osd.db += 1,
            Some("wal") => osd.wal += 1,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::script::Script;
    use std::os::unix::fs::symlink;

    /// A small `/sys` with one disk of two partitions and one empty disk.
    fn machine(root: &Path) -> Places {
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (disk, number, rotational) in [("sda", 0, "1"), ("nvme0n1", 16, "0"), ("loop0", 32, "0"), ("sdz", 48, "0")]
        {
            let directory = format!("sys/devices/{disk}");
            write(&format!("{directory}/uevent"), &format!("MAJOR=8\nMINOR={number}\nDEVNAME={disk}\nDEVTYPE=disk\n"));
            write(&format!("{directory}/size"), if disk == "sdz" { "0\n" } else { "2048\n" });
            write(&format!("{directory}/queue/rotational"), rotational);
            write(&format!("{directory}/device/vendor"), "ACME    \n");
            fs::create_dir_all(root.join(&directory).join("holders")).unwrap();
            fs::create_dir_all(root.join("sys/block")).unwrap();
            fs::create_dir_all(root.join("sys/class/block")).unwrap();
            symlink(root.join(&directory), root.join("sys/block").join(disk)).unwrap();
            symlink(root.join(&directory), root.join("sys/class/block").join(disk)).unwrap();
        }
        for part in ["sda1", "sda2"] {
            write(&format!("sys/devices/sda/{part}/partition"), "1\n");
            write(&format!("sys/devices/sda/{part}/size"), "1024\n");
            symlink(root.join("sys/devices/sda").join(part), root.join("sys/class/block").join(part)).unwrap();
        }
        write(
            "udev/b8:0",
            "E:ID_MODEL=DISK\nE:ID_PART_TABLE_TYPE=gpt\nE:ID_ATA_ROTATION_RATE_RPM=7200\nS:disk/by-id/ata-DISK\n",
        );
        Places { sys: root.join("sys"), udev: root.join("udev") }
    }

    #[test]
    fn disks_tell_what_they_are_used_for() {
        let root = tempfile::tempdir().unwrap();
        let places = machine(root.path());
        let script = Script::new()
            .answer("lsblk", r#"{"blockdevices": [{"path":"/dev/sda1","parttype":"c12a7328-f81f-11d2-ba4b-00a0c93ec93b","fstype":"vfat"}]}"#)
            .answer("pvs", "  /dev/sda2\n")
            .fail("zpool", "no such thing");
        let ctx = script.context(root.path());
        let found = look(&ctx, &places, &Look::default());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["nvme0n1", "sda"]);
        let disk = found["sda"].shape();
        assert_eq!(
            (disk["used"].as_str(), disk["type"].as_str(), disk["rpm"].as_i64()),
            (Some("EFI"), Some("hdd"), Some(7200))
        );
        assert_eq!(
            (disk["size"].as_u64(), disk["gpt"].as_u64(), disk["osdid"].as_i64()),
            (Some(1 << 20), Some(1), Some(-1))
        );
        assert_eq!(
            (disk["vendor"].as_str(), disk["by_id_link"].as_str()),
            (Some("ACME"), Some("/dev/disk/by-id/ata-DISK"))
        );
        let flash = found["nvme0n1"].shape();
        assert_eq!(
            (flash.get("used"), flash["type"].as_str(), flash["wearout"].as_str()),
            (None, Some("nvme"), Some("N/A"))
        );
        let whole = Look { only: Some("sda2"), partitions: true, ..Look::default() };
        let found = look(&ctx, &places, &whole);
        let uses: Vec<_> = found.values().map(|device| (device.path.as_str(), device.used.as_deref())).collect();
        assert_eq!(uses, [("/dev/sda", Some("partitions")), ("/dev/sda1", Some("EFI")), ("/dev/sda2", Some("LVM"))]);
        assert_eq!(found["sda1"].shape()["parent"], "/dev/sda");
        assert!(!script.take().contains("smartctl"));
        let asked = Look { only: Some("nvme0n1"), smart: true, ..Look::default() };
        script.answer(
            "smartctl -H -A -f brief -- /dev/nvme0n1",
            "=== START OF SMART DATA SECTION ===\nPercentage Used: 4%\n",
        );
        assert_eq!(look(&ctx, &places, &asked)["nvme0n1"].shape()["wearout"], 96);
    }

    #[test]
    fn only_real_disks_are_listed() {
        for good in ["sda", "hdb", "vdaa", "xvdb", "nvme0n1", "nvme10n12", "cciss!c0d1"] {
            assert!(is_disk_name(good), "{good}");
        }
        for bad in ["sda1", "loop0", "dm-0", "sr0", "md0", "nvme0n1p1", "nvme0c0n1", "zram0", "rbd0", "sd", "nbd0"] {
            assert!(!is_disk_name(bad), "{bad}");
        }
    }
}

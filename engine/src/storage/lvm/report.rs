//! What LVM says of itself, read from the JSON reports of `vgs`, `lvs` and `pvs`.
//! (PVE: pve-storage PVE/Storage/LVMPlugin.pm, lvm_vgs and lvm_list_volumes)

use crate::tool::{QUESTION, Tool};
use crate::{Context, Error, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;

/// A volume group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeGroup {
    /// All bytes.
    pub size: u64,
    /// Bytes that no logical volume has.
    pub free: u64,
    /// How many logical volumes there are.
    pub volumes: u64,
    /// Its physical volumes, if they were asked for.
    pub physical: Vec<PhysicalVolume>,
}

/// A physical volume of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolume {
    /// The device.
    pub name: String,
    /// All bytes.
    pub size: u64,
    /// Bytes that no logical volume has.
    pub free: u64,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq)]
pub struct LogicalVolume {
    /// Its group.
    pub group: String,
    /// Its name within the group.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The attribute letters, see lvs(8).
    pub attributes: String,
    /// The thin pool that it lives in.
    pub pool: String,
    /// Used share in percent, of pools and thin volumes.
    pub data_percent: f64,
    /// Used share of the metadata in percent, of pools.
    pub metadata_percent: f64,
    /// Bytes of metadata, of pools.
    pub metadata_size: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Seconds since 1970 at which it was made.
    pub created: Option<i64>,
}

impl LogicalVolume {
    /// The letter of its type: `-`, `m`, `r`, `V` (thin volume), `t` (thin pool), …
    pub fn kind(&self) -> char {
        self.attributes.chars().next().unwrap_or('?')
    }

    /// The device exists on this node.
    pub fn is_active(&self) -> bool {
        self.attributes.chars().nth(4) == Some('a')
    }

    /// It is one that guests can have, plain, mirrored or RAID.
    pub fn is_thick(&self) -> bool {
        matches!(self.kind(), '-' | 'm' | 'M' | 'r' | 'R')
    }

    /// It is a thin volume of that pool.
    pub fn is_thin_in(&self, pool: &str) -> bool {
        self.kind() == 'V' && self.pool == pool
    }

    /// Used bytes of a thin pool.
    pub fn used(&self) -> u64 {
        share(self.data_percent, self.size)
    }

    /// Used bytes of a thin pool's metadata.
    pub fn metadata_used(&self) -> u64 {
        share(self.metadata_percent, self.metadata_size)
    }
}

/// So many percent of a size, rounded down.
fn share(percent: f64, size: u64) -> u64 {
    (percent.clamp(0.0, 100.0) * size as f64 / 100.0) as u64
}

/// Refuses what cannot be the name of a volume group, thin pool or logical volume, so that no name is taken for an
/// option or a path. (lvm(8), VALID NAMES)
pub fn check_name<'a>(name: &'a str, what: &str) -> Result<&'a str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '.' | '-');
    let good = !name.is_empty()
        && name.len() <= 127
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name.chars().all(allowed);
    if !good {
        bail!("invalid {what} name '{}'", name.escape_debug());
    }
    Ok(name)
}

/// All volume groups by name, with their physical volumes if wanted.
pub fn groups(ctx: &Context, physical: bool) -> Result<BTreeMap<String, VolumeGroup>> {
    let columns = if physical { ",pv_name,pv_size,pv_free" } else { "" };
    let tool = Tool::new("vgs")
        .args(["--reportformat", "json", "--units", "b", "--nosuffix", "--options"])
        .arg(format!("vg_name,vg_size,vg_free,lv_count{columns}"))
        .within(QUESTION);
    // Groups that could not be read make an exit code but leave the others readable.
    let ended = tool.end(ctx)?;
    if ended.stdout.trim().is_empty() && ended.code != 0 {
        return tool.run(ctx).map(|()| BTreeMap::new());
    }
    parse_groups(&ended.stdout)
}

fn parse_groups(text: &str) -> Result<BTreeMap<String, VolumeGroup>> {
    let mut groups: BTreeMap<String, VolumeGroup> = BTreeMap::new();
    for row in rows(text, "vg")? {
        let group = groups.entry(field(&row, "vg_name").to_owned()).or_default();
        group.size = number(&row, "vg_size");
        group.free = number(&row, "vg_free");
        group.volumes = number(&row, "lv_count");
        let name = field(&row, "pv_name");
        if !name.is_empty() {
            let (size, free) = (number(&row, "pv_size"), number(&row, "pv_free"));
            group.physical.push(PhysicalVolume { name: name.to_owned(), size, free });
        }
    }
    Ok(groups)
}

/// The logical volumes of a group, or of all groups.
pub fn volumes(ctx: &Context, group: Option<&str>) -> Result<Vec<LogicalVolume>> {
    let columns =
        "vg_name,lv_name,lv_size,lv_attr,pool_lv,data_percent,metadata_percent,lv_metadata_size,lv_tags,lv_time";
    let mut tool = Tool::new("lvs")
        .args(["--reportformat", "json", "--units", "b", "--nosuffix"])
        .args(["--config", "report/time_format=\"%s\"", "--options", columns])
        .within(QUESTION);
    if let Some(group) = group {
        tool = tool.arg("--").arg(check_name(group, "volume group")?);
    }
    parse_volumes(&tool.read(ctx)?)
}

fn parse_volumes(text: &str) -> Result<Vec<LogicalVolume>> {
    let volume = |row: Value| LogicalVolume {
        group: field(&row, "vg_name").to_owned(),
        name: field(&row, "lv_name").to_owned(),
        size: number(&row, "lv_size"),
        attributes: field(&row, "lv_attr").to_owned(),
        pool: field(&row, "pool_lv").to_owned(),
        data_percent: field(&row, "data_percent").parse().unwrap_or(0.0),
        metadata_percent: field(&row, "metadata_percent").parse().unwrap_or(0.0),
        metadata_size: number(&row, "lv_metadata_size"),
        tags: field(&row, "lv_tags").split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
        created: field(&row, "lv_time").parse().ok(),
    };
    let volumes = rows(text, "lv")?.into_iter().map(volume);
    Ok(volumes.filter(|volume| !volume.group.is_empty() && !volume.name.is_empty()).collect())
}

/// Volumes of Ceph's daemons: the device that each lies on, its name and its tags.
pub fn ceph_volumes(ctx: &Context) -> Result<Vec<(String, String, String)>> {
    let text = Tool::new("lvs")
        .args(["--reportformat", "json", "--readonly", "-S", "lv_name=~^osd-"])
        .args(["--options", "devices,lv_name,lv_tags"])
        .within(QUESTION)
        .read(ctx)?;
    let volume = |row: Value| {
        // `/dev/sdb(0)`: the number is the first extent.
        let device = field(&row, "devices").split('(').next().unwrap_or_default().to_owned();
        (device, field(&row, "lv_name").to_owned(), field(&row, "lv_tags").to_owned())
    };
    let found = rows(&text, "lv")?.into_iter().map(volume);
    Ok(found.filter(|(device, name, _)| device.starts_with("/dev/") && name.starts_with("osd-")).collect())
}

/// The rows of a report. An older LVM writes warnings of its own before it.
fn rows(text: &str, kind: &str) -> Result<Vec<Value>> {
    let bad = || Error::new("unable to read LVM's report");
    let start = text.find('{').ok_or_else(bad)?;
    let report: Value = serde_json::from_str(&text[start..]).map_err(|_| bad())?;
    let parts = report["report"].as_array().ok_or_else(bad)?;
    Ok(parts.iter().filter_map(|part| part[kind].as_array()).flatten().cloned().collect())
}

fn field<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

fn number(row: &Value, key: &str) -> u64 {
    field(row, key).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::script::Script;

    #[test]
    fn groups_have_their_physical_volumes() {
        let script = Script::new().answer(
            "vgs",
            r#"{"report": [{"vg": [
                {"vg_name":"pve", "vg_size":"21470642176", "vg_free":"12884901888", "lv_count":"3",
                 "pv_name":"/dev/sda3", "pv_size":"10735321088", "pv_free":"2147483648"},
                {"vg_name":"pve", "vg_size":"21470642176", "vg_free":"12884901888", "lv_count":"3",
                 "pv_name":"/dev/sdb", "pv_size":"10735321088", "pv_free":"10735321088"},
                {"vg_name":"empty", "vg_size":"1", "vg_free":"1", "lv_count":"0",
                 "pv_name":"/dev/sdc", "pv_size":"1", "pv_free":"1"}]}]}"#,
        );
        let ctx = script.context(std::path::Path::new("/nowhere"));
        let found = groups(&ctx, true).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["empty", "pve"]);
        assert_eq!((found["pve"].size, found["pve"].free, found["pve"].volumes), (21_470_642_176, 12_884_901_888, 3));
        assert_eq!(found["pve"].physical[1].name, "/dev/sdb");
        assert_eq!(
            script.take(),
            "vgs --reportformat json --units b --nosuffix --options \
             vg_name,vg_size,vg_free,lv_count,pv_name,pv_size,pv_free\n"
        );
        script.fail("vgs", "  WARNING: bad\n  Failed to start lvmlockd.");
        assert_eq!(groups(&ctx, false).unwrap_err().message(), "command 'vgs' failed: Failed to start lvmlockd.");
    }

    #[test]
    fn volumes_tell_their_type_and_usage() {
        let volumes = parse_volumes(
            r#"  WARNING: something
              {"report": [{"lv": [
                {"vg_name":"pve", "lv_name":"data", "lv_size":"8589934592", "lv_attr":"twi-aotz--", "pool_lv":"",
                 "data_percent":"12.50", "metadata_percent":"50.00", "lv_metadata_size":"8388608", "lv_tags":"",
                 "lv_time":"1700000000"},
                {"vg_name":"pve", "lv_name":"vm-100-disk-0", "lv_size":"1073741824", "lv_attr":"Vwi-a-tz--",
                 "pool_lv":"data", "data_percent":"1.00", "metadata_percent":"", "lv_metadata_size":"",
                 "lv_tags":"pve-vm-100,x", "lv_time":""}]}]}"#,
        )
        .unwrap();
        assert_eq!((volumes[0].kind(), volumes[0].used(), volumes[0].metadata_used()), ('t', 1_073_741_824, 4_194_304));
        assert!(volumes[0].is_active() && !volumes[0].is_thick());
        assert!(volumes[1].is_thin_in("data") && !volumes[1].is_thin_in("other"));
        assert_eq!((volumes[1].tags.len(), volumes[1].created), (2, None));
        assert!(parse_volumes("no json").is_err());
    }

    #[test]
    fn names_are_never_options_or_paths() {
        for bad in ["", "-f", "a/b", "..", ".", "a b", "a\n", "a@b", "ä"] {
            assert!(check_name(bad, "volume group").is_err(), "{bad:?}");
        }
        assert_eq!(check_name("pve-data_1.x+", "volume group").unwrap(), "pve-data_1.x+");
    }
}

//! Limits of a running VM's drive: changed in place. (PVE: Blockdev.pm, set_io_throttle)

use super::config::{Drive, MachineVersion};
use super::qmp::Monitor;
use super::status;
use crate::{Context, Result, Vmid};
use serde_json::{Map, Value, json};

/// A limit's kind: the end of the option's name, and its names in a throttle group and in the older command.
const KINDS: [(&str, &str, &str); 3] = [("", "total", ""), ("_rd", "read", "_rd"), ("_wr", "write", "_wr")];

/// The limits of a drive, all of them, by option: rate, burst and the burst's length in seconds.
fn limits(drive: &Drive) -> Vec<(&'static str, &'static str, &'static str, &'static str, u64)> {
    let value = |key: String| drive.options.fraction(&key).unwrap_or(0.0);
    let mut limits = Vec::new();
    for (suffix, group, old) in KINDS {
        let bytes = |key: String| (value(key) * 1024.0 * 1024.0) as u64;
        limits.push(("bps", group, "", old, bytes(format!("mbps{suffix}"))));
        limits.push(("iops", group, "", old, value(format!("iops{suffix}")) as u64));
        limits.push(("bps", group, "-max", old, bytes(format!("mbps{suffix}_max"))));
        limits.push(("iops", group, "-max", old, value(format!("iops{suffix}_max")) as u64));
        limits.push(("bps", group, "-max-length", old, value(format!("bps{suffix}_max_length")).max(1.0) as u64));
        limits.push(("iops", group, "-max-length", old, value(format!("iops{suffix}_max_length")).max(1.0) as u64));
    }
    limits
}

/// The limits as a throttle group takes them.
fn of_group(drive: &Drive) -> Value {
    let named = |(unit, group, end, _, value)| (format!("{unit}-{group}{end}"), Value::from(value));
    Value::Object(limits(drive).into_iter().map(named).collect::<Map<_, _>>())
}

/// The limits as the command of machines before 10.0 takes them.
fn of_drive(drive: &Drive) -> Value {
    let named = |(unit, _, end, old, value): (_, _, &str, _, u64)| {
        (format!("{unit}{old}{}", end.replace('-', "_")), Value::from(value))
    };
    let mut all: Map<String, Value> = limits(drive).into_iter().map(named).collect();
    all.insert("device".into(), format!("drive-{}", drive.slot).into());
    Value::Object(all)
}

/// Makes the limits of a running VM's drive those of `new`, if they differ from those of `old`.
pub fn change(ctx: &Context, vmid: Vmid, old: &Drive, new: &Drive) -> Result<()> {
    if limits(old) == limits(new) {
        return Ok(());
    }
    let mut monitor = Monitor::connect(ctx, vmid)?;
    let machine = status::current_machine(&mut monitor)?;
    let has_group =
        machine.as_deref().and_then(MachineVersion::of_type).is_none_or(|version| version.at_least(10, 0, 0));
    if has_group {
        let path = format!("throttle-drive-{}", new.slot);
        monitor.execute("qom-set", json!({"path": path, "property": "limits", "value": of_group(new)}))?;
    } else {
        monitor.execute("block_set_io_throttle", of_drive(new))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_machine_get_every_limit() {
        let text = "local:100/a.raw,iops_wr=50,mbps=1.5,mbps_max=3,bps_max_length=4";
        let drive = Drive::parse("scsi1".parse().unwrap(), text).unwrap();
        let group = of_group(&drive);
        assert_eq!(group.as_object().unwrap().len(), 18);
        assert_eq!((&group["bps-total"], &group["bps-total-max"]), (&1_572_864.into(), &3_145_728.into()));
        assert_eq!((&group["bps-total-max-length"], &group["iops-read-max-length"]), (&4.into(), &1.into()));
        let old = of_drive(&drive);
        assert_eq!(old.as_object().unwrap().len(), 19);
        assert_eq!(
            (&old["iops_wr"], &old["bps"], &old["device"]),
            (&50.into(), &1_572_864.into(), &"drive-scsi1".into())
        );
        assert_eq!((&old["bps_max_length"], &old["iops_rd_max"]), (&4.into(), &0.into()));
    }
}

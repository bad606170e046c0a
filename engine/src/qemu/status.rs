//! Whether a VM runs and what it says of itself. Lists come from the live state; only what is here asks QEMU.

use super::config::{Machine, MachineVersion, Vm, highest_pve_revision};
use super::{files, qmp::Monitor};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::live::{self, GuestFacts, GuestRow, Look, Running, StatusRow, Usage};
use crate::{Context, Result, Vmid, guest};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long QEMU may take for what lists want to know.
const TOLD: Duration = Duration::from_secs(1);

/// Whether a VM runs.
pub fn is_running(ctx: &Context, vmid: Vmid) -> bool {
    files::process(ctx, vmid).is_some()
}

/// Whether a VM that must be on this node runs. (PVE: QemuConfig.pm, assert_config_exists_on_node)
///
/// # Errors
/// `unable to find configuration file for VM N on node 'X'`.
pub fn checked_running(ctx: &Context, vmid: Vmid) -> Result<bool> {
    if guest::path(ctx, GuestKind::Qemu, vmid).is_file() {
        return Ok(is_running(ctx, vmid));
    }
    crate::bail!("unable to find configuration file for VM {vmid} on node '{}'", ctx.node)
}

/// Everything about one VM, from QEMU as well when it runs. Whether it runs is looked up now, because clients wait on this
/// for the end of a start or stop. (PVE: qemu-server PVE/API2/Qemu.pm, vm_status)
pub fn current(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<Value> {
    let process = files::process(ctx, vmid);
    let mut running = process.and_then(|process| Running::begin(ctx, GuestKind::Qemu, vmid, process));
    if let Some(running) = &mut running {
        // The load between two looks is known to whoever looks regularly.
        let known = live::known(ctx, GuestKind::Qemu, vmid)?;
        if let Some(known) = known.filter(|known| known.process == running.process) {
            running.busy = known.busy;
            running.usage.take_told(&known.usage);
        }
    }
    let is_running = running.is_some();
    let guest = GuestRow { vmid, kind: GuestKind::Qemu, facts: Arc::new(GuestFacts::of(config)), running };
    let mut row = StatusRow::new(&guest, &Look::at(std::slice::from_ref(&guest))).into_map();
    let vm = Vm::new(vmid, &config.current);
    row.insert("ha".into(), json!({"managed": 0}));
    if let Some(vga) = vm.properties("~pve-qm-vga", "vga").ok().flatten() {
        if vga.text("type").is_some_and(|kind| kind.starts_with("qxl") || kind.starts_with("virtio")) {
            row.insert("spice".into(), 1.into());
        }
        // Null when the display has none.
        row.insert("clipboard".into(), vga.text("clipboard").into());
    }
    if vm.agent().unwrap_or_default().is_some() {
        row.insert("agent".into(), 1.into());
    }
    row.insert("qmpstatus".into(), guest.status().into());
    if is_running {
        row.insert("nics".into(), nics(vmid));
        if let Err(error) = ask_qemu(ctx, &vm, &mut row)
            && self::is_running(ctx, vmid)
        {
            // A VM that does not answer is still a running one; what could not be asked is missing from the answer.
            eprintln!("status of VM {vmid}: {error}");
        }
    }
    Ok(Value::Object(row))
}

/// What each network device has received and sent.
fn nics(vmid: Vmid) -> Value {
    let counters = live::counters::read().into_iter().filter(|counter| counter.vmid == vmid.number());
    let counted = counters.map(|counter| {
        let name = super::command_line::tap_name(vmid, counter.device);
        (name, json!({"netin": counter.received, "netout": counter.sent}))
    });
    Value::Object(counted.collect())
}

fn ask_qemu(ctx: &Context, vm: &Vm, row: &mut Map<String, Value>) -> Result<()> {
    let mut monitor = Monitor::connect(ctx, vm.vmid)?;
    let status = monitor.execute("query-status", json!({}))?;
    row.insert("qmpstatus".into(), status["status"].clone());
    let version = monitor.execute("query-version", json!({}))?["qemu"].clone();
    let number = |part: &str| version[part].as_u64().unwrap_or(0);
    row.insert("running-qemu".into(), format!("{}.{}.{}", number("major"), number("minor"), number("micro")).into());
    if let Some(machine) = running_machine(vm, &mut monitor)? {
        row.insert("running-machine".into(), machine.into());
    }
    let blocks = monitor.execute("query-blockstats", json!({}))?;
    row.insert("diskread".into(), total(&blocks, "rd_bytes").into());
    row.insert("diskwrite".into(), total(&blocks, "wr_bytes").into());
    row.insert("blockstat".into(), by_drive(&blocks));
    if let Some(balloon) = query_balloon(&mut monitor, TOLD) {
        if let Some(inside) = memory_inside(&balloon) {
            row.insert("mem".into(), inside.into());
            row.insert("freemem".into(), balloon["free_mem"].clone());
        }
        if let Some(most) = balloon["max_mem"].as_u64() {
            row.insert("maxmem".into(), most.into());
        }
        row.insert("balloon".into(), balloon["actual"].clone());
        row.insert("ballooninfo".into(), balloon);
    }
    Ok(())
}

/// What only QEMU knows of a running VM.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// What lists show.
    pub usage: Usage,
    /// Bytes of memory that its balloon leaves it.
    pub balloon: Option<u64>,
    /// Bytes of memory that are free inside, if the guest tells.
    pub free_inside: Option<u64>,
}

/// What only QEMU knows of a running VM, for lists. Asked on the socket for events, so that no task waits for it.
///
/// # Errors
/// When QEMU does not answer soon.
pub fn told(ctx: &Context, vmid: Vmid) -> Result<Told> {
    let mut monitor = Monitor::connect_beside(ctx, vmid, TOLD)?;
    let blocks = monitor.execute_within("query-blockstats", json!({}), TOLD)?;
    let balloon = query_balloon(&mut monitor, TOLD).unwrap_or_default();
    let usage = Usage {
        disk_read: total(&blocks, "rd_bytes"),
        disk_written: total(&blocks, "wr_bytes"),
        memory_inside: memory_inside(&balloon),
        ..Usage::default()
    };
    Ok(Told { usage, balloon: balloon["actual"].as_u64(), free_inside: balloon["free_mem"].as_u64() })
}

/// Tells a VM's balloon how many bytes of memory it is to leave the guest.
///
/// # Errors
/// When QEMU does not answer soon, or there is no balloon.
pub fn set_balloon(ctx: &Context, vmid: Vmid, bytes: u64) -> Result<()> {
    let mut monitor = Monitor::connect_beside(ctx, vmid, TOLD)?;
    monitor.execute_within("balloon", json!({"value": bytes}), TOLD).map(drop)
}

/// The sum of a counter over all drives.
fn total(blocks: &Value, key: &str) -> u64 {
    blocks.as_array().into_iter().flatten().filter_map(|block| block["stats"][key].as_u64()).sum()
}

/// The counters of each drive, by the name that the configuration has for it.
fn by_drive(blocks: &Value) -> Value {
    let named = blocks.as_array().into_iter().flatten().filter_map(|block| {
        let text = |key: &str| block[key].as_str().filter(|text| !text.is_empty());
        let id = text("device").or_else(|| {
            let mut parts = text("qdev")?.split('/');
            parts.rfind(|part| !part.is_empty() && *part != "virtio-backend")
        })?;
        Some((id.strip_prefix("drive-").unwrap_or(id).to_owned(), block["stats"].clone()))
    });
    Value::Object(named.collect())
}

/// The balloon, with what the guest's driver tells of its memory; `None` without a balloon. Only Proxmox's QEMU has both
/// in one answer.
fn query_balloon(monitor: &mut Monitor, timeout: Duration) -> Option<Value> {
    const TOLD_BY_DRIVER: [(&str, &str); 6] = [
        ("total_mem", "stat-total-memory"),
        ("free_mem", "stat-free-memory"),
        ("mem_swapped_in", "stat-swap-in"),
        ("mem_swapped_out", "stat-swap-out"),
        ("major_page_faults", "stat-major-faults"),
        ("minor_page_faults", "stat-minor-faults"),
    ];
    let mut balloon = monitor.execute_within("query-balloon", json!({}), timeout).ok()?;
    if balloon.get("total_mem").is_none() {
        let place = json!({"path": "machine/peripheral/balloon0", "property": "guest-stats"});
        let told = monitor.execute_within("qom-get", place, timeout).unwrap_or_default();
        for (name, stat) in TOLD_BY_DRIVER {
            // What the driver has not told is the largest number.
            if let Some(number) = told["stats"][stat].as_u64().filter(|number| *number != u64::MAX) {
                balloon[name] = number.into();
            }
        }
        if told["last-update"].as_i64().is_some_and(|time| time > 0) {
            balloon["last_update"] = told["last-update"].clone();
        }
    }
    Some(balloon)
}

/// Bytes that the guest itself says are in use, if its driver reports at all.
fn memory_inside(balloon: &Value) -> Option<u64> {
    Some(balloon["total_mem"].as_u64()?.saturating_sub(balloon["free_mem"].as_u64()?))
}

/// The versioned machine type that runs: `pc` is an alias, which QEMU resolves.
pub fn current_machine(monitor: &mut Monitor) -> Result<Option<String>> {
    let kind = monitor.execute("qom-get", json!({"path": "/machine", "property": "type"}))?;
    Ok(kind.as_str().map(|kind| kind.strip_suffix("-machine").unwrap_or(kind).to_owned()))
}

/// As [`current_machine`], with PVE's revision, which the distribution's QEMU does not know: that of the configured type,
/// for types without a version the newest of the version that runs. (PVE: Machine.pm, current_from_query_machines)
pub fn running_machine(vm: &Vm, monitor: &mut Monitor) -> Result<Option<String>> {
    let configured = Machine::parse(vm.text("machine"))?.configured_type();
    Ok(current_machine(monitor)?.map(|name| with_revision(name, configured.as_deref(), vm.windows() > 0)))
}

fn with_revision(name: String, configured: Option<&str>, is_windows: bool) -> String {
    let newest = || MachineVersion::of_type(&name).map_or(0, |found| highest_pve_revision(found.major, found.minor));
    let revision = match configured.and_then(MachineVersion::of_type) {
        Some(version) => version.pve,
        // Windows keeps the version that it was made with, as QEMU has it.
        None if is_windows => 0,
        None => newest(),
    };
    format!("{name}+pve{revision}")
}

/// The MTU that each virtio card has told its guest, as `net0=1500,net1=9000`; 0 where none was told.
/// (PVE: qemu-server Network.pm, get_nets_host_mtu)
pub fn told_mtus(vm: &Vm, monitor: &mut Monitor) -> Result<String> {
    let mut told = Vec::new();
    for (number, _) in vm.nets()?.into_iter().filter(|(_, net)| net.model() == "virtio") {
        let asked = json!({"path": format!("/machine/peripheral/net{number}"), "property": "host_mtu"});
        // A card that waits for the next start is not there.
        if let Ok(mtu) = monitor.execute("qom-get", asked) {
            told.push(format!("net{number}={}", mtu.as_u64().unwrap_or(0)));
        }
    }
    Ok(told.join(","))
}

/// Whether a running VM is paused. (PVE: QemuServer.pm, vm_is_paused)
pub fn is_paused(ctx: &Context, vmid: Vmid) -> bool {
    matches!(run_state(ctx, vmid).as_deref(), Some("paused" | "prelaunch" | "postmigrate"))
}

/// Whether a VM would hear a wish to shut down only later: it stands still, or the guest sleeps.
pub fn is_deaf(ctx: &Context, vmid: Vmid) -> bool {
    matches!(run_state(ctx, vmid).as_deref(), Some("paused" | "prelaunch" | "postmigrate" | "suspended"))
}

/// QEMU's word for what the machine does.
pub(super) fn run_state(ctx: &Context, vmid: Vmid) -> Option<String> {
    let status = super::qmp::execute(ctx, vmid, "query-status", json!({})).ok()?;
    status["status"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_the_revision_that_they_were_started_with() {
        let name = |running: &str, configured, windows| with_revision(running.to_owned(), configured, windows);
        assert_eq!(name("pc-i440fx-7.2", None, false), "pc-i440fx-7.2+pve0");
        assert_eq!(name("pc-q35-10.0", Some("q35"), false), "pc-q35-10.0+pve1");
        assert_eq!(name("pc-q35-10.0", Some("pc-q35-10.0"), false), "pc-q35-10.0+pve0");
        assert_eq!(name("pc-q35-9.2", Some("pc-q35-9.2+pve1"), true), "pc-q35-9.2+pve1");
        assert_eq!(name("pc-i440fx-9.2", None, true), "pc-i440fx-9.2+pve0");
    }

    #[test]
    fn counters_are_summed_up_and_named_by_drive() {
        let blocks = json!([
            {"device": "drive-scsi0", "stats": {"rd_bytes": 1, "wr_bytes": 2}},
            {"device": "", "qdev": "/machine/peripheral/virtio1/virtio-backend", "stats": {"rd_bytes": 10}},
            {"qdev": "ide2", "stats": {"rd_bytes": 100, "wr_bytes": 200}},
            {"stats": {"rd_bytes": 1000}},
        ]);
        assert_eq!((total(&blocks, "rd_bytes"), total(&blocks, "wr_bytes")), (1111, 202));
        let names: Vec<String> = by_drive(&blocks).as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["ide2", "scsi0", "virtio1"]);
        assert_eq!(memory_inside(&json!({"actual": 5})), None);
        assert_eq!(memory_inside(&json!({"total_mem": 5, "free_mem": 2})), Some(3));
    }
}

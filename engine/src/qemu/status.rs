//! Whether a VM runs and what it uses. [`probe`] reads a few files of `/proc`; only [`current`] asks QEMU itself.

use super::config::{BootOrder, Slot, Vm};
use super::{files, qmp::Monitor};
use crate::config::guest::GuestConfig;
use crate::{Context, Result, Vmid, network};
use serde_json::{Map, Value, json};
use std::fs;

/// A running VM as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// The process of QEMU.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime: u64,
    /// Clock ticks that it has run, in user and kernel mode.
    pub cpu_ticks: u64,
    /// Bytes of memory that it holds.
    pub mem: u64,
}

/// Looks for a VM's process; cheap enough for lists.
pub fn probe(ctx: &Context, vmid: Vmid) -> Option<Running> {
    let process = files::process(ctx, vmid)?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let boot: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    let hertz = rustix::param::clock_ticks_per_second();
    Some(Running {
        pid: process.pid,
        uptime: (boot as u64).saturating_sub(process.start / hertz),
        cpu_ticks: field(11) + field(12),
        mem: field(21) * rustix::param::page_size() as u64,
    })
}

/// Whether a VM runs.
pub fn is_running(ctx: &Context, vmid: Vmid) -> bool {
    files::process(ctx, vmid).is_some()
}

/// The row of a VM in lists: configuration and what [`probe`] found. (PVE: qemu-server QemuServer.pm, vmstatus)
pub fn row(ctx: &Context, vmid: Vmid, config: &GuestConfig, running: Option<Running>) -> Map<String, Value> {
    let vm = Vm::new(vmid, &config.current);
    let mut cpus = (vm.sockets() * vm.cores()).min(ctx.host.cpu_count());
    if vm.number("vcpus").is_some_and(|count| count > 0) {
        cpus = vm.vcpus();
    }
    let (from_guest, to_guest) = if running.is_some() { traffic(vmid, &vm) } else { (0, 0) };
    let mut row = json!({
        "vmid": vmid.number(),
        "status": if running.is_some() { "running" } else { "stopped" },
        "name": vm.text("name").map_or_else(|| format!("VM {vmid}"), str::to_owned),
        "cpus": cpus,
        "cpu": 0,
        "maxmem": vm.memory().unwrap_or(512) << 20,
        "mem": running.map_or(0, |running| running.mem),
        "memhost": running.map_or(0, |running| running.mem),
        "disk": 0,
        "maxdisk": boot_disk_size(&vm),
        "uptime": running.map_or(0, |running| running.uptime),
        "netin": to_guest,
        "netout": from_guest,
        "diskread": 0,
        "diskwrite": 0,
    });
    let row = row.as_object_mut().expect("it was written as an object");
    if let Some(running) = running {
        row.insert("pid".into(), running.pid.into());
    }
    if vm.is_template() {
        row.insert("template".into(), 1.into());
    }
    if vm.indexed("serial").iter().any(|(_, port)| *port == "socket") {
        row.insert("serial".into(), 1.into());
    }
    for key in ["lock", "tags"] {
        if let Some(text) = vm.text(key) {
            row.insert(key.into(), text.into());
        }
    }
    if let Some(least) = vm.number("balloon").filter(|least| *least > 0) {
        row.insert("balloon_min".into(), (least << 20).into());
        row.insert("shares".into(), vm.number("shares").unwrap_or(1000).into());
    }
    std::mem::take(row)
}

fn traffic(vmid: Vmid, vm: &Vm) -> (u64, u64) {
    let taps = vm.indexed("net").into_iter().map(|(number, _)| super::command_line::tap_name(vmid, number));
    taps.map(|tap| network::traffic(&tap)).fold((0, 0), |sum, (from, to)| (sum.0 + from, sum.1 + to))
}

/// The size of the first disk that the VM boots from. (PVE: Drive.pm, bootdisk_size)
fn boot_disk_size(vm: &Vm) -> u64 {
    let names = match BootOrder::parse(vm.text("boot")) {
        Ok(BootOrder::Devices(names)) => names,
        _ => vm.text("bootdisk").map(str::to_owned).into_iter().collect(),
    };
    let drives = vm.drives().unwrap_or_default();
    names
        .iter()
        .filter_map(|name| Slot::of_key(name))
        .filter_map(|slot| drives.iter().find(|(found, drive)| *found == slot && !drive.is_cdrom()))
        .find_map(|(_, drive)| drive.size())
        .unwrap_or(0)
}

/// Everything about one VM, from QEMU as well when it runs.
pub fn current(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<Value> {
    let running = probe(ctx, vmid);
    let mut row = row(ctx, vmid, config, running);
    let vm = Vm::new(vmid, &config.current);
    row.insert("ha".into(), json!({"managed": 0}));
    if vm.text("vga").is_some_and(|vga| vga.contains("qxl") || vga.contains("virtio")) {
        row.insert("spice".into(), 1.into());
    }
    if vm.agent().unwrap_or_default().is_some() {
        row.insert("agent".into(), 1.into());
    }
    let status = row["status"].clone();
    row.insert("qmpstatus".into(), status);
    if running.is_some()
        && let Err(error) = ask_qemu(ctx, vmid, &mut row)
        && is_running(ctx, vmid)
    {
        // A VM that does not answer is still a running one; what could not be asked is missing from the answer.
        eprintln!("status of VM {vmid}: {error}");
    }
    Ok(Value::Object(row))
}

fn ask_qemu(ctx: &Context, vmid: Vmid, row: &mut Map<String, Value>) -> Result<()> {
    let mut monitor = Monitor::connect(ctx, vmid)?;
    let status = monitor.execute("query-status", json!({}))?;
    row.insert("qmpstatus".into(), status["status"].clone());
    let version = monitor.execute("query-version", json!({}))?["qemu"].clone();
    let number = |part: &str| version[part].as_u64().unwrap_or(0);
    row.insert("running-qemu".into(), format!("{}.{}.{}", number("major"), number("minor"), number("micro")).into());
    if let Some(machine) = current_machine(&mut monitor)? {
        row.insert("running-machine".into(), machine.into());
    }
    let blocks = monitor.execute("query-blockstats", json!({}))?;
    let total = |key: &str| -> u64 {
        blocks.as_array().into_iter().flatten().filter_map(|block| block["stats"][key].as_u64()).sum()
    };
    row.insert("diskread".into(), total("rd_bytes").into());
    row.insert("diskwrite".into(), total("wr_bytes").into());
    // Fails without a balloon.
    if let Ok(balloon) = monitor.execute("query-balloon", json!({})) {
        row.insert("balloon".into(), balloon["actual"].clone());
    }
    Ok(())
}

/// The versioned machine type that runs: `pc` is an alias, which QEMU resolves.
pub fn current_machine(monitor: &mut Monitor) -> Result<Option<String>> {
    let kind = monitor.execute("qom-get", json!({"path": "/machine", "property": "type"}))?;
    Ok(kind.as_str().map(|kind| kind.strip_suffix("-machine").unwrap_or(kind).to_owned()))
}

/// Whether a running VM is paused. (PVE: QemuServer.pm, vm_is_paused)
pub fn is_paused(ctx: &Context, vmid: Vmid) -> bool {
    let status = super::qmp::execute(ctx, vmid, "query-status", json!({}));
    let status = status.ok().and_then(|status| status["status"].as_str().map(str::to_owned));
    matches!(status.as_deref(), Some("paused" | "prelaunch" | "postmigrate"))
}

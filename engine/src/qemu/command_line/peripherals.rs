//! The process itself (name, sockets, pid file) and the small devices: serial ports, agent, balloon, watchdog, clock.

use super::builder::{Builder, escape_commas, fail};
use crate::Result;
use crate::qemu::config::Properties;

/// Program, name, monitor sockets, identity.
pub(super) fn start(builder: &mut Builder) -> Result<()> {
    if let Some(affinity) = builder.vm.text("affinity") {
        let prefix = ["/usr/bin/taskset", "--cpu-list", "--all-tasks", affinity].map(str::to_owned);
        builder.command.extend(prefix);
    }
    builder.command.push("/usr/bin/kvm".into());
    builder.option("-id", builder.vm.vmid.to_string());
    let qemu = builder.host.qemu_version()?.clone();
    let name = builder.vm.name();
    builder.option("-name", if qemu.at_least(11, 0) { name } else { format!("{name},debug-threads=on") });
    builder.command.push("-no-shutdown".into());
    let socket = builder.run_file("qmp");
    builder.option("-chardev", format!("socket,id=qmp,path={socket},server=on,wait=off"));
    builder.option("-mon", "chardev=qmp,mode=control");
    if builder.at_least(2, 12) {
        let reconnect = if qemu.at_least(9, 2) { "reconnect-ms=5000" } else { "reconnect=5" };
        let events = builder.options.paths.events.clone();
        builder.option("-chardev", format!("socket,id=qmp-event,path={events},{reconnect}"));
        builder.option("-mon", "chardev=qmp-event,mode=control");
    }
    builder.option("-pidfile", builder.run_file("pid"));
    builder.command.push("-daemonize".into());
    if let Some(smbios) = builder.vm.properties("pve-qm-smbios1", "smbios1")? {
        builder.option("-smbios", format!("type=1{}", smbios_values(&smbios)?));
    }
    Ok(())
}

/// The values in the order of their names; all but the UUID may be stored in base 64.
fn smbios_values(smbios: &Properties) -> Result<String> {
    let mut text = String::new();
    for key in ["family", "manufacturer", "product", "serial", "sku", "uuid", "version"] {
        let Some(mut value) = smbios.text(key) else { continue };
        if smbios.is_on("base64") && key != "uuid" {
            let Ok(bytes) = openssl::base64::decode_block(&value) else {
                return fail(format!("unable to parse 'smbios1': {key} is no base 64 text"));
            };
            value = String::from_utf8_lossy(&bytes).into_owned();
        }
        text += &format!(",{key}={}", escape_commas(&value));
    }
    Ok(text)
}

/// The number that changes when a VM is cloned or rolled back.
pub(super) fn generation_id(builder: &mut Builder) {
    if let Some(id) = builder.vm.text("vmgenid") {
        builder.device(format!("vmgenid,guid={id}"));
    }
}

/// Serial ports on sockets; real ports of the host must exist.
pub(super) fn serial_ports(builder: &mut Builder) -> Result<()> {
    for (number, port) in builder.vm.indexed("serial") {
        if port == "socket" {
            let socket = builder.run_file(&format!("serial{number}"));
            builder.device_option("-chardev", format!("socket,id=serial{number},path={socket},server=on,wait=off"));
        } else if std::path::Path::new(port).exists() {
            builder.device_option("-chardev", format!("serial,id=serial{number},path={port}"));
        } else {
            return fail("no such serial device");
        }
        builder.device(format!("isa-serial,chardev=serial{number}"));
    }
    Ok(())
}

/// No default devices, the boot menu, and what a reset means.
pub(super) fn firmware_menu(builder: &mut Builder) {
    builder.command.push("-nodefaults".into());
    let splash = "/usr/share/qemu-server/bootsplash.jpg";
    builder.option("-boot", format!("menu=on,strict=on,reboot-timeout=1000,splash={splash}"));
    if builder.vm.flag("acpi") == Some(false) {
        builder.machine_flags.push("acpi=off".into());
    }
    if builder.vm.flag("reboot") == Some(false) {
        builder.command.push("-no-reboot".into());
    }
}

/// The real-time clock and timers. (PVE: Cfg2Cmd/Timer.pm)
pub(super) fn clock(builder: &mut Builder) {
    let windows = builder.vm.windows();
    let acpi = builder.vm.flag("acpi").unwrap_or(true);
    let drift_fix = builder.vm.flag("tdf").unwrap_or(windows >= 5 && acpi);
    let localtime = builder.vm.flag("localtime").unwrap_or(windows >= 5);
    if windows >= 6 {
        builder.option("-global", "kvm-pit.lost_tick_policy=discard");
        builder.machine_flags.push("hpet=off".into());
    } else if builder.vm.ostype().unwrap_or("other") == "l26" && builder.uses(10, 1, 0) {
        builder.machine_flags.push("hpet=off".into());
    }
    if drift_fix {
        builder.rtc_flags.push("driftfix=slew".into());
    }
    match builder.vm.text("startdate") {
        Some(date) if date != "now" => builder.rtc_flags.push(format!("base={date}")),
        _ if localtime => builder.rtc_flags.push("base=localtime".into()),
        _ => {}
    }
}

/// Whether the guest waits, and the layout of the keyboard.
pub(super) fn keyboard(builder: &mut Builder) {
    if builder.vm.flag("freeze") == Some(true) {
        builder.command.push("-S".into());
    }
    if let Some(layout) = builder.vm.text("keyboard") {
        builder.option("-k", layout);
    }
}

/// The channel of the guest agent.
pub(super) fn agent(builder: &mut Builder) -> Result<()> {
    let Some(kind) = builder.vm.agent()? else { return Ok(()) };
    let socket = builder.run_file("qga");
    builder.device_option("-chardev", format!("socket,path={socket},server=on,wait=off,id=qga0"));
    if kind == "virtio" {
        let address = builder.pci_address("qga0");
        builder.device(format!("virtio-serial,id=qga0{address}"));
        builder.device("virtserialport,chardev=qga0,name=org.qemu.guest_agent.0");
    } else {
        builder.device("isa-serial,chardev=qga0");
    }
    Ok(())
}

/// A source of random numbers.
pub(super) fn random_source(builder: &mut Builder) -> Result<()> {
    let Some(random) = builder.vm.properties("pve-qm-rng", "rng0")? else { return Ok(()) };
    if !builder.uses(4, 1, 2) {
        return Ok(());
    }
    let source = random.text("source").unwrap_or_else(|| "/dev/urandom".into());
    if !std::path::Path::new(&source).exists() {
        return fail(format!("cannot create VirtIO RNG device: source file '{source}' doesn't exist"));
    }
    let limit = match random.number("max_bytes").unwrap_or(1024) {
        0 => String::new(),
        bytes => format!(",max-bytes={bytes},period={}", random.number("period").unwrap_or(1000)),
    };
    builder.device_option("-object", format!("rng-random,filename={source},id=rng0"));
    let address = builder.pci_address("rng0");
    builder.device(format!("virtio-rng-pci,rng=rng0{limit}{address}"));
    Ok(())
}

/// The balloon, unless it is switched off.
pub(super) fn balloon(builder: &mut Builder) {
    if builder.vm.number("balloon") == Some(0) {
        return;
    }
    let address = builder.pci_address("balloon0");
    let reporting = if builder.at_least(6, 2) { ",free-page-reporting=on" } else { "" };
    builder.device(format!("virtio-balloon-pci,id=balloon0{address}{reporting}"));
}

/// The watchdog and what it does.
pub(super) fn watchdog(builder: &mut Builder) -> Result<()> {
    let Some(watchdog) = builder.vm.properties("pve-qm-watchdog", "watchdog")? else { return Ok(()) };
    let model = watchdog.text("model").unwrap_or_else(|| "i6300esb".into());
    let address = builder.pci_address("watchdog");
    builder.device(format!("{model}{address}"));
    if let Some(action) = watchdog.text("action") {
        builder.device_option("-watchdog-action", action);
    }
    Ok(())
}

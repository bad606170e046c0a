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
    let program =
        if builder.is_native { "/usr/bin/kvm".into() } else { format!("/usr/bin/qemu-system-{}", builder.arch) };
    builder.command.push(program);
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
            value = lenient_base64(&value);
        }
        if value.is_empty() || value == "0" {
            continue;
        }
        text += &format!(",{key}={}", escape_commas(&value));
    }
    Ok(text)
}

/// Perl's decoder passes over whatever is no base 64.
fn lenient_base64(text: &str) -> String {
    let mut clean: String = text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/')).collect();
    clean.truncate(clean.len() - usize::from(clean.len() % 4 == 1));
    clean.extend(std::iter::repeat_n('=', (4 - clean.len() % 4) % 4));
    let bytes = openssl::base64::decode_block(&clean).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// The number that changes when a VM is cloned or rolled back.
pub(super) fn generation_id(builder: &mut Builder) {
    if let Some(id) = builder.vm.text("vmgenid").filter(|id| *id != "0") {
        builder.device(format!("vmgenid,guid={id}"));
    }
}

/// Serial ports on sockets; real ports of the host must exist.
pub(super) fn serial_ports(builder: &mut Builder) -> Result<()> {
    for (number, port) in builder.vm.indexed("serial").into_iter().filter(|(number, _)| *number < 4) {
        if port == "socket" {
            let socket = builder.run_file(&format!("serial{number}"));
            builder.device_option("-chardev", format!("socket,id=serial{number},path={socket},server=on,wait=off"));
            if builder.is_arm() && number == 0 {
                // The first port of this machine is part of the board.
                builder.device_option("-serial", format!("chardev:serial{number}"));
                continue;
            }
        } else if is_character_device(builder, port) {
            builder.device_option("-chardev", format!("serial,id=serial{number},path={port}"));
        } else {
            return fail("no such serial device");
        }
        builder.device(format!("isa-serial,chardev=serial{number}"));
    }
    Ok(())
}

/// Parallel ports of the host, and printers on USB, which look like one.
pub(super) fn parallel_ports(builder: &mut Builder) -> Result<()> {
    for (number, port) in builder.vm.indexed("parallel").into_iter().filter(|(number, _)| *number < 3) {
        if !is_character_device(builder, port) {
            return fail("no such parallel device");
        }
        let kind = if port.starts_with("/dev/usb/lp") { "serial" } else { "parallel" };
        builder.device_option("-chardev", format!("{kind},id=parallel{number},path={port}"));
        builder.device(format!("isa-parallel,chardev=parallel{number}"));
    }
    Ok(())
}

fn is_character_device(builder: &Builder, path: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    builder.host.is_imagined() || std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
}

/// The TPM, which is a process of its own. Backups of templates do without.
pub(super) fn trusted_platform_module(builder: &mut Builder) {
    if builder.vm.text("tpmstate0").is_none() || builder.vm.is_template() {
        return;
    }
    let socket = builder.run_file("swtpm");
    builder.device_option("-chardev", format!("socket,id=tpmchar,path={socket}"));
    builder.device_option("-tpmdev", "emulator,id=tpmdev,chardev=tpmchar");
    builder.device("tpm-tis,tpmdev=tpmdev");
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
    }
    let has_no_use = windows >= 6 || (builder.vm.ostype() == Some("l26") && builder.uses(10, 1, 0));
    if has_no_use && !builder.is_virt() {
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
    if !builder.host.is_imagined() {
        check_random_source(&source)?;
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

/// A source that cannot give anything would crash QEMU when it is first asked.
fn check_random_source(source: &str) -> Result<()> {
    if !std::path::Path::new(source).exists() {
        return fail(format!("cannot create VirtIO RNG device: source file '{source}' doesn't exist"));
    }
    let current = "/sys/devices/virtual/misc/hw_random/rng_current";
    if source == "/dev/hwrng" && std::fs::read_to_string(current).is_ok_and(|name| name.trim() == "none") {
        return fail(format!(
            "Cannot start VM with passed-through RNG device: '/dev/hwrng' exists, but '{current}' is set to 'none'. \
             Ensure that a compatible hardware-RNG is attached to the host."
        ));
    }
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

//! USB controllers, and devices of the host or of a SPICE client. (PVE: qemu-server USB.pm)

use super::builder::{Builder, fail};
use crate::Result;
use crate::mapping::{Kind, usb_problem};
use crate::qemu::config::Properties;

/// How many devices a VM can have with the newer controller, and with the older ones.
const MOST: u32 = 14;
const MOST_BEFORE: u32 = 5;

/// Whether all devices go to one controller that every system of today knows.
fn has_new_controller(builder: &Builder) -> bool {
    let is_known = builder.vm.ostype() == Some("l26") || builder.vm.windows() > 7;
    builder.at_least(7, 1) && is_known
}

/// The options, by number.
fn parsed(builder: &Builder) -> Result<Vec<(u32, Properties)>> {
    let is_new = has_new_controller(builder);
    let mut devices = Vec::new();
    for (number, text) in builder.vm.indexed("usb").into_iter().filter(|(number, _)| *number < MOST) {
        if number >= MOST_BEFORE && !is_new {
            return fail(format!(
                "using usb{number} is only possible with machine type >= 7.1 and ostype l26 or windows > 7"
            ));
        }
        if let Ok(options) = Properties::parse("pve-qm-usb", &format!("usb{number}"), text) {
            devices.push((number, options));
        }
    }
    Ok(devices)
}

/// The controller that the tablet is plugged into (Q35 brings its own), and those of devices.
pub(super) fn controllers(builder: &mut Builder) -> Result<()> {
    if builder.is_arm() {
        let address = builder.pci_address("ehci");
        builder.device(format!("usb-ehci,id=ehci{address}"));
    } else if !builder.is_q35() {
        let address = builder.pci_address("piix3");
        builder.device(format!("piix3-usb-uhci,id=uhci{address}.0x2"));
    }
    let devices = parsed(builder)?;
    let is_new = has_new_controller(builder);
    let has_fast = devices.iter().any(|(_, options)| options.is_on("usb3"));
    let has_slow = devices.iter().any(|(_, options)| !options.is_on("usb3"));
    if !is_new && !builder.is_q35() && has_slow && !builder.is_arm() {
        builder.device_option("-readconfig", "/usr/share/qemu-server/pve-usb.cfg");
    }
    // PVE looks up the place of this controller even without one, which brings its bridge in.
    let address = builder.pci_address("xhci");
    if is_new && !devices.is_empty() {
        builder.device(format!("qemu-xhci,p2=15,p3=15,id=xhci{address}"));
    } else if has_fast {
        builder.device(format!("nec-usb-xhci,id=xhci{address}"));
    }
    Ok(())
}

/// The devices.
pub(super) fn devices(builder: &mut Builder) -> Result<()> {
    let is_new = has_new_controller(builder);
    for (number, options) in parsed(builder)? {
        let id = format!("usb{number}");
        let port = if is_new { format!(",port={}", number + 1) } else { String::new() };
        if options.text("host").as_deref() == Some("spice") {
            let is_fast = (options.is_on("usb3") && builder.at_least(4, 0)) || is_new;
            let bus = if is_fast { "xhci" } else { "ehci" };
            builder.device_option("-chardev", format!("spicevmc,id=usbredirchardev{number},name=usbredir"));
            builder
                .device(format!("usb-redir,chardev=usbredirchardev{number},id=usbredirdev{number},bus={bus}.0{port}"));
            if builder.boot.contains_key(&id) {
                builder.notes.push("warning: spice usb port set as bootdevice, ignoring".into());
            }
            continue;
        }
        let bus = if options.is_on("usb3") || is_new { ",bus=xhci.0" } else { "" };
        let place = place(builder, &options)?;
        let boot = builder.boot_index(&id);
        builder.device(format!("usb-host{bus}{port}{place},id={id}{boot}"));
    }
    Ok(())
}

/// Which device of the host is meant.
fn place(builder: &Builder, options: &Properties) -> Result<String> {
    let text = match (options.text("host"), options.text("mapping")) {
        (Some(host), None) => host,
        (None, Some(name)) => mapped(builder, &name)?,
        _ => return fail("no usb id or path given"),
    };
    match placed(&text) {
        Some(place) => Ok(place),
        None => fail("no usb id or path given"),
    }
}

fn mapped(builder: &Builder, name: &str) -> Result<String> {
    let entries = builder.around.mappings.entries(Kind::Usb, name);
    let entry = match entries.as_slice() {
        [] => return fail(format!("USB device mapping not found for '{name}'")),
        [entry] => entry,
        _ => return fail("More than one USB mapping per host not supported"),
    };
    if let Some(problem) = builder.around.usb.as_ref().and_then(|devices| usb_problem(name, entry, devices)) {
        return fail(format!("USB Mapping invalid (hardware probably changed): {problem}"));
    }
    Ok(entry.text("path").or_else(|| entry.text("id")).unwrap_or_default())
}

/// `046d:c52b` or `1-1.4` as QEMU takes it.
fn placed(text: &str) -> Option<String> {
    if let Some((vendor, product)) = text.split_once(':') {
        let hex = |id: &str| {
            let id = id.strip_prefix("0x").unwrap_or(id).to_owned();
            (id.len() == 4 && id.chars().all(|c| c.is_ascii_hexdigit())).then_some(id)
        };
        return Some(format!(",vendorid=0x{},productid=0x{}", hex(vendor)?, hex(product)?));
    }
    let (bus, port) = text.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    (is_number(bus) && port.split('.').all(is_number)).then(|| format!(",hostbus={bus},hostport={port}"))
}

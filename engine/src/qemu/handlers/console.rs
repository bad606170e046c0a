//! Consoles of a VM.

use crate::config::guest::{GuestConfig, GuestKind};
use crate::console::{self, Behind, Wish};
use crate::qemu::config::Vm;
use crate::qemu::spice::viewer;
use crate::qemu::{picture as display, terminal as port};
use crate::{Call, Reply, Result, Vmid, guest};

fn wish(vmid: Vmid, is_picture: bool) -> Wish<'static> {
    let path = format!("/vms/{vmid}");
    Wish { kind: "vncproxy", id: vmid.to_string(), path, privilege: "VM.Console", is_picture }
}

/// The serial port that is the VM's display, if one is.
fn serial_display(vmid: Vmid, config: &GuestConfig) -> Result<Option<String>> {
    let vga = Vm::new(vmid, &config.current).properties("~pve-qm-vga", "vga")?;
    Ok(vga.and_then(|vga| vga.text("type")).filter(|kind| kind.starts_with("serial")))
}

/// `POST termproxy`: a serial port.
pub fn terminal(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let serial = match call.text("serial") {
        Some(serial) => Some(serial),
        None => serial_display(vmid, &config)?,
    };
    console::open(call, &wish(vmid, false), |task, console| {
        console::serve_terminal(task, console, || {
            Ok(Behind::Socket(port::open(task.ctx, vmid, serial.as_deref())?.stream))
        })
    })
}

/// `POST vncproxy`: the screen, or the serial port that is used instead of one.
pub fn picture(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let serial = serial_display(vmid, &config)?;
    console::open(call, &wish(vmid, true), |task, console| match &serial {
        Some(serial) => console::serve_picture(task, console, || {
            Ok(Behind::Socket(port::open(task.ctx, vmid, Some(serial))?.stream))
        }),
        None => {
            let client = console::accept(console.listener)?;
            let display = display::open(task.ctx, vmid, console.password)?;
            console::relay(&client, &display)
        }
    })
}

/// `POST spiceproxy`: what a SPICE viewer's configuration file has.
pub fn spice(call: &Call) -> Result<Reply> {
    let proxy = call.text("proxy");
    viewer(call.ctx, call.param("vmid")?, proxy.as_deref()).map(Reply::from)
}

/// `GET vncwebsocket`.
pub fn web_socket(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    console::join(call, &format!("/vms/{vmid}"))
}

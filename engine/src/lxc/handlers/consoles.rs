//! Consoles of a container. (PVE: API2/LXC.pm vncproxy, termproxy, spiceproxy, vncwebsocket; LXC.pm get_console_command)

use super::vmid;
use crate::config::guest::{GuestKind, Part};
use crate::console::{self, Behind, Wish};
use crate::lxc::monitor;
use crate::registry::{Binding, get, post};
use crate::{Call, Context, Reply, Result, Vmid, bail, guest};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    post("/nodes/{node}/lxc/{vmid}/termproxy", terminal),
    post("/nodes/{node}/lxc/{vmid}/vncproxy", picture),
    post("/nodes/{node}/lxc/{vmid}/spiceproxy", spice),
    get("/nodes/{node}/lxc/{vmid}/vncwebsocket", web_socket),
];

/// Switches the key that leaves a console off: there is nobody to go back to.
const NO_ESCAPE: &str = "-1";

fn wish(vmid: Vmid, is_picture: bool) -> Wish<'static> {
    let path = format!("/vms/{vmid}");
    Wish { kind: "vncproxy", id: vmid.to_string(), path, privilege: "VM.Console", is_picture }
}

/// The program that joins a terminal with the container's.
fn program(ctx: &Context, vmid: Vmid, part: &Part) -> Result<Behind> {
    words(ctx, vmid, part).map(Behind::Program)
}

fn words(ctx: &Context, vmid: Vmid, part: &Part) -> Result<Vec<String>> {
    if monitor::init(ctx, vmid).is_none() {
        bail!("CT {vmid} not running");
    }
    let (place, vmid) = (monitor::containers(ctx).to_string_lossy().into_owned(), vmid.to_string());
    let words: &[&str] = match part.get("cmode").unwrap_or("tty") {
        "shell" => &["lxc-attach", "-P", &place, "--clear-env", "-n", &vmid],
        "console" => &["lxc-console", "-P", &place, "-n", &vmid, "-t", "0", "-e", NO_ESCAPE],
        _ => &["lxc-console", "-P", &place, "-n", &vmid, "-e", NO_ESCAPE],
    };
    Ok(words.iter().map(|word| (*word).to_owned()).collect())
}

fn terminal(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let part = guest::load(call.ctx, GuestKind::Lxc, vmid)?.current;
    console::open(call, &wish(vmid, false), |task, console| {
        console::serve_terminal(task, console, || program(task.ctx, vmid, &part))
    })
}

fn picture(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let part = guest::load(call.ctx, GuestKind::Lxc, vmid)?.current;
    console::open(call, &wish(vmid, true), |task, console| {
        console::serve_picture(task, console, || program(task.ctx, vmid, &part))
    })
}

fn spice(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let part = guest::load(call.ctx, GuestKind::Lxc, vmid)?.current;
    let command = words(call.ctx, vmid, &part)?;
    let wish = Wish { kind: "spiceproxy", ..wish(vmid, true) };
    console::spice::open(call, &wish, &format!("CT {vmid}"), vmid, &command)
}

fn web_socket(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    console::join(call, &format!("/vms/{vmid}"))
}

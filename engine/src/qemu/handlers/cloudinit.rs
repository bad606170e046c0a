//! Cloud-init over the interface.

use crate::config::guest::GuestKind;
use crate::qemu::cloudinit::{self, Section};
use crate::registry::{Binding, get, put};
use crate::{Call, Reply, Result, Vmid, access, guest, lock};
use serde_json::Value;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/qemu/{vmid}/cloudinit", list),
    put("/nodes/{node}/qemu/{vmid}/cloudinit", regenerate),
    get("/nodes/{node}/qemu/{vmid}/cloudinit/dump", dump),
];

/// What the disc says, and what it will say when it is written again.
fn list(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    Ok(Reply::from(Value::Array(cloudinit::changes::listing(&config))))
}

/// Writes the disc again, also under a running guest.
fn regenerate(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let _lock = lock::acquire(call.ctx, &lock::guest(vmid), "cloudinit", |_| {})?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    guest::check_lock(&config)?;
    cloudinit::renew(call.ctx, vmid, &config, &mut |_| {})?;
    Ok(Reply::null())
}

fn dump(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let section = match call.text("type").as_deref() {
        Some("network") => Section::Network,
        Some("meta") => Section::Meta,
        _ => Section::User,
    };
    let mask = !access::has(call.ctx, &format!("/vms/{vmid}"), &["VM.Config.Cloudinit"]);
    cloudinit::dump(call.ctx, vmid, &config.current, section, mask).map(|text| Reply::from(Value::String(text)))
}

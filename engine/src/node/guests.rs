//! `/nodes/{node}/qemu` and `/nodes/{node}/lxc`: the lists of guests.
//! (PVE: qemu-server PVE/QemuServer.pm, vmstatus; pve-container PVE/LXC.pm, vmstatus)

use crate::access::View;
use crate::config::guest::GuestKind;
use crate::live::{self, Look, StatusRow};
use crate::{Call, Reply, Result};

/// `GET /nodes/{node}/qemu`.
pub fn virtual_machines(call: &Call) -> Result<Reply> {
    list(call, GuestKind::Qemu)
}

/// `GET /nodes/{node}/lxc`.
pub fn containers(call: &Call) -> Result<Reply> {
    list(call, GuestKind::Lxc)
}

fn list(call: &Call, kind: GuestKind) -> Result<Reply> {
    let view = View::of(call.ctx)?;
    let mut guests = live::guests_of(call.ctx, kind)?;
    guests.retain(|row| row.is_visible_to(&view));
    let look = Look::at(&guests);
    let rows: Vec<StatusRow> = guests.iter().map(|guest| StatusRow::new(guest, &look)).collect();
    Reply::list(&rows)
}

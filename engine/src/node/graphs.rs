//! `…/rrddata`: what node, guests and storages used, as rows for graphs. Values that are not known are missing, never null.
//! (PVE: pve-cluster PVE/RRD.pm, create_rrd_data; pve-manager PVE/API2/Nodes.pm; qemu-server PVE/API2/Qemu.pm;
//! pve-container PVE/API2/LXC.pm; pve-storage PVE/API2/Storage/Status.pm)

use crate::config::guest::GuestKind;
use crate::live::history::{self, Consolidation, Kind};
use crate::{Call, Reply, Result, Vmid, guest, storage};
use serde_json::{Map, Value, json};

/// `GET /nodes/{node}/rrddata`.
pub fn of_node(call: &Call) -> Result<Reply> {
    answer(call, Kind::Node, call.ctx.node.clone())
}

/// `GET /nodes/{node}/qemu/{vmid}/rrddata`.
pub fn of_machine(call: &Call) -> Result<Reply> {
    of_guest(call, GuestKind::Qemu)
}

/// `GET /nodes/{node}/lxc/{vmid}/rrddata`.
pub fn of_container(call: &Call) -> Result<Reply> {
    of_guest(call, GuestKind::Lxc)
}

fn of_guest(call: &Call, kind: GuestKind) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    guest::load(call.ctx, kind, vmid)?;
    answer(call, Kind::Guest, vmid.to_string())
}

/// `GET /nodes/{node}/storage/{storage}/rrddata`.
pub fn of_storage(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    storage::find(call.ctx, &id)?;
    answer(call, Kind::Storage, id)
}

fn answer(call: &Call, kind: Kind, name: String) -> Result<Reply> {
    let frame: String = call.param("timeframe")?;
    let how = match call.text("cf").as_deref() {
        Some("MAX") => Consolidation::Max,
        _ => Consolidation::Average,
    };
    let rows = history::read(call.ctx, &(kind, name), &frame, how)?;
    let rows: Vec<Map<String, Value>> = rows
        .into_iter()
        .map(|row| {
            let known = kind.names().iter().zip(row.values).filter(|(_, value)| !value.is_nan());
            let mut members: Map<String, Value> =
                known.map(|(name, value)| ((*name).to_owned(), plain(value))).collect();
            members.insert("time".into(), json!(row.time));
            members
        })
        .collect();
    Reply::list(&rows)
}

/// Whole numbers without a fraction.
fn plain(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

//! `…/rrddata`: what node, guests and storages used, as rows for graphs. Values that are not known are missing, never null.
//! `…/rrd`: the same as a picture.
//! (PVE: pve-cluster PVE/RRD.pm, create_rrd_data; pve-manager PVE/API2/Nodes.pm; qemu-server PVE/API2/Qemu.pm;
//! pve-container PVE/API2/LXC.pm; pve-storage PVE/API2/Storage/Status.pm)

use super::chart::{self, Series};
use crate::config::guest::GuestKind;
use crate::live::history::{self, Consolidation, Kind, Row, Subject};
use crate::types::split_list;
use crate::{Call, Reply, Result, Vmid, bail, guest, storage};
use serde_json::{Map, Value, json};

/// `GET /nodes/{node}/rrddata`.
pub fn of_node(call: &Call) -> Result<Reply> {
    answer(call, &node_of(call))
}

/// `GET /nodes/{node}/rrd`.
pub fn picture_of_node(call: &Call) -> Result<Reply> {
    picture(call, &node_of(call))
}

/// `GET /nodes/{node}/qemu/{vmid}/rrddata`.
pub fn of_machine(call: &Call) -> Result<Reply> {
    answer(call, &guest_of(call, GuestKind::Qemu)?)
}

/// `GET /nodes/{node}/qemu/{vmid}/rrd`.
pub fn picture_of_machine(call: &Call) -> Result<Reply> {
    picture(call, &guest_of(call, GuestKind::Qemu)?)
}

/// `GET /nodes/{node}/lxc/{vmid}/rrddata`.
pub fn of_container(call: &Call) -> Result<Reply> {
    answer(call, &guest_of(call, GuestKind::Lxc)?)
}

/// `GET /nodes/{node}/lxc/{vmid}/rrd`.
pub fn picture_of_container(call: &Call) -> Result<Reply> {
    picture(call, &guest_of(call, GuestKind::Lxc)?)
}

/// `GET /nodes/{node}/storage/{storage}/rrddata`.
pub fn of_storage(call: &Call) -> Result<Reply> {
    answer(call, &storage_of(call)?)
}

/// `GET /nodes/{node}/storage/{storage}/rrd`.
pub fn picture_of_storage(call: &Call) -> Result<Reply> {
    picture(call, &storage_of(call)?)
}

fn node_of(call: &Call) -> Subject {
    (Kind::Node, call.ctx.node.clone())
}

fn guest_of(call: &Call, kind: GuestKind) -> Result<Subject> {
    let vmid: Vmid = call.param("vmid")?;
    guest::load(call.ctx, kind, vmid)?;
    Ok((Kind::Guest, vmid.to_string()))
}

fn storage_of(call: &Call) -> Result<Subject> {
    let id: String = call.param("storage")?;
    storage::find(call.ctx, &id)?;
    Ok((Kind::Storage, id))
}

fn rows(call: &Call, subject: &Subject) -> Result<Vec<Row>> {
    let frame: String = call.param("timeframe")?;
    let how = match call.text("cf").as_deref() {
        Some("MAX") => Consolidation::Max,
        _ => Consolidation::Average,
    };
    history::read(call.ctx, subject, &frame, how)
}

/// The picture, and the name that PVE would give its file. A byte is a character of the text, as in PVE's answers.
fn picture(call: &Call, subject: &Subject) -> Result<Reply> {
    let (kind, name) = subject;
    let file = match kind {
        Kind::Node => format!("pve-node-9.0/{name}"),
        Kind::Guest => format!("pve-vm-9.0/{name}"),
        Kind::Storage => format!("pve-storage-9.0/{}/{name}", call.ctx.node),
    };
    let file = format!("/var/lib/rrdcached/db/{file}");
    let wanted = split_list(&call.param::<String>("ds")?);
    if wanted.len() > chart::SERIES {
        bail!("no colour for more than {} series", chart::SERIES);
    }
    let rows = rows(call, subject)?;
    let mut series = Vec::new();
    for name in &wanted {
        let Some(place) = kind.names().iter().position(|known| known == name) else {
            bail!("RRD error: No DS called '{name}' in '{file}'");
        };
        // Shares are shown as percent.
        let factor = if matches!(name.as_str(), "cpu" | "iowait") { 100.0 } else { 1.0 };
        let values = rows.iter().map(|row| row.values[place] * factor).collect();
        series.push(Series { name: name.clone(), values });
    }
    let image: String = chart::draw(&series).into_iter().map(char::from).collect();
    Ok(Reply::from(json!({ "filename": format!("{file}_{}.png", wanted.join("_")), "image": image })))
}

fn answer(call: &Call, subject: &Subject) -> Result<Reply> {
    let rows = rows(call, subject)?;
    let rows: Vec<Map<String, Value>> = rows
        .into_iter()
        .map(|row| {
            let known = subject.0.names().iter().zip(row.values).filter(|(_, value)| !value.is_nan());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, registry};
    use contract::Verb;

    #[test]
    fn a_picture_is_named_after_its_series() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let ask = |series: &str| {
            let params = [("node", "pve1"), ("timeframe", "hour"), ("ds", series)];
            let params = params.map(|(key, value)| (key.to_owned(), json!(value))).into_iter().collect();
            registry::run(&ctx, Verb::Get, "/nodes/{node}/rrd", params).map(|reply| reply.data)
        };
        let answer = ask("cpu,iowait").unwrap();
        assert_eq!(answer["filename"], "/var/lib/rrdcached/db/pve-node-9.0/pve1_cpu_iowait.png");
        assert!(answer["image"].as_str().unwrap().starts_with("\u{89}PNG"));
        let unknown = ask("nonsense").unwrap_err();
        let text = "RRD error: No DS called 'nonsense' in '/var/lib/rrdcached/db/pve-node-9.0/pve1'";
        assert_eq!(unknown.message(), text);
        assert!(ask("cpu,iowait,memused").is_err());
    }
}

//! SPICE displays: a free port when a VM starts, and what a viewer is told.
//!
//! Ports are given out from `/run/qemu-server/spice-ports`, one line each, for the time that QEMU needs to open its own.
//! (PVE: qemu-server PVE/API2/Qemu.pm, spiceproxy)

use super::config::Vm;
use super::{files, qmp::Monitor};
use crate::access::spice_ticket;
use crate::console::spice::settings;
use crate::{Context, Error, Result, Vmid, file, guest, node};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};

pub(super) use crate::access::spice_ticket::PORTS;

/// How long a port is kept for a VM that starts, in seconds.
const HELD: i64 = 60;

/// Whether a VM's display speaks SPICE here.
pub(super) fn is_wanted(ctx: &Context, vm: &Vm) -> bool {
    let kind = vm.properties("~pve-qm-vga", "vga").ok().flatten().and_then(|vga| vga.text("type"));
    let speaks = kind.is_some_and(|kind| kind.starts_with("qxl") || kind.starts_with("virtio"));
    speaks && !ctx.host.is_imagined() && ctx.host.has_spice()
}

/// A port for a VM that is about to start, if it needs one. The certificate that QEMU shows there is made if it is missing.
pub(super) fn reserve(ctx: &Context, vm: &Vm) -> Result<Option<u16>> {
    if !is_wanted(ctx, vm) {
        return Ok(None);
    }
    node::certificate::ensure(ctx)?;
    let mut chosen = None;
    file::update(ctx, &path(ctx), 0o644, |text| {
        let mut held = parse(text, ctx.clock.now());
        let port = first_free(&held)?;
        held.insert(port, ctx.clock.now() + HELD);
        chosen = Some(port);
        Ok(held.iter().map(|(port, until)| format!("{port} {until}\n")).collect())
    })?;
    Ok(chosen)
}

/// The port that a VM would get now.
pub(super) fn free_port(ctx: &Context) -> Result<u16> {
    first_free(&parse(&file::read_or_empty(&path(ctx))?, ctx.clock.now()))
}

fn path(ctx: &Context) -> std::path::PathBuf {
    files::directory(ctx).join("spice-ports")
}

/// The ports that are held, and until when.
fn parse(text: &str, now: i64) -> BTreeMap<u16, i64> {
    let line = |line: &str| {
        let (port, until) = line.split_once(' ')?;
        Some((port.parse().ok()?, until.parse().ok()?))
    };
    text.lines().filter_map(line).filter(|(_, until)| *until > now).collect()
}

fn first_free(held: &BTreeMap<u16, i64>) -> Result<u16> {
    let is_free = |port: &u16| !held.contains_key(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    PORTS.clone().find(is_free).ok_or_else(|| Error::new("unable to find a free port for SPICE"))
}

/// Gives the display of a running VM a password for half a minute; answers what a viewer's configuration file has.
pub fn viewer(ctx: &Context, vmid: Vmid, proxy: Option<&str>) -> Result<Value> {
    let config = guest::load(ctx, crate::config::guest::GuestKind::Qemu, vmid)?;
    let mut monitor = Monitor::connect(ctx, vmid)?;
    let answer = monitor.execute("query-spice", json!({}))?;
    let port = answer["tls-port"].as_u64().or(answer["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| Error::new("no spice port"))?;
    let ticket = spice_ticket::assemble(ctx, vmid, port)?;
    let name = config.current.get("name").map(|name| format!(" - {name}")).unwrap_or_default();
    let settings = settings(ctx, &format!("VM {vmid}{name}"), &ticket, port, proxy)?;
    monitor.execute("set_password", json!({"protocol": "spice", "password": ticket.password}))?;
    monitor.execute("expire_password", json!({"protocol": "spice", "time": "+30"}))?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_held_for_a_while() {
        let text = "61000 100\n61001 200\njunk\n61002 x\n";
        assert_eq!(parse(text, 150), BTreeMap::from([(61001, 200)]));
    }
}

//! What a node says of itself: in the list of nodes, among the resources, and in full.
//! (PVE: pve-manager PVE/API2/Nodes.pm, index and status; PVE/API2Tools.pm, extract_node_stats)

use super::version;
use crate::live::node::{self, Memory, Space};
use crate::{Call, Context, Reply, Result, access, live};
use openssl::hash::MessageDigest;
use openssl::x509::X509;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Certificates of the node, the one that is served first.
const CERTIFICATES: [&str; 2] = ["pveproxy-ssl.pem", "pve-ssl.pem"];

/// `GET /nodes`.
pub fn list(call: &Call) -> Result<Reply> {
    let mut row = row(call.ctx);
    if let Some(fingerprint) = fingerprint(call.ctx) {
        row.insert("ssl_fingerprint".into(), json!(fingerprint));
    }
    Ok(Reply::from(json!([row])))
}

/// The node's row in lists; without Sys.Audit only that it is there.
pub fn row(ctx: &Context) -> Map<String, Value> {
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
    set("id", json!(format!("node/{}", ctx.node)));
    set("node", json!(ctx.node));
    set("type", json!("node"));
    set("status", json!("online"));
    set("level", json!(""));
    if access::has(ctx, &format!("/nodes/{}", ctx.node), &["Sys.Audit"]) {
        let memory = Memory::read();
        let space = Space::of_root();
        set("uptime", json!(node::uptime().0 as u64));
        set("cpu", json!(live::cpu_load(ctx).used));
        set("maxcpu", json!(node::cpu_count()));
        set("mem", json!(memory.used()));
        set("maxmem", json!(memory.total));
        set("disk", json!(space.used));
        set("maxdisk", json!(space.total));
    }
    row
}

/// The version of control groups in force; a mixture counts as the first. (PVE: pve-common PVE/CGroup.pm, cgroup_mode)
pub fn cgroup_mode() -> u8 {
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) { 2 } else { 1 }
}

/// SHA-256 of the certificate, in the way that openssl prints it.
fn fingerprint(ctx: &Context) -> Option<String> {
    let directory = ctx.root.etc_pve("nodes").join(&ctx.node);
    let text = CERTIFICATES.iter().find_map(|name| fs::read(directory.join(name)).ok())?;
    let digest = X509::from_pem(&text).ok()?.digest(MessageDigest::sha256()).ok()?;
    Some(digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

/// `GET /nodes/{node}/status`.
pub fn status(call: &Call) -> Result<Reply> {
    let (uptime, idle) = node::uptime();
    let load = live::cpu_load(call.ctx);
    let memory = Memory::read();
    let space = Space::of_root();
    let uname = rustix::system::uname();
    let [system, release, build, machine] =
        [uname.sysname(), uname.release(), uname.version(), uname.machine()].map(|text| text.to_string_lossy());
    Ok(Reply::from(json!({
        "uptime": uptime as u64,
        "idle": idle as u64,
        "loadavg": node::load(),
        "kversion": format!("{system} {release} {build}"),
        "current-kernel": { "sysname": system, "release": release, "version": build, "machine": machine },
        "boot-info": boot(),
        "cpuinfo": cpu_info(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        "cpu": load.used,
        "wait": load.waiting,
        "memory": {
            "total": memory.total, "used": memory.used(), "free": memory.free, "available": memory.available,
        },
        "swap": {
            "total": memory.swap_total, "free": memory.swap_free,
            "used": memory.swap_total.saturating_sub(memory.swap_free),
        },
        "ksm": { "shared": shared_pages() * rustix::param::page_size() as u64 },
        "pveversion": version::text(),
        "rootfs": {
            "total": space.total, "used": space.used, "avail": space.available,
            "free": space.total.saturating_sub(space.used),
        },
    })))
}

fn boot() -> Value {
    if !fs::exists("/sys/firmware/efi").unwrap_or(false) {
        return json!({ "mode": "legacy-bios" });
    }
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    match fs::read(variable).ok().and_then(|bytes| bytes.get(4).copied()) {
        Some(flag) => json!({ "mode": "efi", "secureboot": u8::from(flag == 1) }),
        None => json!({ "mode": "efi" }),
    }
}

fn shared_pages() -> u64 {
    let text = fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Model and numbers from `/proc/cpuinfo`. (PVE: pve-common PVE/ProcFSTools.pm, read_cpuinfo)
fn cpu_info(text: &str) -> Value {
    let fields = || text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()));
    let first = |key: &str| fields().find(|(name, value)| *name == key && !value.is_empty()).map(|(_, value)| value);
    let mut sockets: BTreeMap<&str, u64> = BTreeMap::new();
    let mut socket = "0";
    for (key, value) in fields() {
        match key {
            "physical id" => socket = value,
            "cpu cores" => drop(sockets.insert(socket, value.parse().unwrap_or(1))),
            _ => {}
        }
    }
    let flags = first("flags").unwrap_or_default();
    let hardware_virtualization = flags.split(' ').any(|flag| flag == "vmx" || flag == "svm");
    json!({
        "model": first("model name").unwrap_or("unknown"),
        "vendor": first("vendor_id").unwrap_or("unknown"),
        "family": first("cpu family").unwrap_or("0"),
        "mhz": first("cpu MHz").unwrap_or("0"),
        "flags": flags,
        "hvm": if hardware_virtualization { "1" } else { "0" },
        "cpus": fields().filter(|(key, _)| *key == "processor").count().max(1),
        "cores": sockets.values().sum::<u64>().max(1),
        "sockets": sockets.len().max(1),
        "user_hz": live::ticks_per_second(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_by_socket() {
        let cpu = |number: u32, socket: u32| {
            format!(
                "processor\t: {number}\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\ncpu MHz\t\t: 2000.5\n\
                 physical id\t: {socket}\ncpu cores\t: 2\nflags\t\t: fpu svm nx\n\n"
            )
        };
        let info = cpu_info(&[cpu(0, 0), cpu(1, 0), cpu(2, 1), cpu(3, 1)].concat());
        assert_eq!([&info["cpus"], &info["cores"], &info["sockets"]], [&json!(4), &json!(4), &json!(2)]);
        assert_eq!([&info["model"], &info["mhz"], &info["hvm"]], [&json!("EPYC"), &json!("2000.5"), &json!("1")]);
        assert_eq!(cpu_info("")["cores"], 1);
    }
}

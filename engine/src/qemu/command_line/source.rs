//! Where volumes of block storages lie, as QEMU is told: a device, an RBD image, an iSCSI unit.
//!
//! Pure but for two looks below `/etc/pve`: whether a Ceph key file is there, and the cluster's id in `ceph.conf`.
//! Directories are left to the storage's driver. (PVE: pve-storage, path and qemu_blockdev_options of each plugin)

use crate::host::Host;
use crate::storage::{Entry, VolumeId};
use crate::types::split_list;
use crate::{Error, Result, Root};
use serde_json::{Map, Value, json};

/// What is asked of the node.
pub(super) struct Facts<'a> {
    pub root: &'a Root,
    pub host: &'a Host,
}

/// A volume's place.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// A file or a device.
    File(String),
    /// Always a device.
    Device(String),
    /// A driver of QEMU: the text of `-drive file=`, and the node's options.
    Driver { text: String, node: Map<String, Value> },
}

impl Place {
    /// What stands behind `-drive file=`.
    pub fn drive_text(&self) -> String {
        match self {
            Place::File(path) | Place::Device(path) => path.clone(),
            Place::Driver { text, .. } => text.clone(),
        }
    }

    /// Driver and options of the lowest node.
    pub fn node(&self, is_device: impl Fn(&str) -> Result<bool>) -> Result<Map<String, Value>> {
        Ok(match self {
            Place::File(path) => file_node(path, is_device(path)?),
            Place::Device(path) => file_node(path, true),
            Place::Driver { node, .. } => node.clone(),
        })
    }
}

/// The node of a file or device.
pub(super) fn file_node(path: &str, is_device: bool) -> Map<String, Value> {
    let driver = if is_device { "host_device" } else { "file" };
    object(json!({"driver": driver, "filename": path}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The place of a volume, `None` for types whose driver decides.
pub(super) fn place(entry: &Entry, volume: &VolumeId, facts: &Facts) -> Result<Option<Place>> {
    let name = volume.name.rsplit('/').next().unwrap_or(&volume.name);
    let get = |key: &str| entry.get(key).unwrap_or_default().to_owned();
    Ok(Some(match entry.kind() {
        "lvm" | "lvmthin" => Place::Device(format!("/dev/{}/{name}", get("vgname"))),
        "zfspool" => Place::Device(format!("/dev/zvol/{}/{name}", get("pool"))),
        "iscsi" => Place::File(format!("/dev/disk/by-id/{}", name.splitn(4, '.').nth(3).unwrap_or(name))),
        "iscsidirect" => {
            let unit = name.strip_prefix("lun").and_then(|unit| unit.parse().ok());
            let unknown = || Error::new(format!("unable to parse iscsi volume name '{name}'"));
            iscsi(&get("portal"), &get("target"), unit.ok_or_else(unknown)?)
        }
        "zfs" => {
            let unit = facts.host.replaced("zfs_over_iscsi").and_then(|known| {
                let unit = &known["lun"];
                unit.as_u64().or_else(|| unit.as_str()?.parse().ok())
            });
            let Some(unit) = unit else { return Ok(None) };
            iscsi(&get("portal"), &get("target"), unit)
        }
        "rbd" => rbd(entry, volume, name, facts)?,
        _ => return Ok(None),
    }))
}

fn iscsi(portal: &str, target: &str, unit: u64) -> Place {
    Place::Driver {
        text: format!("iscsi://{portal}/{target}/{unit}"),
        node: object(json!({"driver": "iscsi", "transport": "tcp", "portal": portal, "target": target, "lun": unit})),
    }
}

fn rbd(entry: &Entry, volume: &VolumeId, name: &str, facts: &Facts) -> Result<Place> {
    let pool = entry.get("pool").unwrap_or("rbd");
    let namespace = entry.get("namespace");
    let image = [Some(pool), namespace, Some(name)].into_iter().flatten().collect::<Vec<_>>().join("/");
    if entry.flag("krbd") == Some(true) {
        let cluster = cluster_id(entry, facts)?;
        return Ok(Place::Device(format!("/dev/rbd-pve/{cluster}/{image}")));
    }
    let file = |name: String| {
        let path = facts.root.etc_pve(&name);
        path.exists().then(|| path.to_string_lossy().into_owned())
    };
    let keyring = file(format!("priv/ceph/{}.keyring", volume.storage));
    let user = entry.get("username").unwrap_or("admin");
    let authentication = if keyring.is_some() { "cephx" } else { "none" };
    let monitors = entry.get("monhost");
    let configuration = match monitors {
        None => Some(facts.root.etc_pve("ceph.conf").to_string_lossy().into_owned()),
        Some(_) => file(format!("priv/ceph/{}.conf", volume.storage)),
    };
    let mut text = format!("rbd:{image}");
    let mut node = object(json!({"driver": "rbd", "pool": pool, "image": name}));
    if let Some(namespace) = namespace {
        node.insert("namespace".into(), namespace.into());
    }
    if let Some(configuration) = configuration {
        text += &format!(":conf={configuration}");
        node.insert("conf".into(), configuration.into());
    }
    if let Some(monitors) = monitors {
        let monitors = split_list(monitors);
        let hosts: Vec<String> = monitors.iter().map(|monitor| bracketed(monitor)).collect();
        text += &format!(":mon_host={}:auth_supported={authentication}", hosts.join(";").replace(':', r"\:"));
        let servers: Vec<Value> = monitors
            .iter()
            .map(|monitor| {
                let (host, port) = host_and_port(monitor);
                json!({"host": host, "port": port.unwrap_or_else(|| "3300".to_owned())})
            })
            .collect();
        node.insert("server".into(), servers.into());
        node.insert("auth-client-required".into(), json!([authentication]));
    }
    if let Some(keyring) = keyring {
        text += &format!(":id={user}:keyring={keyring}");
        node.insert("user".into(), user.into());
    }
    Ok(Place::Driver { text, node })
}

/// A host with its port, if one is given; IPv6 addresses may stand in brackets.
/// (PVE: pve-common PVE/Tools.pm, parse_host_and_port)
fn host_and_port(text: &str) -> (String, Option<String>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host.to_owned(), rest.strip_prefix(':').map(str::to_owned));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host.to_owned(), Some(port.to_owned())),
        _ => (text.to_owned(), None),
    }
}

/// A monitor as the old syntax wants it: IPv6 addresses in brackets.
fn bracketed(monitor: &str) -> String {
    let (host, port) = host_and_port(monitor);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}

/// The id of the Ceph cluster, part of the paths of mapped images.
fn cluster_id(entry: &Entry, facts: &Facts) -> Result<String> {
    let from_file = || {
        let text = std::fs::read_to_string(facts.root.etc_pve("ceph.conf")).ok()?;
        let values = text.lines().filter_map(|line| line.split_once('='));
        values.filter(|(key, _)| key.trim() == "fsid").map(|(_, id)| id.trim().to_owned()).next()
    };
    let id = entry.get("fsid").map(str::to_owned).or_else(from_file);
    let is_uuid = |id: &String| id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    id.filter(is_uuid).ok_or_else(|| Error::new("cluster fsid has invalid format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(kind: &str, values: &[(&str, &str)], volume: &str) -> Place {
        let mut entry = Entry::new(kind);
        for (key, value) in values {
            entry.set(key, (*value).to_owned());
        }
        let facts = json!({"zfs_over_iscsi": {"lu_name": "x", "lun": 7}});
        let host = Host::with_overrides(facts.as_object().unwrap().clone());
        let root = Root::new("/nowhere");
        place(&entry, &volume.parse().unwrap(), &Facts { root: &root, host: &host }).unwrap().unwrap()
    }

    #[test]
    fn block_storages_have_devices() {
        let device = |path: &str| Place::Device(path.to_owned());
        assert_eq!(
            placed("lvmthin", &[("vgname", "pve")], "aa:base-1-disk-0/vm-2-disk-0"),
            device("/dev/pve/vm-2-disk-0")
        );
        assert_eq!(
            placed("zfspool", &[("pool", "tank/vm")], "aa:vm-2-disk-0"),
            device("/dev/zvol/tank/vm/vm-2-disk-0")
        );
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        let mapped = placed("rbd", &[("krbd", "1"), ("fsid", id), ("pool", "p")], "aa:vm-2-disk-0");
        assert_eq!(mapped, device(&format!("/dev/rbd-pve/{id}/p/vm-2-disk-0")));
    }

    #[test]
    fn remote_units_have_drivers() {
        let portal = [("portal", "10.0.0.1"), ("target", "iqn.x:y")];
        assert_eq!(placed("iscsidirect", &portal, "aa:lun3").drive_text(), "iscsi://10.0.0.1/iqn.x:y/3");
        assert_eq!(placed("zfs", &portal, "aa:vm-2-disk-0").drive_text(), "iscsi://10.0.0.1/iqn.x:y/7");
        let values = [("monhost", "10.0.0.1 [fd00::1]:6789"), ("pool", "p"), ("namespace", "n")];
        let place = placed("rbd", &values, "aa:vm-2-disk-0");
        assert_eq!(place.drive_text(), r"rbd:p/n/vm-2-disk-0:mon_host=10.0.0.1;[fd00\:\:1]\:6789:auth_supported=none");
        let node = place.node(|_| Ok(false)).unwrap();
        assert_eq!(node["server"], json!([{"host": "10.0.0.1", "port": "3300"}, {"host": "fd00::1", "port": "6789"}]));
        assert_eq!(node["namespace"], json!("n"));
    }
}

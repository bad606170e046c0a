//! The table, walked over HTTP: what reads answer on a node that has one thing of everything is of the declared form.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, guest};
use contract::{Kind, Method, Schema, Verb};
use serde_json::Value;
use std::fs;

/// What nobody has bound yet.
const UNBOUND: &str = include_str!("../../engine/unbound-methods.txt");

/// Parameters without which a read cannot be; what asks for others is not read here.
const NEEDED: [(&str, &str); 4] =
    [("timeframe", "hour"), ("feature", "snapshot"), ("type", "user"), ("volume", "local:iso/small.iso")];

/// What this node does not have, and how it says so. An empty text: it depends on the machine.
const MISSING: [(&str, &str); 11] = [
    ("/cluster/config/join", "no join info available"),
    ("/cluster/ha/resources/{sid}", "no such resource"),
    ("/nodes/{node}/disks/zfs", ""),
    ("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config", "does not exist"),
    ("/nodes/{node}/qemu/{vmid}/agent/", "No QEMU guest agent configured"),
    ("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", "does not exist"),
    ("/nodes/{node}/scan/zfs", ""),
    ("/nodes/{node}/storage/{storage}/identity", "is not supported"),
    ("/nodes/{node}/storage/{storage}/import-metadata", ""),
    ("/nodes/{node}/replication/{id}", "no such replication job"),
    ("/nodes/{node}/hardware/pci", ""),
];

/// What apt says of this machine takes as long as it takes, and is none of the node's.
const OF_APT: [&str; 2] = ["/nodes/{node}/apt/update", "/nodes/{node}/apt/versions"];

/// Members that PVE leaves out or sends as null although it declares them, and what our own rows do not know.
const LOOSE: [&str; 6] =
    [".description is missing", ".error is missing", "osdid-list", "/cluster/nextid", ".value: ", "/interfaces: null"];

/// Where the form of a value is not what the schema says; the texts say where.
fn differences(value: &Value, schema: &Schema, place: &str, found: &mut Vec<String>) {
    let whole = |value: &Value| value.is_u64() || value.is_i64();
    let fits = match schema.kind {
        None | Some(Kind::Any) => true,
        Some(Kind::Null) => value.is_null(),
        Some(Kind::Boolean) => value.is_boolean() || matches!(value.as_u64(), Some(0 | 1)),
        Some(Kind::Integer) => whole(value),
        Some(Kind::Number) => value.is_number(),
        Some(Kind::String) => value.is_string(),
        Some(Kind::Array) => value.is_array(),
        Some(Kind::Object) => value.is_object(),
    };
    if !fits {
        let text: String = value.to_string().chars().take(80).collect();
        return found.push(format!("{place}: {text} is no {}", schema.kind.map_or("any", Kind::name)));
    }
    if let (Some(words), Some(text)) = (&schema.enumeration, value.as_str())
        && !words.iter().any(|word| word == text)
    {
        found.push(format!("{place}: '{text}' is none of {words:?}"));
    }
    if let (Some(rows), Some(items)) = (value.as_array(), &schema.items) {
        for (number, row) in rows.iter().enumerate() {
            differences(row, items, &format!("{place}[{number}]"), found);
        }
    }
    let Some(members) = value.as_object() else { return };
    for (name, schema) in schema.properties.iter().flatten() {
        match members.get(name) {
            Some(member) => differences(member, schema, &format!("{place}.{name}"), found),
            None if !schema.optional && schema.index.is_none() => found.push(format!("{place}.{name} is missing")),
            None => {}
        }
    }
}

/// The path of what the node has; `None` if a parameter is asked for that nothing here can answer.
fn path(method: &Method, upid: &str) -> Option<String> {
    let mut path = method.template.to_owned();
    while let (Some(start), Some(end)) = (path.find('{'), path.find('}')) {
        let value = match &path[start + 1..end] {
            "node" => "pve1",
            "vmid" if path.contains("/lxc/") => "201",
            "vmid" => "200",
            "userid" => "ann@pve",
            "tokenid" => "main",
            "roleid" => "PVEVMUser",
            "groupid" => "people",
            "realm" => "pve",
            "poolid" => "pool",
            "storage" => "local",
            "upid" => upid,
            "iface" => "lo",
            "cputype" => "custom-own",
            "volume" => "iso%2Fsmall.iso",
            "sid" => "vm:200",
            "service" => "pveproxy",
            "id" if path.contains("/mapping/pci") => "card",
            "id" if path.contains("/mapping/usb") => "stick",
            "id" if path.contains("/mapping/dir") => "shared",
            "id" => "200-0",
            "pci-id-or-mapping" => "0000:00:00.0",
            _ => "some",
        };
        path.replace_range(start..=end, value);
    }
    let mut separator = '?';
    for (name, schema) in &method.parameters {
        if schema.optional || method.template.contains(&format!("{{{name}}}")) {
            continue;
        }
        let (_, value) = NEEDED.iter().find(|(needed, _)| needed == name)?;
        path.push_str(&format!("{separator}{name}={value}"));
        separator = '&';
    }
    Some(path)
}

/// One thing of each kind that a node can hold without other machines.
fn seed(node: &Node) {
    let iso = node.path("var/lib/vz/template/iso");
    fs::create_dir_all(&iso).unwrap();
    fs::write(iso.join("small.iso"), [0; 4096]).unwrap();
    let archive = node.path("var/lib/vz/template/cache/busybox.tar.gz");
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    guest::busybox_template(&archive);
    node.user("ann@pve", "PVEAdmin");
    for line in [
        "pveum group add people",
        "pveum user token add ann@pve main",
        "pveum pool add pool",
        "qm create 200 --name one --kvm 0 --memory 16 --scsi0 local:0.01 --net0 virtio --ide2 local:cloudinit --pool pool",
        "pct create 201 local:vztmpl/busybox.tar.gz --ostype unmanaged --rootfs local:0.01 --memory 16 --hostname two",
        "pvesh create /cluster/mapping/pci --id card --map node=pve1,path=0000:00:00.0,id=8086:1237,iommugroup=1",
        "pvesh create /cluster/mapping/usb --id stick --map node=pve1,id=1234:5678",
        "pvesh create /cluster/mapping/dir --id shared --map node=pve1,path=/tmp",
        "pvesh create /cluster/qemu/custom-cpu-models --cputype custom-own --reported-model qemu64",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        node.run(words[0], &words[1..]).ok();
    }
}

#[test]
fn what_is_read_has_the_declared_form() {
    let node = Node::start();
    seed(&node);
    let client = node.admin();
    let upid = client.get("/nodes/pve1/tasks?limit=1").data()[0]["upid"].as_str().unwrap().to_owned();
    let (mut read, mut wrong) = (0, Vec::new());
    for (_, template) in contract::methods().filter(|(verb, _)| *verb == Verb::Get) {
        let method = contract::method(Verb::Get, template).unwrap();
        // A method without a permission is for `root@pam` alone.
        if method.permissions.is_none()
            || OF_APT.contains(&template)
            || UNBOUND.lines().any(|line| line == format!("GET {template}"))
        {
            continue;
        }
        let Some(path) = path(method, &upid).filter(|path| !path.ends_with("vncwebsocket")) else { continue };
        let reply = client.get(&path);
        let missing = MISSING.iter().find(|(prefix, _)| template.starts_with(prefix));
        let mut found = Vec::new();
        match (reply.status, missing) {
            (200, _) => {
                read += 1;
                differences(&reply.data(), &method.returns, "", &mut found);
            }
            (424 | 500, Some((_, text))) if reply.reason.contains(text) => {}
            _ => found.push(format!(" answers {} {}", reply.status, reply.reason)),
        }
        let texts = found.into_iter().map(|text| format!("{template}{text}"));
        wrong.extend(texts.filter(|text| !LOOSE.iter().any(|loose| text.contains(loose))).take(3));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(read > 120, "{read}");
}

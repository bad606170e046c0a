//! Methods below `/cluster/mapping`.

use super::{Kind, Mapping, MappingFile, check, file::Entry};
use crate::hardware::{pci, usb};
use crate::registry::{Binding, delete, get, post, put};
use crate::types::split_list;
use crate::{Call, Context, Error, Reply, Result, access, file};
use serde_json::{Value, json};

/// The handlers of this area.
pub const METHODS: &[Binding] = &[
    get("/cluster/mapping/dir", |call| list(call, Kind::Directory)),
    post("/cluster/mapping/dir", |call| create(call, Kind::Directory)),
    get("/cluster/mapping/dir/{id}", |call| one(call, Kind::Directory)),
    put("/cluster/mapping/dir/{id}", |call| update(call, Kind::Directory)),
    delete("/cluster/mapping/dir/{id}", |call| remove(call, Kind::Directory)),
    get("/cluster/mapping/pci", |call| list(call, Kind::Pci)),
    post("/cluster/mapping/pci", |call| create(call, Kind::Pci)),
    get("/cluster/mapping/pci/{id}", |call| one(call, Kind::Pci)),
    put("/cluster/mapping/pci/{id}", |call| update(call, Kind::Pci)),
    delete("/cluster/mapping/pci/{id}", |call| remove(call, Kind::Pci)),
    get("/cluster/mapping/usb", |call| list(call, Kind::Usb)),
    post("/cluster/mapping/usb", |call| create(call, Kind::Usb)),
    get("/cluster/mapping/usb/{id}", |call| one(call, Kind::Usb)),
    put("/cluster/mapping/usb/{id}", |call| update(call, Kind::Usb)),
    delete("/cluster/mapping/usb/{id}", |call| remove(call, Kind::Usb)),
];

/// What a mapping has besides its entries.
const OPTIONS: [&str; 3] = ["description", "mdev", "live-migration-capable"];

/// Whoever has one of these sees a mapping.
const VISIBLE: [&str; 3] = ["Mapping.Modify", "Mapping.Use", "Mapping.Audit"];

fn row(mapping: &Mapping, digest: &str) -> Value {
    let mut row = json!({"map": mapping.entries, "digest": digest});
    for (key, value) in &mapping.values {
        row[key] = match key.as_str() {
            "mdev" | "live-migration-capable" => u8::from(mapping.flag(key)).into(),
            _ => value.as_str().into(),
        };
    }
    row
}

fn list(call: &Call, kind: Kind) -> Result<Reply> {
    let ctx = call.ctx;
    let node = call.text("check-node");
    if let Some(node) = node.as_deref().filter(|node| *node != "localhost" && !ctx.is_local_node(node)) {
        return Err(Error::new(format!("wrong node to check - {node} != {}", ctx.node)));
    }
    let found = MappingFile::load(ctx, kind)?;
    let may_see = |id: &str| access::has_any(ctx, &format!("/mapping/{}/{id}", kind.name()), &VISIBLE);
    let visible = found.mappings.iter().filter(|(id, _)| may_see(id));
    let rows = visible.map(|(id, mapping)| {
        let mut row = row(mapping, &found.digest);
        row["id"] = id.as_str().into();
        if let Some(node) = &node {
            let key = if kind == Kind::Usb { "errors" } else { "checks" };
            row[key] = checks(ctx, kind, id, mapping, node);
        }
        row
    });
    Ok(Reply::from(Value::Array(rows.collect())))
}

/// What is wrong with a mapping on this node.
fn checks(ctx: &Context, kind: Kind, id: &str, mapping: &Mapping, node: &str) -> Value {
    let entries = mapping.entries_of(kind, node);
    if entries.is_empty() {
        return json!([{"severity": "warning", "message": format!("No mapping for node {node}.")}]);
    }
    let problems = entries.iter().filter_map(|entry| problem(ctx, kind, id, mapping, entry));
    problems.map(|text| json!({"severity": "error", "message": format!("Invalid configuration: {text}\n")})).collect()
}

fn problem(ctx: &Context, kind: Kind, id: &str, mapping: &Mapping, entry: &Entry) -> Option<String> {
    match kind {
        Kind::Directory => check::directory_problem(&entry.text("path").unwrap_or_default()),
        Kind::Pci => check::pci_problem(id, entry, mapping, &pci::list(&ctx.host), ctx.host.is_imagined()),
        Kind::Usb => usb::list(&ctx.host).and_then(|devices| check::usb_problem(id, entry, &devices)),
    }
}

fn one(call: &Call, kind: Kind) -> Result<Reply> {
    let id: String = call.param("id")?;
    let found = MappingFile::load(call.ctx, kind)?;
    match found.mappings.get(&id) {
        Some(mapping) => Ok(Reply::from(row(mapping, &found.digest))),
        None => Err(Error::new(format!("mapping '{id}' not found"))),
    }
}

/// The values of a request; `map` comes as a list.
fn fill(call: &Call, mapping: &mut Mapping) -> Result<()> {
    if let Some(Value::Array(entries)) = call.params.get("map") {
        mapping.entries = entries.iter().map(crate::call::config_text).collect();
    }
    for key in OPTIONS {
        if let Some(value) = call.params.get(key) {
            mapping.values.insert(key.to_owned(), crate::call::config_text(value));
        }
    }
    let mut texts = mapping.entries.iter().chain(mapping.values.values());
    if texts.any(|text| text.contains(['\n', '\r'])) {
        return Err(Error::new("property contains a line feed"));
    }
    Ok(())
}

/// Directories are looked at when they are entered, once for each node.
fn check_directories(ctx: &Context, kind: Kind, mapping: &Mapping) -> Result<()> {
    if kind != Kind::Directory {
        return Ok(());
    }
    let mut nodes: Vec<String> = Vec::new();
    for text in &mapping.entries {
        let entry = Entry::parse(kind, text)?;
        let node = entry.text("node").unwrap_or_default();
        if ctx.is_local_node(&node)
            && let Some(problem) = check::directory_problem(&entry.text("path").unwrap_or_default())
        {
            return Err(Error::new(problem));
        }
        nodes.push(node);
    }
    for node in &nodes {
        let count = nodes.iter().filter(|other| *other == node).count();
        if count > 1 {
            return Err(Error::new(format!("Node '{node}' is specified {count} times.")));
        }
    }
    Ok(())
}

fn change(
    call: &Call,
    kind: Kind,
    verb: &str,
    digest: Option<&str>,
    change: impl FnOnce(&mut MappingFile) -> Result<()>,
) -> Result<Reply> {
    let path = call.ctx.root.etc_pve(kind.file());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let what = match (verb, kind) {
        ("delete", kind) => format!("delete {} mapping failed", kind.name()),
        (verb, Kind::Directory) => format!("{verb} directory mapping failed"),
        (verb, _) => format!("{verb} hardware mapping failed"),
    };
    let done = file::update(call.ctx, &path, 0o640, |text| {
        let mut found = MappingFile::parse(text);
        file::assert_digest(&found.digest, digest)?;
        change(&mut found)?;
        Ok(found.print())
    });
    done.map_err(|error| error.context(what))?;
    Ok(Reply::null())
}

fn create(call: &Call, kind: Kind) -> Result<Reply> {
    let id: String = call.param("id")?;
    let mut mapping = Mapping::default();
    fill(call, &mut mapping)?;
    check_directories(call.ctx, kind, &mapping)?;
    change(call, kind, "create", None, |found| {
        if found.mappings.contains_key(&id) {
            return Err(Error::new(format!("{} ID '{id}' already defined", kind.name())));
        }
        found.mappings.insert(id, mapping);
        Ok(())
    })
}

fn update(call: &Call, kind: Kind) -> Result<Reply> {
    let id: String = call.param("id")?;
    let removed = split_list(&call.text("delete").unwrap_or_default());
    change(call, kind, "update", call.text("digest").as_deref(), |found| {
        let missing = || Error::new(format!("{} ID '{id}' does not exist", kind.name()));
        let mapping = found.mappings.get_mut(&id).ok_or_else(missing)?;
        for key in &removed {
            if key == "map" {
                return Err(Error::new("unable to delete required option 'map'"));
            }
            if call.params.contains_key(key) {
                return Err(Error::new(format!("cannot set and delete property '{key}' at the same time!")));
            }
            if !OPTIONS.contains(&key.as_str()) && !mapping.values.contains_key(key) {
                return Err(Error::new(format!("no such option '{key}'")));
            }
            mapping.values.shift_remove(key);
        }
        fill(call, mapping)?;
        check_directories(call.ctx, kind, mapping)
    })
}

fn remove(call: &Call, kind: Kind) -> Result<Reply> {
    let id: String = call.param("id")?;
    change(call, kind, "delete", None, |found| {
        found.mappings.shift_remove(&id);
        Ok(())
    })
}

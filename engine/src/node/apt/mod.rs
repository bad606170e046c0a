//! `/nodes/{node}/apt`: packages of the machine, as apt knows them. (PVE: pve-manager PVE/API2/APT.pm)
//!
//! The list of updates is kept in a file of PVE's until apt or dpkg has changed something.

mod query;
mod repositories;

use super::version::{RELEASE, REPOID, VERSION};
use crate::registry::{Binding, get, post};
use crate::tool::Tool;
use crate::{Call, Context, Reply, Result, file};
use query::{Candidate, Installed, Record};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The methods of this area.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/apt/changelog", changelog),
    get("/nodes/{node}/apt/repositories", repositories::list),
    post("/nodes/{node}/apt/repositories", repositories::change),
    get("/nodes/{node}/apt/update", updates),
    post("/nodes/{node}/apt/update", refresh),
    get("/nodes/{node}/apt/versions", versions),
];

/// What changes when there may be other updates; the machine's, wherever the node lies. A machine may have no cache.
const CHANGED: [&str; 3] = ["/var/lib/dpkg/status", "/var/lib/apt/lists", "/var/cache/apt/pkgcache.bin"];

/// Packages that people ask about when something does not work, if they are installed.
const OPTIONAL: [&str; 14] = [
    "amd64-microcode",
    "ceph",
    "criu",
    "dnsmasq",
    "ferrovisor",
    "frr-pythontools",
    "gfs2-utils",
    "ifupdown",
    "ifupdown2",
    "intel-microcode",
    "ksmtuned",
    "openvswitch-switch",
    "qemu-system-x86",
    "zfsutils-linux",
];

/// Packages that are told even if they are not installed.
const EXPECTED: [&str; 9] =
    ["ceph-fuse", "corosync", "libknet1", "libqb0", "lvm2", "lxc", "lxcfs", "smartmontools", "swtpm"];

/// How long the search for a change log may take.
const CHANGELOG: Duration = Duration::from_secs(10);

fn cache(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/lib/pve-manager/pkgupdates")
}

fn updates(call: &Call) -> Result<Reply> {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let cached = modified(&cache(call.ctx));
    let is_fresh =
        |cached: &SystemTime| CHANGED.iter().all(|path| modified(Path::new(path)).is_none_or(|time| time <= *cached));
    if cached.as_ref().is_some_and(is_fresh)
        && let Some(list) = read_cache(call.ctx)
    {
        return Ok(Reply::from(list));
    }
    find_updates(call.ctx).map(Reply::from)
}

fn read_cache(ctx: &Context) -> Option<Value> {
    let text = file::read_or_empty(&cache(ctx)).ok()?;
    serde_json::from_str(&text).ok().filter(Value::is_array)
}

/// Asks apt and keeps the answer.
fn find_updates(ctx: &Context) -> Result<Value> {
    let known = query::installed(ctx)?;
    let chosen: Vec<Installed> =
        known.into_iter().filter(|package| package.wanted == 'i' && !"nc".contains(package.state)).collect();
    let names: Vec<String> = chosen.iter().map(|package| package.name.clone()).collect();
    let origins = query::known_origins(ctx)?;
    let candidates = query::candidates(ctx, &names, &origins)?;
    let mut found: Vec<(String, Option<String>, Candidate)> = Vec::new();
    for package in &chosen {
        let Some((name, candidate)) = candidate_of(&candidates, &package.name) else { continue };
        if candidate.version != package.version {
            found.push((name.to_owned(), Some(package.version.clone()), candidate.clone()));
        }
    }
    if !found.is_empty() {
        let present: HashSet<&str> = chosen.iter().map(|package| bare(&package.name)).collect();
        let new: Vec<String> = query::additions(ctx).into_iter().filter(|name| !present.contains(bare(name))).collect();
        let candidates = query::candidates(ctx, &new, &origins)?;
        found.extend(new.into_iter().filter_map(|name| {
            let candidate = candidate_of(&candidates, &name)?.1.clone();
            Some((name, None, candidate))
        }));
    }
    let wanted: Vec<(String, String)> =
        found.iter().map(|(name, _, candidate)| (name.clone(), candidate.version.clone())).collect();
    let records = query::records(ctx, &wanted)?;
    let told: HashMap<String, Value> = read_cache(ctx)
        .iter()
        .flat_map(|list| list.as_array().into_iter().flatten())
        .filter_map(|row| Some((row["Package"].as_str()?.to_owned(), row.get("NotifyStatus")?.clone())))
        .collect();
    let rows = found.iter().map(|(name, old, candidate)| {
        let mut row = describe(name, records.get(bare(name)), old.as_deref(), candidate);
        if let Some(version) = told.get(name).filter(|version| **version == json!(candidate.version)) {
            row.insert("NotifyStatus".into(), version.clone());
        }
        Value::Object(row)
    });
    let list: Value = rows.collect();
    let path = cache(ctx);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    file::replace_volatile(&path, list.to_string().as_bytes(), 0o644)?;
    Ok(list)
}

/// apt leaves out the machine's own architecture, dpkg does not always.
fn candidate_of<'a>(candidates: &'a HashMap<String, Candidate>, name: &'a str) -> Option<(&'a str, &'a Candidate)> {
    let found = candidates.get(name).map(|candidate| (name, candidate));
    found.or_else(|| candidates.get(bare(name)).map(|candidate| (bare(name), candidate)))
}

fn bare(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

/// A package as clients see it.
fn describe(name: &str, record: Option<&Record>, old: Option<&str>, candidate: &Candidate) -> Map<String, Value> {
    let get = |key: &str| record.and_then(|record| record.get(key)).map(String::as_str);
    let description = get("Description-en").or_else(|| get("Description")).unwrap_or_default();
    let (title, text) = description.split_once('\n').unwrap_or((description, ""));
    let mut row = Map::new();
    // Clients with types want texts, also where nothing is known.
    let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
    set("Package", json!(name));
    set("Title", json!(title));
    set("Origin", json!(candidate.origin.as_deref().unwrap_or("unknown")));
    set("Description", json!(text.strip_prefix(' ').unwrap_or(text).replace("\n ", " ")));
    set("Section", json!(get("Section").unwrap_or_default()));
    set("Arch", json!(get("Architecture").unwrap_or("all")));
    set("Priority", json!(get("Priority").unwrap_or_default()));
    set("Version", json!(candidate.version));
    if let Some(old) = old {
        set("OldVersion", json!(old));
    }
    row
}

fn refresh(call: &Call) -> Result<Reply> {
    let quiet = call.flag("quiet");
    call.task("aptupdate", "", |task| {
        let options = file::read_or_empty(&call.ctx.root.etc_pve("datacenter.cfg"))?;
        let proxy = crate::config::flat::FlatConfig::parse(&options).values.get("http_proxy").cloned();
        let text = match proxy {
            // The contract's pattern leaves no quote in it, but the file may have been written by hand.
            Some(proxy) if !proxy.contains(['"', '\\']) => format!("Acquire::http::Proxy \"{proxy}\";\n"),
            _ => "// no proxy configured\n".to_owned(),
        };
        let path = call.ctx.root.path("/etc/apt/apt.conf.d/76pveproxy");
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        file::replace(&path, text.as_bytes(), 0o644)?;
        let tool = Tool::new("apt-get").arg("update").env("APT_CONFIG", path.to_string_lossy());
        if quiet {
            tool.run(call.ctx)?;
        } else {
            task.log("starting apt-get update");
            tool.run_logged(call.ctx, &mut |line| task.log(line))?;
        }
        let found = find_updates(call.ctx)?;
        if call.flag("notify") && found.as_array().is_some_and(|list| !list.is_empty()) {
            task.warn("nobody was told of the updates: notifications are not supported");
        }
        Ok(())
    })
}

fn changelog(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    let package =
        call.text("version").filter(|v| !v.is_empty()).map_or(name.clone(), |version| format!("{name}={version}"));
    let tool = Tool::new("apt-get").args(["changelog", "-qq", "--", package.as_str()]);
    let ended = tool.within(CHANGELOG).end(call.ctx)?;
    let mut text = ended.stdout + &ended.stderr;
    if ended.code != 0 {
        text += &format!("RC: {}", ended.code);
    }
    Ok(Reply::from(json!(text)))
}

fn versions(call: &Call) -> Result<Reply> {
    let own = |name: &str, version: String, key: &str, value: String| {
        let candidate = Candidate { version: version.clone(), origin: None };
        let mut row = describe(name, None, Some(&version), &candidate);
        row.insert("CurrentState".into(), json!("Installed"));
        row.insert(key.into(), json!(value));
        Value::Object(row)
    };
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    // What we stand for comes first; no package of these names is installed.
    let mut rows = vec![
        own("proxmox-ve", format!("{RELEASE}.0"), "RunningKernel", kernel),
        own("pve-manager", VERSION.to_owned(), "ManagerVersion", format!("{VERSION}/{REPOID}")),
    ];
    let mut names: Vec<String> = OPTIONAL.iter().chain(&EXPECTED).map(|name| (*name).to_owned()).collect();
    names.sort();
    let installed: HashMap<String, Installed> =
        query::installed(call.ctx)?.into_iter().map(|package| (bare(&package.name).to_owned(), package)).collect();
    let candidates = query::candidates(call.ctx, &names, &query::known_origins(call.ctx)?)?;
    let records = query::records(
        call.ctx,
        &Vec::from_iter(candidates.iter().map(|(name, candidate)| (name.clone(), candidate.version.clone()))),
    )?;
    for name in names {
        let current = installed.get(&name).filter(|package| package.state != 'n');
        let state = current.map_or("NotInstalled", |package| state(package.state));
        if state == "NotInstalled" && OPTIONAL.contains(&name.as_str()) {
            continue;
        }
        let of_dpkg = || current.map(|package| Candidate { version: package.version.clone(), origin: None });
        let Some(candidate) = candidates.get(&name).cloned().or_else(of_dpkg) else { continue };
        let old = current.map(|package| package.version.as_str()).filter(|_| state != "ConfigFiles");
        let mut row = describe(&name, records.get(&name), old, &candidate);
        row.insert("CurrentState".into(), json!(state));
        rows.push(Value::Object(row));
    }
    Ok(Reply::from(Value::Array(rows)))
}

/// libapt's name of a state of dpkg's.
fn state(letter: char) -> &'static str {
    match letter {
        'i' | 'W' | 't' => "Installed",
        'c' => "ConfigFiles",
        'H' => "HalfInstalled",
        'U' => "UnPacked",
        'F' => "HalfConfigured",
        _ => "NotInstalled",
    }
}

#[cfg(test)]
mod tests;

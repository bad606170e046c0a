//! `/nodes/{node}/scan`: what servers and this machine have that could become a storage.
//! (PVE: pve-storage PVE/API2/Storage/Scan.pm, PVE/Storage.pm)
//!
//! Every question has a deadline. Passwords reach tools by their environment, never by an argument.

use super::disks::{pool_rows, pools};
use crate::registry::{Binding, get};
use crate::storage::iscsi::discovery;
use crate::storage::lvm::report;
use crate::storage::mounted::check_server_name;
use crate::storage::zfs::pool;
use crate::tool::Tool;
use crate::{Call, Reply, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/scan/cifs", cifs),
    get("/nodes/{node}/scan/iscsi", iscsi),
    get("/nodes/{node}/scan/lvm", lvm),
    get("/nodes/{node}/scan/lvmthin", lvmthin),
    get("/nodes/{node}/scan/nfs", nfs),
    get("/nodes/{node}/scan/zfs", zfs),
];

/// How long a server may take to say what it has.
const ANSWER: Duration = Duration::from_secs(20);

fn nfs(call: &Call) -> Result<Reply> {
    let server: String = call.param("server")?;
    let tool = Tool::new("showmount").args(["--no-headers", "--exports", check_server_name(&server)?]);
    let text = tool.within(ANSWER).read(call.ctx)?;
    let rows = exports(&text).into_iter().map(|(path, options)| json!({ "path": path, "options": options }));
    Ok(Reply::from(rows.collect::<Value>()))
}

/// Lines such as `/srv/data 10.0.0.0/24,nas`.
fn exports(text: &str) -> BTreeMap<String, String> {
    let split = |line: &str| {
        let (path, options) = line.split_once(char::is_whitespace)?;
        (path.starts_with('/')).then(|| (path.to_owned(), options.trim().to_owned()))
    };
    text.lines().filter_map(split).collect()
}

fn cifs(call: &Call) -> Result<Reply> {
    let server: String = call.param("server")?;
    let mut tool = Tool::new("smbclient").args(["-m", "smb3", "-d", "0", "-L", check_server_name(&server)?]);
    if let Some(domain) = call.opt::<String>("domain")? {
        tool = tool.args(["-W", &domain]);
    }
    match call.opt::<String>("password")? {
        Some(password) => tool = tool.env("PASSWD", password),
        None => tool = tool.arg("-N"),
    }
    if let Some(user) = call.opt::<String>("username")? {
        tool = tool.env("USER", user);
    }
    let ended = tool.within(ANSWER).end(call.ctx)?;
    let (shares, problems) = shares(&ended.stdout);
    if shares.is_empty() && (ended.code != 0 || !problems.is_empty()) {
        bail!("{}", [problems, ended.stderr.trim().to_owned()].join("\n").trim());
    }
    let rows = shares.into_iter().map(|(share, description)| json!({ "share": share, "description": description }));
    Ok(Reply::from(rows.collect::<Value>()))
}

/// Shares with their remarks, and what the server complained about.
fn shares(text: &str) -> (BTreeMap<String, String>, String) {
    let mut shares = BTreeMap::new();
    let mut problems = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, "Disk", remark @ ..] = words.as_slice() {
            shares.insert((*name).to_owned(), remark.join(" "));
        } else if let Some(status) = words.iter().find(|word| word.starts_with("NT_STATUS_")) {
            problems += &format!("unexpected status: {status}\n");
        }
    }
    (shares, problems)
}

fn iscsi(call: &Call) -> Result<Reply> {
    let portal: String = call.param("portal")?;
    let rows = discovery(call.ctx, &portal)?
        .into_iter()
        .map(|(target, portals)| json!({ "target": target, "portal": portals.join(",") }));
    Ok(Reply::from(rows.collect::<Value>()))
}

fn lvm(call: &Call) -> Result<Reply> {
    let rows = report::groups(call.ctx, false)?
        .into_iter()
        .map(|(name, group)| json!({ "vg": name, "size": group.size, "free": group.free, "lvcount": group.volumes }));
    Ok(Reply::from(rows.collect::<Value>()))
}

fn lvmthin(call: &Call) -> Result<Reply> {
    let group: String = call.param("vg")?;
    Ok(Reply::from(pool_rows(&pools(call.ctx, Some(&group))?)))
}

fn zfs(call: &Call) -> Result<Reply> {
    let rows =
        pool::scan(call.ctx)?.into_iter().map(|(pool, size, free)| json!({ "pool": pool, "size": size, "free": free }));
    Ok(Reply::from(rows.collect::<Value>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_servers_are_read() {
        let found = exports("/srv/b 10.0.0.0/24,nas\n/srv/a  *\nrubbish\nclnt_create: RPC failed\n");
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("/srv/a".into(), "*".into()), ("/srv/b".into(), "10.0.0.0/24,nas".into())]
        );
        let (found, problems) = shares(
            "\n\tSharename       Type      Comment\n\t---------       ----      -------\n\tdata            Disk      All data\n\
             \tIPC$            IPC       IPC Service\nSMB1 disabled -- no workgroup available\n",
        );
        assert_eq!((found.get("data").map(String::as_str), found.len(), problems.as_str()), (Some("All data"), 1, ""));
        let (found, problems) = shares("session setup failed: NT_STATUS_LOGON_FAILURE\n");
        assert!(found.is_empty());
        assert_eq!(problems, "unexpected status: NT_STATUS_LOGON_FAILURE\n");
    }
}

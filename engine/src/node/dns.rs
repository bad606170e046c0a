//! `/nodes/{node}/dns` and `/nodes/{node}/hosts`: how the node resolves names.
//! (PVE: pve-common PVE/INotify.pm, read_etc_resolv_conf, update_etc_resolv_conf, read_etc_hosts)

use crate::{Call, Error, Reply, Result, file};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

const RESOLVER: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
const SERVERS: [&str; 3] = ["dns1", "dns2", "dns3"];

/// `GET /nodes/{node}/dns`.
pub fn get(call: &Call) -> Result<Reply> {
    Ok(Reply::from(Value::Object(parse(&file::read_or_empty(&call.ctx.root.path(RESOLVER))?))))
}

fn parse(text: &str) -> Map<String, Value> {
    let mut found = Map::new();
    let mut servers = SERVERS.iter();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("search" | "domain"), Some(domain)) if !line.starts_with(char::is_whitespace) => {
                found.insert("search".into(), json!(domain));
            }
            (Some("nameserver"), Some(address)) if address.parse::<IpAddr>().is_ok() => {
                if let Some(name) = servers.next() {
                    found.insert((*name).into(), json!(address));
                }
            }
            _ => {}
        }
    }
    found
}

/// `PUT /nodes/{node}/dns`: replaces domain and servers, keeps every other line.
pub fn put(call: &Call) -> Result<Reply> {
    let search = call.text("search").filter(|search| !search.is_empty());
    if search.as_ref().is_some_and(|search| search.contains(['\n', '\r'])) {
        return Err(Error::parameter("search", "value must not contain a line break"));
    }
    let servers: Vec<String> = SERVERS.iter().filter_map(|name| call.text(name)).collect();
    file::update(call.ctx, &call.ctx.root.path(RESOLVER), 0o644, |text| Ok(edit(text, search.as_deref(), &servers)))?;
    Ok(Reply::null())
}

fn edit(text: &str, search: Option<&str>, servers: &[String]) -> String {
    let mut new: String = search.map(|search| format!("search {search}\n")).unwrap_or_default();
    let mut written: Vec<&String> = Vec::new();
    for server in servers.iter().filter(|server| *server != "0.0.0.0") {
        if !written.contains(&server) {
            new += &format!("nameserver {server}\n");
            written.push(server);
        }
    }
    let is_replaced = |line: &str| {
        ["search", "domain", "nameserver"]
            .iter()
            .any(|word| line.strip_prefix(word).is_some_and(|rest| rest.starts_with(char::is_whitespace)))
    };
    for line in text.lines().filter(|line| !is_replaced(line)) {
        new += &format!("{line}\n");
    }
    new
}

/// `GET /nodes/{node}/hosts`.
pub fn get_hosts(call: &Call) -> Result<Reply> {
    let text = file::read_or_empty(&call.ctx.root.path(HOSTS))?;
    Ok(Reply::from(json!({ "data": text, "digest": file::digest(&text) })))
}

/// `POST /nodes/{node}/hosts`.
pub fn post_hosts(call: &Call) -> Result<Reply> {
    let data: String = call.param("data")?;
    let seen = call.text("digest");
    file::update(call.ctx, &call.ctx.root.path(HOSTS), 0o644, |text| {
        file::assert_digest(&file::digest(text), seen.as_deref())?;
        Ok(data)
    })?;
    Ok(Reply::null())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# made by hand\ndomain old.example\nnameserver 192.0.2.1\nnameserver nonsense\n\
        nameserver 2001:db8::1\noptions edns0\n";

    #[test]
    fn servers_are_numbered_and_nonsense_is_skipped() {
        let found = json!({ "search": "old.example", "dns1": "192.0.2.1", "dns2": "2001:db8::1" });
        assert_eq!(Value::Object(parse(FILE)), found);
    }

    #[test]
    fn other_lines_survive_an_edit() {
        let servers = ["192.0.2.7", "192.0.2.7", "0.0.0.0"].map(str::to_owned);
        let text = edit(FILE, Some("new.example"), &servers);
        assert_eq!(text, "search new.example\nnameserver 192.0.2.7\n# made by hand\noptions edns0\n");
    }
}

//! Entries of storages that one node's disks make: a node adds itself to an entry of the same storage, or makes the
//! entry; it leaves the entry, or removes it with its last node.
//! (PVE: pve-storage PVE/API2/Storage/Config.pm, create_or_update and cleanup_storages_for_node)

use super::config::{Entry, FILE, StorageConfig};
use super::edit;
use super::kind::Kind;
use crate::types::split_list;
use crate::{Context, Error, Result, access, bail, file};

/// An entry that a node wants.
pub struct Wanted<'a> {
    /// The storage's id.
    pub id: &'a str,
    /// Its type.
    pub kind: &'static str,
    /// Its options, without `nodes`.
    pub options: Vec<(&'static str, String)>,
    /// The options that an entry of the same name must have as wanted.
    pub same: &'static [&'static str],
}

/// Fails when the node cannot be added to the entry that is there.
pub fn check(ctx: &Context, wanted: &Wanted) -> Result<()> {
    match super::config(ctx)?.get(wanted.id) {
        Some(entry) => check_same(ctx, wanted, entry),
        None => Ok(()),
    }
}

fn check_same(ctx: &Context, wanted: &Wanted, entry: &Entry) -> Result<()> {
    let id = wanted.id;
    if entry.is_on_node(&ctx.node) {
        bail!("Storage ID '{id}' already exists on node {}", ctx.node);
    }
    let value = |key: &str| wanted.options.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str());
    let pairs = wanted.same.iter().map(|key| (*key, value(key).unwrap_or_default(), entry.get(key)));
    for (key, expected, found) in std::iter::once(("type", wanted.kind, Some(entry.kind()))).chain(pairs) {
        match found {
            None => bail!("Option '{key}' is not configured for storage '{id}', expected it to be '{expected}'"),
            Some(found) if found != expected => {
                bail!("Option '{key}' ({expected}) does not match existing storage configuration '{found}'")
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Adds the node to the entry, or makes one for this node.
pub fn add(ctx: &Context, wanted: &Wanted) -> Result<()> {
    change(ctx, |config| {
        if let Some(entry) = config.get(wanted.id) {
            check_same(ctx, wanted, entry)?;
            let mut entry = entry.clone();
            let mut nodes = entry.nodes().unwrap_or_default();
            nodes.push(ctx.node.clone());
            nodes.sort();
            entry.set("nodes", nodes.join(","));
            config.set(wanted.id, entry);
            return Ok(());
        }
        let kind = Kind::named(wanted.kind).ok_or_else(|| Error::new("unknown storage type"))?;
        let mut options: Vec<(String, String)> =
            wanted.options.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        options.push(("nodes".into(), ctx.node.clone()));
        let entry = edit::new_entry(ctx, wanted.id, kind, &options)?;
        config.set(wanted.id, edit::configure_new(ctx, wanted.id, entry, &super::driver::Secrets::new())?);
        Ok(())
    })
}

/// Takes the node out of all entries that `matches`; those without a node are removed.
pub fn leave(ctx: &Context, matches: impl Fn(&Entry) -> bool) -> Result<()> {
    let mut removed = Vec::new();
    change(ctx, |config| {
        let concerned: Vec<(String, Entry)> = config
            .entries()
            .filter(|(_, entry)| matches(entry) && entry.is_on_node(&ctx.node))
            .map(|(id, entry)| (id.to_owned(), entry.clone()))
            .collect();
        for (id, mut entry) in concerned {
            // An entry without nodes is on all of them, which is this one as long as it is alone.
            let mut nodes = split_list(entry.get("nodes").unwrap_or_default());
            nodes.retain(|node| *node != ctx.node);
            if nodes.is_empty() {
                edit::unconfigure(ctx, &id, entry)?;
                config.remove(&id);
                removed.push(id);
            } else {
                entry.set("nodes", nodes.join(","));
                config.set(&id, entry);
            }
        }
        Ok(())
    })?;
    removed.iter().try_for_each(|id| access::remove_storage(ctx, id))
}

fn change(ctx: &Context, change: impl FnOnce(&mut StorageConfig) -> Result<()>) -> Result<()> {
    file::update(ctx, &ctx.root.etc_pve(FILE), 0o640, |text| {
        let mut config = StorageConfig::parse(ctx, text.to_owned());
        change(&mut config)?;
        Ok(config.print())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(id: &str, path: String) -> Wanted<'_> {
        let options = vec![("path", path), ("content", "images,iso".to_owned())];
        Wanted { id, kind: "dir", options, same: &["path"] }
    }

    #[test]
    fn nodes_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        std::fs::create_dir_all(root.path().join("etc/pve")).unwrap();
        let place = root.path().join("data").display().to_string();
        add(&ctx, &wanted("data", place.clone())).unwrap();
        let text = || std::fs::read_to_string(root.path().join("etc/pve/storage.cfg")).unwrap();
        assert!(
            text().contains(&format!("dir: data\n\tpath {place}\n\tcontent images,iso\n\tnodes pve1\n")),
            "{}",
            text()
        );
        let again = check(&ctx, &wanted("data", place.clone())).unwrap_err();
        assert_eq!(again.message(), "Storage ID 'data' already exists on node pve1");
        let other = Context { node: "pve2".into(), ..ctx.clone() };
        assert!(
            check(&other, &wanted("data", "/else".into())).unwrap_err().message().starts_with("Option 'path' (/else)")
        );
        add(&other, &wanted("data", place.clone())).unwrap();
        assert!(text().contains("\tnodes pve1,pve2\n"));
        let is_it = |entry: &Entry| entry.get("path") == Some(place.as_str());
        leave(&ctx, is_it).unwrap();
        assert!(text().contains("\tnodes pve2\n"));
        leave(&other, is_it).unwrap();
        assert!(!text().contains("data\n"));
    }
}

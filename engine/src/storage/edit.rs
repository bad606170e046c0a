//! Changing an entry of `storage.cfg`: which options a type takes, which are fixed, how values are written.
//! (PVE: pve-common PVE/SectionConfig.pm, check_config; pve-storage PVE/Storage/Plugin.pm, decode_value)

use super::config::Entry;
use super::content::Content;
use super::driver::{Secrets, Storage};
use super::driver_of;
use super::kind::Kind;
use super::volume::Format;
use crate::types::split_list;
use crate::{Context, Error, Result, bail};

/// Parts options from those that are kept as secrets; a deleted secret is one without a value.
pub fn split_secrets(
    kind: &Kind,
    options: Vec<(String, String)>,
    delete: &[String],
) -> (Vec<(String, String)>, Secrets) {
    let names = kind.driver.map(|driver| driver.secret_options()).unwrap_or_default();
    let is_secret = |key: &str| names.contains(&key);
    let (secret, open): (Vec<_>, Vec<_>) = options.into_iter().partition(|(key, _)| is_secret(key));
    let mut secrets: Secrets = secret.into_iter().map(|(key, value)| (key, Some(value))).collect();
    for key in delete.iter().filter(|key| is_secret(key)) {
        secrets.entry(key.clone()).or_insert(None);
    }
    (open, secrets)
}

/// Stores a new storage's secrets and makes it usable if it is meant for this node, so that mistakes show at once. What
/// fails has stored nothing.
pub fn configure_new(ctx: &Context, id: &str, entry: Entry, secrets: &Secrets) -> Result<Entry> {
    let mut storage = Storage { ctx, id: id.to_owned(), entry };
    let driver = driver_of(&storage)?;
    let tried = driver.configure(&mut storage, secrets, true).and_then(|()| try_out(ctx, id, &storage.entry));
    match tried {
        Ok(()) => Ok(storage.entry),
        Err(error) => {
            let failures: Vec<Error> = driver.unconfigure(&storage).err().into_iter().collect();
            Err(error.with_cleanup_failures(&failures))
        }
    }
}

/// Changes an entry and its secrets.
pub fn configure_changed(
    ctx: &Context,
    id: &str,
    mut entry: Entry,
    options: Vec<(String, String)>,
    delete: &[String],
) -> Result<Entry> {
    let Some(kind) = entry.known_kind() else { bail!("unknown section type '{}'", entry.kind()) };
    let (options, secrets) = split_secrets(kind, options, delete);
    let open: Vec<String> = delete.iter().filter(|key| !secrets.contains_key(*key)).cloned().collect();
    update_entry(&mut entry, &options, &open)?;
    let mut storage = Storage { ctx, id: id.to_owned(), entry };
    if let Some(driver) = kind.driver {
        driver.check_entry(ctx, id, &mut storage.entry, false)?;
        driver.configure(&mut storage, &secrets, false)?;
    }
    Ok(storage.entry)
}

/// Forgets a storage's secrets. A storage whose type we cannot use has none of ours.
pub fn unconfigure(ctx: &Context, id: &str, entry: Entry) -> Result<()> {
    let storage = Storage { ctx, id: id.to_owned(), entry };
    match driver_of(&storage) {
        Ok(driver) => driver.unconfigure(&storage),
        Err(_) => Ok(()),
    }
}

/// An entry with these options, all rules checked.
pub fn new_entry(ctx: &Context, id: &str, kind: &Kind, options: &[(String, String)]) -> Result<Entry> {
    let mut entry = Entry::new(kind.name);
    for (key, value) in options {
        set(&mut entry, kind, key, value)?;
    }
    if let Some(path) = entry.get("path").map(str::to_owned) {
        entry.set("path", directory_path(&path)?);
    }
    if let Some(driver) = kind.driver {
        driver.check_entry(ctx, id, &mut entry, true)?;
    }
    for (key, _) in kind.declared().options.iter().filter(|(_, rule)| rule.required) {
        if entry.get(key).is_none() {
            bail!("missing value for required option '{key}'");
        }
    }
    Ok(entry)
}

/// Sets and deletes options of an existing entry.
pub fn update_entry(entry: &mut Entry, options: &[(String, String)], delete: &[String]) -> Result<()> {
    let Some(kind) = entry.known_kind() else {
        bail!("unknown section type '{}'", entry.kind());
    };
    let rules = &kind.declared().options;
    let before = entry.clone();
    for (key, value) in options {
        if rules.get(key).is_some_and(|rule| rule.fixed) {
            bail!("can't change value of fixed parameter '{key}'");
        }
        set(entry, kind, key, value)?;
    }
    for key in delete {
        let Some(rule) = rules.get(key) else {
            // What somebody wrote by hand can be taken away again.
            if before.get(key).is_some() {
                entry.unset(key);
                continue;
            }
            bail!("no such option '{key}'");
        };
        if rule.required {
            bail!("unable to delete required option '{key}'");
        }
        if rule.fixed {
            bail!("unable to delete fixed option '{key}'");
        }
        if options.iter().any(|(name, _)| name == key) {
            bail!("cannot set and delete property '{key}' at the same time!");
        }
        entry.unset(key);
    }
    Ok(())
}

/// Sets one option in the form in which the file has it. An empty list takes the option away.
fn set(entry: &mut Entry, kind: &Kind, key: &str, value: &str) -> Result<()> {
    if !kind.declared().options.contains_key(key) {
        bail!("unexpected property '{key}'");
    }
    if value.contains(['\n', '\r']) {
        bail!("property contains a line feed");
    }
    let written = match key {
        "content" => contents(kind, value)?,
        "nodes" => split_list(value).join(","),
        "content-dirs" => content_directories(kind, value),
        "format" if !value.parse().is_ok_and(|format: Format| kind.formats().contains(&format)) => return Ok(()),
        _ => value.to_owned(),
    };
    if written.is_empty() {
        entry.unset(key);
    } else {
        entry.set(key, written);
    }
    Ok(())
}

/// The content types that the storage's type can hold, each once; PVE drops the others with a warning.
fn contents(kind: &Kind, value: &str) -> Result<String> {
    let possible: Vec<Content> = kind.contents().collect();
    let mut names: Vec<&str> = Vec::new();
    for content in split_list(value).iter().filter_map(|name| name.parse::<Content>().ok()) {
        if possible.contains(&content) && !names.contains(&content.name()) {
            names.push(content.name());
        }
    }
    if names.contains(&"none") && names.len() > 1 {
        bail!("unable to combine 'none' with other content types");
    }
    if names.is_empty() {
        if !possible.contains(&Content::None) {
            bail!("storage does not support content type 'none'");
        }
        names.push("none");
    }
    Ok(names.join(","))
}

/// `CONTENT=PATH` items in the order of their names.
fn content_directories(kind: &Kind, value: &str) -> String {
    let possible: Vec<Content> = kind.contents().collect();
    let is_possible = |item: &String| {
        let name = item.split('=').next().unwrap_or_default();
        name.parse().is_ok_and(|content: Content| possible.contains(&content))
    };
    let mut items: Vec<String> = split_list(value).into_iter().filter(is_possible).collect();
    items.sort();
    items.join(",")
}

/// The path of a directory storage without what it can do without. (PVE: DirPlugin.pm, check_config)
fn directory_path(path: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '_' | '.' | '@');
    if path.len() < 2 || !path.starts_with('/') || !path.chars().all(allowed) {
        bail!("illegal path for directory storage: {path}");
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(format!("/{}", parts.join("/")))
}

/// Makes a new storage usable if it is meant for this node, so that mistakes show at once.
pub fn try_out(ctx: &Context, id: &str, entry: &Entry) -> Result<()> {
    let status = super::status::try_entry(ctx, id, entry);
    match status.reason {
        Some(reason) if status.enabled => Err(Error::new(reason)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(options: &[(&str, &str)]) -> Vec<(String, String)> {
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn create(options: &[(&str, &str)]) -> Result<Entry> {
        let ctx = Context::for_test(std::path::Path::new("/nonexistent"));
        new_entry(&ctx, "x", Kind::named("dir").unwrap(), &pairs(options))
    }

    #[test]
    fn new_entries_follow_the_rules_of_their_type() {
        let entry = create(&[("path", "/srv//data/./x/"), ("content", "iso, images;iso"), ("nodes", "a b")]).unwrap();
        assert_eq!(entry.get("path"), Some("/srv/data/x"));
        assert_eq!(entry.get("content"), Some("iso,images"));
        assert_eq!(entry.get("nodes"), Some("a,b"));
        for (options, text) in [
            (&[("content", "iso")][..], "missing value for required option 'path'"),
            (&[("path", "/srv;rm")], "illegal path for directory storage: /srv;rm"),
            (&[("path", "srv")], "illegal path for directory storage: srv"),
            (&[("path", "/srv"), ("server", "nas")], "unexpected property 'server'"),
            (&[("path", "/srv"), ("bwlimit", "a\nb")], "property contains a line feed"),
            (&[("path", "/srv"), ("content", "none,iso")], "unable to combine 'none' with other content types"),
        ] {
            assert_eq!(create(options).unwrap_err().message(), text);
        }
    }

    #[test]
    fn fixed_and_required_options_stay() {
        let mut entry = create(&[("path", "/srv"), ("shared", "1"), ("nodes", "a")]).unwrap();
        let mut update = |options: &[(&str, &str)], delete: &[&str]| {
            let delete: Vec<String> = delete.iter().map(|key| (*key).to_owned()).collect();
            update_entry(&mut entry, &pairs(options), &delete).map_err(|error| error.message().to_owned())
        };
        assert_eq!(update(&[("path", "/x")], &[]).unwrap_err(), "can't change value of fixed parameter 'path'");
        assert_eq!(update(&[], &["path"]).unwrap_err(), "unable to delete required option 'path'");
        assert_eq!(
            update(&[], &["snapshot-as-volume-chain"]).unwrap_err(),
            "unable to delete fixed option 'snapshot-as-volume-chain'"
        );
        assert_eq!(update(&[], &["what"]).unwrap_err(), "no such option 'what'");
        assert_eq!(
            update(&[("shared", "0")], &["shared"]).unwrap_err(),
            "cannot set and delete property 'shared' at the same time!"
        );
        update(&[("nodes", "")], &["shared"]).unwrap();
        assert_eq!(entry.values().collect::<Vec<_>>(), [("path", "/srv")]);
    }
}

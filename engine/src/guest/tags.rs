//! Tags of guests: in which order and spelling they are kept, and who may use which.
//! (PVE: pve-guest-common PVE/GuestHelpers.pm, get_unique_tags and assert_tag_permissions)

use crate::cluster::options::DatacenterOptions;
use crate::types::split_list;
use crate::{Context, Error, Result, access, live};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Each tag once, as the datacenter's style wants them: in lower case unless case matters, sorted unless the order of
/// the configuration counts.
pub fn unique(ctx: &Context, text: &str) -> Result<String> {
    let style = DatacenterOptions::load(ctx)?.tag_style();
    let is_sensitive = style["case-sensitive"].as_u64() == Some(1) || style["case-sensitive"].as_bool() == Some(true);
    Ok(unique_in_style(text, is_sensitive, style["ordering"].as_str() == Some("config")))
}

fn unique_in_style(text: &str, is_sensitive: bool, keeps_order: bool) -> String {
    let mut tags = split_list(text);
    if !is_sensitive {
        tags.iter_mut().for_each(|tag| *tag = tag.to_lowercase());
    }
    if !keeps_order {
        tags.sort();
    }
    let mut seen = BTreeSet::new();
    tags.retain(|tag| seen.insert(tag.clone()));
    tags.join(";")
}

/// Fails when the caller may not add or remove one of the tags that differ.
pub fn check_change(ctx: &Context, old: &str, new: &str) -> Result<()> {
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for tag in split_list(old) {
        *counts.entry(tag).or_default() -= 1;
    }
    for tag in split_list(new) {
        *counts.entry(tag).or_default() += 1;
    }
    counts.retain(|_, count| *count != 0);
    if counts.is_empty() || access::has(ctx, "/", &["Sys.Modify"]) {
        return Ok(());
    }
    let options = DatacenterOptions::load(ctx)?;
    let registered: BTreeSet<String> = options.registered_tags().into_iter().collect();
    let rights = options.user_tag_access();
    let mode = rights["user-allow"].as_str().unwrap_or("free").to_owned();
    let mut allowed = BTreeSet::new();
    if mode != "none" {
        let listed = rights["user-allow-list"].as_array().into_iter().flatten();
        allowed.extend(listed.filter_map(Value::as_str).map(str::to_owned));
    }
    if mode == "existing" {
        let view = access::View::of(ctx)?;
        for row in live::guests(ctx)?.iter().filter(|row| row.is_visible_to(&view)) {
            allowed.extend(row.facts.tags.iter().flat_map(|tags| split_list(tags)));
        }
    }
    let is_refused = |tag: &&String| registered.contains(*tag) || (mode != "free" && !allowed.contains(*tag));
    match counts.keys().find(is_refused) {
        None => Ok(()),
        Some(tag) => {
            Err(Error::Forbidden(format!("Permission check failed (/, Sys.Modify for modifying tag '{tag}')")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_decides_about_case_and_order() {
        assert_eq!(unique_in_style("Web;db, web prod", false, false), "db;prod;web");
        assert_eq!(unique_in_style("Web;db, web prod", true, true), "Web;db;web;prod");
        assert_eq!(unique_in_style("", false, true), "");
    }

    #[test]
    fn registered_tags_and_unlisted_ones_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        std::fs::create_dir_all(root.path().join("etc/pve")).unwrap();
        let text = "registered-tags: prod\nuser-tag-access: user-allow=list,user-allow-list=a;b\n";
        std::fs::write(root.path().join("etc/pve/datacenter.cfg"), text).unwrap();
        assert!(check_change(&ctx, "", "prod").is_ok(), "root may");
        let joe = ctx.with_caller(crate::Caller::verified("joe@pve"));
        assert!(check_change(&joe, "b;c", "a;b;c").is_ok(), "tags that stay are no change");
        let refused = check_change(&joe, "prod", "").unwrap_err().message().to_owned();
        assert_eq!(refused, "Permission check failed (/, Sys.Modify for modifying tag 'prod')");
        assert!(check_change(&joe, "", "c").is_err());
    }
}

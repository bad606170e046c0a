//! How fast copies may be. (PVE: pve-storage PVE/Storage.pm, get_bandwidth_limit)

use crate::config::flat::FlatConfig;
use crate::types::split_list;
use crate::{Context, Error, Result, access, file};

/// The limit of an operation (`clone`, `move`, `migration`, `restore`, `default`) that touches these storages, in KiB per
/// second; the smallest wins. `None` is without limit. `wanted` is what the caller asks for: whoever may change a limit
/// may also go above it.
pub fn bandwidth_limit(ctx: &Context, operation: &str, storages: &[&str], wanted: Option<u64>) -> Result<Option<u64>> {
    let asks = wanted.is_some();
    let mut limit = wanted.filter(|limit| *limit > 0);
    let mut global = storages.is_empty();
    if !storages.is_empty() {
        if asks && access::has(ctx, "/storage", &["Datastore.Allocate"]) {
            return Ok(limit);
        }
        let config = super::config(ctx)?;
        for id in storages {
            if asks && access::has(ctx, &format!("/storage/{id}"), &["Datastore.Allocate"]) {
                continue;
            }
            match configured(config.entry(id)?.get("bwlimit"), operation)? {
                Some(own) => limit = smaller(limit, own),
                None => global = true,
            }
        }
    }
    if global && !(asks && access::has(ctx, "/", &["Sys.Modify"])) {
        let datacenter = FlatConfig::parse(&file::read_or_empty(&ctx.root.etc_pve("datacenter.cfg"))?);
        if let Some(own) = configured(datacenter.values.get("bwlimit").map(String::as_str), operation)? {
            limit = smaller(limit, own);
        }
    }
    Ok(limit)
}

/// 0 is a limit that limits nothing.
fn smaller(limit: Option<u64>, other: u64) -> Option<u64> {
    match (limit, other) {
        (limit, 0) => limit,
        (Some(limit), other) => Some(limit.min(other)),
        (None, other) => Some(other),
    }
}

/// What a `bwlimit` property says about an operation.
fn configured(text: Option<&str>, operation: &str) -> Result<Option<u64>> {
    let items = split_list(text.unwrap_or_default());
    let of = |key: &str| items.iter().find_map(|item| item.strip_prefix(key)?.strip_prefix('='));
    let Some(value) = of(operation).or_else(|| of("default")) else { return Ok(None) };
    let number: f64 = value.parse().map_err(|_| Error::new(format!("invalid bandwidth limit '{value}'")))?;
    Ok(Some(number.max(0.0).ceil() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;

    fn node(storage: &str, datacenter: &str) -> (tempfile::TempDir, Context) {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let text = format!("dir: local\n\tpath /x\n{storage}\ndir: free\n\tpath /y\n");
        std::fs::write(ctx.root.etc_pve("storage.cfg"), text).unwrap();
        std::fs::write(ctx.root.etc_pve("datacenter.cfg"), datacenter).unwrap();
        std::fs::write(ctx.root.etc_pve("user.cfg"), "user:joe@pve:1:0:::::\n").unwrap();
        (directory, ctx)
    }

    #[test]
    fn the_smallest_limit_wins() {
        let (_directory, ctx) = node("\tbwlimit clone=2000,default=500", "bwlimit: default=1000,move=0\n");
        let joe = ctx.with_caller(Caller::verified("joe@pve"));
        let of = |operation, storages: &[&str], wanted| bandwidth_limit(&joe, operation, storages, wanted).unwrap();
        assert_eq!(of("clone", &["local"], None), Some(2000));
        assert_eq!(of("move", &["local"], None), Some(500));
        assert_eq!(of("clone", &["local", "free"], None), Some(1000));
        assert_eq!(of("move", &["free"], None), None);
        assert_eq!(of("clone", &["local"], Some(9000)), Some(2000));
        assert_eq!(of("clone", &["local"], Some(100)), Some(100));
        assert_eq!(of("clone", &[], None), Some(1000));
        assert_eq!(of("clone", &["local"], Some(0)), Some(2000));
    }

    #[test]
    fn who_may_change_a_limit_may_go_above_it() {
        let (_directory, ctx) = node("\tbwlimit clone=2000", "bwlimit: clone=1000\n");
        assert_eq!(bandwidth_limit(&ctx, "clone", &["local", "free"], Some(9000)).unwrap(), Some(9000));
        assert_eq!(bandwidth_limit(&ctx, "clone", &["local"], Some(0)).unwrap(), None);
        assert_eq!(bandwidth_limit(&ctx, "clone", &["local"], None).unwrap(), Some(2000));
    }
}

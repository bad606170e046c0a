//! Keys are made, kept, replaced and never half there.

use super::*;
use crate::Clock;
use std::os::unix::fs::PermissionsExt;

const NOW: i64 = 1_800_000_000;

fn node(directory: &Path, now: i64) -> Context {
    Context { clock: Clock::Fixed(now), ..Context::for_test(directory) }
}

fn text(ctx: &Context, name: &str) -> Option<String> {
    fs::read_to_string(ctx.root.etc_pve(name)).ok()
}

#[test]
fn the_first_start_makes_what_is_missing_with_the_right_modes() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(directory.path(), NOW);
    ensure(&ctx).unwrap();
    for (name, mode) in [("authkey.pub", 0o640), ("priv/authkey.key", 0o600), ("pve-www.key", 0o640), ("priv", 0o700)] {
        let found = fs::metadata(ctx.root.etc_pve(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    assert!(text(&ctx, "authkey.pub.old").is_none());
    assert!(text(&ctx, "priv/authkey.key").unwrap().starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let before = (text(&ctx, "authkey.pub"), text(&ctx, "pve-www.key"));
    ensure(&node(directory.path(), NOW + KEY_LIFETIME - 1)).unwrap();
    assert_eq!((text(&ctx, "authkey.pub"), text(&ctx, "pve-www.key")), before);
}

#[test]
fn a_day_later_the_pair_is_replaced_and_the_public_key_kept() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(directory.path(), NOW);
    ensure(&ctx).unwrap();
    let (public_key, private_key) = (text(&ctx, "authkey.pub"), text(&ctx, "priv/authkey.key"));
    let later = node(directory.path(), NOW + KEY_LIFETIME);
    let key = private(&later).unwrap();
    assert_eq!(text(&later, "authkey.pub.old"), public_key);
    assert_ne!(text(&later, "authkey.pub"), public_key);
    assert_ne!(text(&later, "priv/authkey.key"), private_key);
    assert!(key.public_eq(&public(&later, false).unwrap().unwrap().key));
    assert_eq!(public(&later, false).unwrap().unwrap().born, NOW + KEY_LIFETIME);
}

#[test]
fn a_pair_from_the_future_or_broken_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(directory.path(), NOW);
    ensure(&ctx).unwrap();
    let first = text(&ctx, "authkey.pub");
    rotate_if_due(&node(directory.path(), NOW - SKEW)).unwrap();
    assert_eq!(text(&ctx, "authkey.pub"), first, "within the skew of clocks");
    rotate_if_due(&node(directory.path(), NOW - SKEW - 1)).unwrap();
    assert_ne!(text(&ctx, "authkey.pub"), first, "beyond it");
    for (name, broken) in [("authkey.pub", "rubbish"), ("authkey.pub", "")] {
        fs::write(ctx.root.etc_pve(name), broken).unwrap();
        private(&ctx).unwrap();
        assert!(public(&ctx, false).unwrap().is_some(), "{name}: {broken}");
    }
    fs::remove_file(ctx.root.etc_pve("priv/authkey.key")).unwrap();
    private(&ctx).unwrap();
}

#[test]
fn two_at_once_make_one_pair() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(directory.path(), NOW);
    ensure_directories(&ctx).unwrap();
    let keys: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| private(&ctx).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| key.public_eq(&keys[0])));
    assert!(text(&ctx, "authkey.pub.old").is_none());
}

#[test]
fn an_empty_csrf_secret_is_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(directory.path(), NOW);
    assert!(csrf_secret(&ctx).is_err());
    fs::create_dir_all(ctx.root.path("/etc/pve")).unwrap();
    fs::write(ctx.root.etc_pve("pve-www.key"), "\n").unwrap();
    assert!(csrf_secret(&ctx).is_err());
}

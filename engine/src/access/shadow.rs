//! `priv/shadow.cfg`: passwords of realm `pve`, one line `NAME:HASH:` each.
//! (PVE: pve-access-control PVE/Auth/PVE.pm)

use super::{crypt, keys};
use crate::{Context, Error, Result, file};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("priv/shadow.cfg")
}

/// Fails unless this is the password. `name` is the user's name without realm. The error is for the log.
pub fn authenticate(ctx: &Context, name: &str, password: &str) -> Result<()> {
    let shadow = parse(&file::read_or_empty(&path(ctx))?);
    let hash = shadow.get(name).ok_or_else(|| Error::new("no password set"))?;
    if crypt::verify(password, hash) { Ok(()) } else { Err(Error::new("invalid credentials")) }
}

/// Sets a password.
pub fn store(ctx: &Context, name: &str, password: &str) -> Result<()> {
    // Hashing takes its time and needs no lock.
    let hash = crypt::hash(password)?;
    change(ctx, |shadow| drop(shadow.insert(name.to_owned(), hash)))
}

/// Forgets a password.
pub fn forget(ctx: &Context, name: &str) -> Result<()> {
    change(ctx, |shadow| drop(shadow.remove(name)))
}

fn change(ctx: &Context, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<()> {
    keys::ensure_directories(ctx)?;
    file::update(ctx, &path(ctx), keys::PRIVATE_MODE, |text| {
        let mut shadow = parse(text);
        change(&mut shadow);
        Ok(shadow.iter().map(|(name, hash)| format!("{name}:{hash}:\n")).collect())
    })
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let entry = |line: &str| {
        let (name, hash) = line.trim().strip_suffix(':')?.split_once(':')?;
        let good = !name.is_empty() && !hash.is_empty() && !hash.contains(':');
        (good && !line.trim().contains(char::is_whitespace)).then(|| (name.to_owned(), hash.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn passwords_are_set_checked_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        store(&ctx, "joe", "first password").unwrap();
        store(&ctx, "ann", "other password").unwrap();
        store(&ctx, "joe", "second password").unwrap();
        assert!(authenticate(&ctx, "joe", "second password").is_ok());
        assert!(authenticate(&ctx, "joe", "first password").is_err());
        assert!(authenticate(&ctx, "joe", "").is_err());
        forget(&ctx, "joe").unwrap();
        assert!(authenticate(&ctx, "joe", "second password").is_err());
        assert!(authenticate(&ctx, "ann", "other password").is_ok());
        let mode = std::fs::metadata(path(&ctx)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn lines_of_another_shape_are_left_out() {
        let shadow = parse("joe:$5$a$b:\n\n  ann:$y$x:  \nbad\nbad:\nbad::\n:x:\nx:y:z:\na b:c:\n");
        assert_eq!(shadow.keys().collect::<Vec<_>>(), ["ann", "joe"]);
    }
}

//! Root's password and keys in a new system, and the host keys of its SSH server.
//! (PVE: LXC/Setup/Base.pm, set_user_password, set_user_authorized_ssh_keys; Setup.pm, rewrite_ssh_host_keys)

use super::super::rootfs::RootDirectory;
use super::section::{self, Otherwise};
use crate::{Context, Error, Result, access, command, error::ResultExt};
use std::fs;

/// What the creator gave for root.
#[derive(Debug, Clone, Default)]
pub struct NewAccount {
    /// A password, or a hash of one.
    pub password: Option<String>,
    /// Public keys, one a line.
    pub keys: Option<String>,
}

impl NewAccount {
    /// Whether anything was given.
    pub fn is_given(&self) -> bool {
        self.password.is_some() || self.keys.is_some()
    }
}

/// Sets root's password and keys; without a password root cannot log in by one.
pub fn set_root(root: &RootDirectory, account: &NewAccount) -> Result<()> {
    let Some(passwd) = root.read("/etc/passwd")? else { return Ok(()) };
    let hash = match &account.password {
        None => "*".to_owned(),
        Some(password) if is_hash(password) => password.clone(),
        Some(password) => access::crypt::hash_for_guest(password)?,
    };
    match root.read("/etc/shadow")? {
        Some(shadow) => {
            root.write("/etc/shadow", replace_fields(&shadow, &[&hash, &today()]), 0o640)?;
            root.write("/etc/passwd", replace_fields(&passwd, &["x"]), 0o644)?;
        }
        None => root.write("/etc/passwd", replace_fields(&passwd, &[&hash]), 0o644)?,
    }
    let Some(keys) = &account.keys else { return Ok(()) };
    let home = passwd.lines().find(|line| line.starts_with("root:")).and_then(|line| line.split(':').nth(5));
    let home = home.filter(|home| !home.is_empty()).unwrap_or("/root").trim_end_matches('/');
    if !root.is_directory(home) {
        return Err(Error::new(format!("home directory '{home}' of root does not exist!")));
    }
    let directory = root.make_directories(&format!("{home}/.ssh"))?;
    let readable = rustix::fs::openat(
        &directory,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    rustix::fs::fchmod(readable, rustix::fs::Mode::from_raw_mode(0o700))?;
    let path = format!("{home}/.ssh/authorized_keys");
    let text = section::with_section(root.read(&path)?.as_deref(), keys, Otherwise::Append);
    text.map_or(Ok(()), |text| root.write(&path, text, 0o600))
}

fn is_hash(password: &str) -> bool {
    let mut parts = password.split('$').skip(1);
    password.starts_with('$')
        && parts.next().is_some_and(|kind| matches!(kind, "1" | "2a" | "2x" | "2y" | "5" | "6" | "y"))
        && parts.count() >= 2
}

/// Replaces the fields behind the name in root's line.
fn replace_fields(text: &str, fields: &[&str]) -> String {
    let line = |line: &str| {
        let mut parts: Vec<&str> = line.split(':').collect();
        if parts[0] == "root" && parts.len() > fields.len() {
            parts[1..=fields.len()].copy_from_slice(fields);
        }
        parts.join(":") + "\n"
    };
    text.lines().map(line).collect()
}

fn today() -> String {
    (crate::Clock::System.now() / 86_400).to_string()
}

/// Gives the system's SSH server keys of its own, so that containers of one template differ.
pub fn renew_host_keys(ctx: &Context, root: &RootDirectory, hostname: &str, warn: &dyn Fn(&str)) -> Result<()> {
    if !root.is_directory("/etc/ssh") {
        return Ok(());
    }
    let place = ctx.root.run(&format!("pve/ssh-keys-{}", std::process::id()));
    fs::create_dir_all(&place).context(|| place.display().to_string())?;
    let make = || -> Result<()> {
        for kind in ["rsa", "ecdsa", "ed25519"] {
            let name = format!("ssh_host_{kind}_key");
            let file = place.join(&name);
            let owner = format!("root@{}", hostname.split('.').next().unwrap_or(hostname));
            let path = file.to_string_lossy();
            command::run("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", &owner, "-f", &path])?;
            root.write(&format!("/etc/ssh/{name}"), fs::read(&file)?, 0o600)?;
            root.write(&format!("/etc/ssh/{name}.pub"), fs::read(place.join(format!("{name}.pub")))?, 0o644)?;
        }
        Ok(())
    };
    let made = make();
    fs::remove_dir_all(&place).context(|| place.display().to_string())?;
    if let Err(error) = made {
        warn(&format!("SSH host keys are still those of the template: {error}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxc::idmap::IdMap;

    #[test]
    fn only_roots_line_changes() {
        let shadow = "root:*:1:0:99999:7:::\nbin:*:1::::::\n";
        assert_eq!(replace_fields(shadow, &["$6$x", "20000"]), "root:$6$x:20000:0:99999:7:::\nbin:*:1::::::\n");
    }

    #[test]
    fn keys_go_to_roots_home_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc")).unwrap();
        fs::create_dir_all(directory.path().join("home/admin")).unwrap();
        fs::write(directory.path().join("etc/passwd"), "root:x:0:0:root:/home/admin:/bin/sh\n").unwrap();
        let Ok(root) = RootDirectory::open(directory.path(), &IdMap::default()) else { return };
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let account = NewAccount { password: Some("$6$salt$hash".into()), keys: Some("ssh-ed25519 AAAA me".into()) };
        set_root(&root, &account).unwrap();
        set_root(&root, &account).unwrap();
        let keys = fs::read_to_string(directory.path().join("home/admin/.ssh/authorized_keys")).unwrap();
        assert_eq!(keys, "# --- BEGIN PVE ---\nssh-ed25519 AAAA me\n# --- END PVE ---\n");
        let passwd = fs::read_to_string(directory.path().join("etc/passwd")).unwrap();
        assert_eq!(passwd, "root:$6$salt$hash:0:0:root:/home/admin:/bin/sh\n");
    }
}

//! Storages of type `cifs`. The password lies in `/etc/pve/priv/storage/ID.pw` and nowhere else.
//! (PVE: pve-storage PVE/Storage/CIFSPlugin.pm)

use super::Share;
use super::server::{check_server_name, option, ping, source_host};
use crate::mounts::Mount;
use crate::storage::driver::{Secrets, Storage};
use crate::tool::Tool;
use crate::{Error, Result, bail, error::ResultExt, file};
use std::fs;
use std::path::PathBuf;

/// SMB servers.
pub struct Cifs;

/// Where the password is kept, in the form that mount.cifs reads.
fn credentials(storage: &Storage) -> PathBuf {
    storage.ctx.root.etc_pve(&format!("priv/storage/{}.pw", storage.id))
}

/// A value that may stand in a list of mount options: a comma would begin another option.
fn single_option<'v>(value: &'v str, what: &str) -> Result<&'v str> {
    if value.contains([',', '\n', '\0']) {
        bail!("{what} contains illegal characters");
    }
    Ok(value)
}

/// Kerberos takes the credentials of the machine.
fn uses_kerberos(storage: &Storage) -> bool {
    let options = storage.entry.get("options").unwrap_or_default();
    let security = option(options, "sec").unwrap_or_default().to_lowercase();
    ["krb5", "krb5i", "krb5p"].contains(&security.as_str())
}

impl Share for Cifs {
    fn source(&self, storage: &Storage) -> Result<String> {
        let value = |key| storage.entry.get(key);
        let server = value("server").ok_or_else(|| Error::new("missing value for required option 'server'"))?;
        let share = value("share").ok_or_else(|| Error::new("missing value for required option 'share'"))?;
        let subdirectory = value("subdir").unwrap_or_default();
        let climbs = subdirectory.split('/').any(|part| part == "..");
        if share.is_empty()
            || share.contains('/')
            || climbs
            || format!("{share}{subdirectory}").contains(char::is_control)
        {
            bail!("invalid share '{}'", format!("{share}{subdirectory}").escape_debug());
        }
        Ok(format!("//{}/{share}{subdirectory}", source_host(server)?))
    }

    fn is_mounted_as(&self, storage: &Storage, mount: &Mount) -> Result<bool> {
        let source = self.source(storage)?;
        let is_cifs = mount.kind == "cifs" || mount.kind == "smb3";
        Ok(is_cifs && mount.source.trim_end_matches('/') == source.trim_end_matches('/'))
    }

    fn mount(&self, storage: &Storage, source: &str, place: &str) -> Result<Tool> {
        // QEMU locks bytes of an image that it writes to. On a server such locks are binding, also for who holds them
        // (MS-SMB2 3.3.5.14); between the programs of this node they do their work without it. `brl` takes it back.
        let mut options = vec!["soft".to_owned(), "nobrl".to_owned()];
        let file = credentials(storage);
        if uses_kerberos(storage) {
            // Who mounts is known by the machine's ticket.
        } else if file.exists() {
            let user = storage.entry.get("username").unwrap_or_default();
            options.push(format!("username={}", single_option(user, "username")?));
            options.push(format!("credentials={}", single_option(&file.to_string_lossy(), "path")?));
            if let Some(domain) = storage.entry.get("domain") {
                options.push(format!("domain={}", single_option(domain, "domain")?));
            }
        } else {
            options.push("guest".into());
            options.push("username=guest".into());
        }
        options.push(format!("vers={}", storage.entry.get("smbversion").unwrap_or("default")));
        options.extend(storage.entry.get("options").map(str::to_owned));
        Ok(Tool::new("mount").args(["-t", "cifs", "-o", &options.join(","), "--", source, place]))
    }

    fn check_connection(&self, storage: &Storage) -> Result<()> {
        let server = storage.entry.get("server").unwrap_or_default();
        let options = storage.entry.get("options").unwrap_or_default();
        let port = option(options, "port").and_then(|port| port.parse().ok()).unwrap_or(445);
        ping(check_server_name(server)?, port)
    }

    fn secret_options(&self) -> &'static [&'static str] {
        &["password"]
    }

    fn keep_secrets(&self, storage: &Storage, secrets: &Secrets, create: bool) -> Result<()> {
        match secrets.get("password") {
            Some(Some(password)) => {
                if password.contains(['\n', '\r', '\0']) {
                    bail!("password contains illegal characters");
                }
                let path = credentials(storage);
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory).context(|| directory.display().to_string())?;
                }
                file::replace(&path, format!("password={password}\n").as_bytes(), 0o600)
            }
            Some(None) => self.drop_secrets(storage),
            // A leftover of an older storage of that name is not this one's.
            None if create => self.drop_secrets(storage),
            None => Ok(()),
        }
    }

    fn drop_secrets(&self, storage: &Storage) -> Result<()> {
        let path = credentials(storage);
        file::remove_if_there(&path).context(|| format!("removing cifs credentials '{}' failed", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Entry;
    use crate::tool::script::Script;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_password_is_in_a_file_and_never_in_a_command() {
        let root = tempfile::tempdir().unwrap();
        let script = Script::new();
        let ctx = script.context(root.path());
        let mut entry = Entry::new("cifs");
        for (key, value) in [("server", "nas"), ("share", "data"), ("username", "jo"), ("domain", "WORK")] {
            entry.set(key, value);
        }
        let mut storage = Storage { ctx: &ctx, id: "smb".into(), entry };
        let source = Cifs.source(&storage).unwrap();
        let command = |storage: &Storage| Cifs.mount(storage, &source, "/mnt/pve/smb").unwrap().to_string();
        assert_eq!(
            command(&storage),
            "mount -t cifs -o soft,nobrl,guest,username=guest,vers=default -- //nas/data /mnt/pve/smb"
        );
        let secrets = Secrets::from([("password".to_owned(), Some("geheim,x".to_owned()))]);
        Cifs.keep_secrets(&storage, &secrets, true).unwrap();
        let file = root.path().join("etc/pve/priv/storage/smb.pw");
        assert_eq!(fs::read_to_string(&file).unwrap(), "password=geheim,x\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        storage.entry.set("smbversion", "3.11");
        storage.entry.set("options", "noserverino");
        assert_eq!(
            command(&storage),
            format!(
                "mount -t cifs -o soft,nobrl,username=jo,credentials={},domain=WORK,vers=3.11,noserverino \
                 -- //nas/data /mnt/pve/smb",
                file.display()
            )
        );
        storage.entry.set("options", "sec=krb5i");
        assert!(!command(&storage).contains("username"));
        storage.entry.unset("options");
        storage.entry.set("username", "jo,password=x");
        assert!(Cifs.mount(&storage, &source, "/x").is_err());
        Cifs.keep_secrets(&storage, &Secrets::new(), false).unwrap();
        assert!(file.exists());
        Cifs.keep_secrets(&storage, &Secrets::from([("password".to_owned(), None)]), false).unwrap();
        assert!(!file.exists());
        Cifs.drop_secrets(&storage).unwrap();
    }

    #[test]
    fn shares_cannot_climb() {
        let ctx = Script::new().context(std::path::Path::new("/nowhere"));
        let mut entry = Entry::new("cifs");
        entry.set("server", "10.0.0.1");
        entry.set("share", "data");
        entry.set("subdir", "/a/../../b");
        let mut storage = Storage { ctx: &ctx, id: "smb".into(), entry };
        assert!(Cifs.source(&storage).is_err());
        storage.entry.set("subdir", "/a/b");
        assert_eq!(Cifs.source(&storage).unwrap(), "//10.0.0.1/data/a/b");
        let mount = Mount { source: "//10.0.0.1/data/a/b/".into(), target: "/x".into(), kind: "cifs".into() };
        assert!(Cifs.is_mounted_as(&storage, &mount).unwrap());
    }
}

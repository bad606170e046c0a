//! Values of requests that VMs and containers check alike.

use crate::storage::{self, Content, VolumeId};
use crate::{Context, Error, Result};
use contract::ParamErrors;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The refusal of a request for a snapshot's configuration and the current one at once.
pub fn snapshot_and_current() -> Error {
    let mut refused = ParamErrors::default();
    for name in ["snapshot", "current"] {
        refused.add(name, "cannot use 'snapshot' parameter with 'current'");
    }
    Error::Parameters(refused)
}

/// Fails unless each line is a public key as OpenSSH keeps them in `authorized_keys`. The text may be percent-encoded.
/// (PVE: pve-common PVE/Tools.pm, validate_ssh_public_keys)
pub fn check_ssh_keys(text: &str) -> Result<()> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    match text.lines().filter(|line| !line.trim().is_empty()).all(is_public_key) {
        true => Ok(()),
        false => Err(Error::new("SSH public key validation error")),
    }
}

/// Whether a line has a type of key and then data that begins with that type, perhaps after options.
fn is_public_key(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let [kind, data] = [pair[0], pair[1]];
        let Ok(data) = openssl::base64::decode_block(data) else { return false };
        let Some((length, rest)) = data.split_first_chunk::<4>() else { return false };
        let length = u32::from_be_bytes(*length) as usize;
        rest.len() > length && &rest[..length] == kind.as_bytes()
    })
}

/// The file of a volume that is a snippet and can be run. (PVE: pve-guest-common PVE/GuestHelpers.pm, check_hookscript)
pub fn check_hookscript(ctx: &Context, volume: &str) -> Result<PathBuf> {
    let id: VolumeId = volume.parse().map_err(Error::new)?;
    if storage::describe(ctx, &id)?.content != Content::Snippets {
        crate::bail!("'{volume}' is not in the snippets directory");
    }
    let path = storage::path(ctx, &id)?;
    match std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file) {
        None => Err(Error::new(format!("script '{volume}' does not exist"))),
        Some(file) if file.permissions().mode() & 0o111 == 0 => {
            Err(Error::new(format!("script '{volume}' is not executable")))
        }
        Some(_) => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ann@host";

    #[test]
    fn public_keys_are_told_from_other_text() {
        check_ssh_keys(&format!("{KEY}\n\nno-pty,command=\"a b\" {KEY}\n")).unwrap();
        check_ssh_keys(&KEY.replace(' ', "%20")).unwrap();
        for text in ["hello", "ssh-rsa AAAA", &KEY.replace("ssh-ed25519", "ssh-rsa"), "ssh-ed25519"] {
            assert_eq!(check_ssh_keys(text).unwrap_err().message(), "SSH public key validation error", "{text}");
        }
    }

    #[test]
    fn hook_scripts_are_snippets_that_can_be_run() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let text = |volume: &str| check_hookscript(&ctx, volume).unwrap_err().message().to_owned();
        assert_eq!(text("local:iso/a.iso"), "'local:iso/a.iso' is not in the snippets directory");
        assert_eq!(text("local:snippets/a"), "script 'local:snippets/a' does not exist");
        let directory = root.path().join("var/lib/vz/snippets");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("a"), "#!/bin/sh\n").unwrap();
        assert_eq!(text("local:snippets/a"), "script 'local:snippets/a' is not executable");
        std::fs::set_permissions(directory.join("a"), std::fs::Permissions::from_mode(0o755)).unwrap();
        check_hookscript(&ctx, "local:snippets/a").unwrap();
    }
}

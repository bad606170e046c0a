//! Certificates for secure boot in the variables of a VM's firmware: those of Microsoft from 2023, which take the place of
//! those from 2011. `virt-fw-vars` (package `python3-virt-firmware`) knows the variables' format and brings the
//! certificates along. (PVE: qemu-server QemuServer/OVMF.pm; CLI/qm.pm, enroll-efi-keys)

use super::config::{Bus, Drive, Slot, Vm};
use super::{recovery, status};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::{Context, Error, Result, Task, Vmid, command, error::ResultExt, guest, storage};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the option `ms-cert` says of a drive that has them.
const MARK: &str = "2023k";
/// The owner of the key, as the tool names it.
const OWNER: &str = "77fa9abd-0359-4d32-bd60-28f4e78f784b";
/// Where releases of the tool keep the key below their certificates.
const KEYS: [&str; 2] = ["MicrosoftCorporationKEK2KCA2023.pem", "microsoft.com/ms-kek-2023.pem"];

/// Enters the certificates into the EFI disk of a VM that does not run; `false` when there is nothing to do.
pub fn enroll(ctx: &Context, vmid: Vmid, log: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut done = false;
    Task::aside(ctx, "qmenroll", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
        guest::check_lock(&config)?;
        let vm = Vm::new(vmid, &config.current);
        if status::is_running(ctx, vmid) {
            crate::bail!("VM {vmid} is running");
        }
        if vm.is_template() {
            crate::bail!("VM {vmid} is a template");
        }
        let slot = Slot { bus: Bus::Efidisk, index: 0 };
        let key = slot.to_string();
        let text = vm.text(&key).ok_or_else(|| Error::new(format!("VM {vmid} has no EFI disk configured")))?;
        let mut drive = Drive::parse(slot, text)?;
        if !drive.options.is_on("pre-enrolled-keys") || drive.options.text("ms-cert").as_deref() == Some(MARK) {
            return Ok(());
        }
        log("efidisk0: enrolling Microsoft UEFI CA 2023");
        write_keys(ctx, &drive).map_err(|error| error.context("efidisk0: enrolling Microsoft UEFI CA 2023 failed"))?;
        drive.options.set("ms-cert", MARK);
        guest::update(ctx, GuestKind::Qemu, vmid, |config| {
            if config.current.get(&key) != Some(text) {
                crate::bail!("VM {vmid}: detected modified configuration - file changed by other user? Try again.");
            }
            config.current.set(key.as_str(), drive.to_string());
            Ok(())
        })?;
        done = true;
        Ok(())
    })?;
    Ok(done)
}

/// Enters the certificates when a waiting change says that an EFI disk has them and they are not known to be there.
pub(super) fn follow(ctx: &Context, config: &mut GuestConfig, key: &str) -> Result<()> {
    let Some(slot) = Slot::of_key(key).filter(|slot| slot.bus == Bus::Efidisk) else { return Ok(()) };
    let (Some(old), Some(new)) = (config.current.get(key), config.pending.part.get(key)) else { return Ok(()) };
    let (old, mut new) = (Drive::parse(slot, old)?, Drive::parse(slot, new)?);
    let (before, after) = (old.options.text("ms-cert"), new.options.text("ms-cert").unwrap_or_default());
    if old.file != new.file || before.as_ref() == Some(&after) || !after.starts_with("2023") {
        return Ok(());
    }
    if !new.options.is_on("pre-enrolled-keys") {
        return Ok(());
    }
    write_keys(ctx, &new)?;
    new.options.set("ms-cert", MARK);
    config.pending.part.set(key, new.to_string());
    Ok(())
}

/// The tool works on a copy, so that the drive changes at once and only when the tool has succeeded.
fn write_keys(ctx: &Context, drive: &Drive) -> Result<()> {
    let (program, key) = tool()?;
    let volume = drive.volume().ok_or_else(|| Error::new("the drive is no volume"))?;
    let image = storage::activate_volume(ctx, &volume, None)?;
    let format = storage::info(ctx, &volume)?.format.name();
    let directory = tempfile::tempdir_in(ctx.root.run("")).context(|| "unable to make a copy")?;
    let copy = directory.path().join("variables");
    let image = image.as_os_str();
    command::run("qemu-img", &os(&["convert", "-f", format, "-O", "raw"], &[image, copy.as_os_str()]))?;
    let words = ["--distro-keys", "ms-uefi", "--distro-keys", "windows", "--add-kek", OWNER];
    let mut arguments = os(&["--inplace"], &[copy.as_os_str()]);
    arguments.extend(os(&words, &[key.as_os_str()]));
    command::run(&program.to_string_lossy(), &arguments)?;
    command::run("qemu-img", &os(&["convert", "-n", "-f", "raw", "-O", format], &[copy.as_os_str(), image]))
        .map(drop)?;
    storage::deactivate_volume(ctx, &volume, None)
}

fn os<'a>(words: &[&'a str], more: &[&'a OsStr]) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).chain(more.iter().copied()).collect()
}

/// The program and the key that it has beside it.
fn tool() -> Result<(PathBuf, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|folder| folder.join("virt-fw-vars")).find(|file| file.exists());
    let program = program.ok_or_else(|| {
        Error::new("'virt-fw-vars' is not installed (package python3-virt-firmware, or virt-firmware)")
    })?;
    let key = program.parent().and_then(Path::parent).and_then(key_below);
    let key = key.ok_or_else(|| Error::new(format!("'{}' has no key of 2023; it is too old", program.display())))?;
    Ok((program, key))
}

/// The key in the Python packages below a prefix as `/usr`.
fn key_below(prefix: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(prefix.join("lib")).ok()?.flatten().map(|entry| entry.path());
    let packages = versions.flat_map(|version| ["dist-packages", "site-packages"].map(|name| version.join(name)));
    let certificates = packages.map(|packages| packages.join("virt/firmware/certs"));
    certificates.flat_map(|folder| KEYS.map(|key| folder.join(key))).find(|key| key.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_where_releases_have_it() {
        let prefix = tempfile::tempdir().unwrap();
        assert_eq!(key_below(prefix.path()), None);
        for place in [
            "lib/python3.12/site-packages/virt/firmware/certs/microsoft.com/ms-kek-2023.pem",
            "lib/python3/dist-packages/virt/firmware/certs/MicrosoftCorporationKEK2KCA2023.pem",
        ] {
            let prefix = prefix.path().join(place.len().to_string());
            let key = prefix.join(place);
            std::fs::create_dir_all(key.parent().unwrap()).unwrap();
            std::fs::write(&key, "").unwrap();
            assert_eq!(key_below(&prefix), Some(key));
        }
    }
}

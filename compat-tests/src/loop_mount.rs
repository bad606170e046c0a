//! A file system of a test's own, in a file behind a loop device.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; it goes when this is dropped.
pub struct LoopMount(PathBuf);

impl LoopMount {
    /// Makes a file system (`btrfs`, `xfs`, …) in a sparse file beside the place, and mounts it there.
    pub fn new(kind: &str, size: u64, place: &Path) -> Self {
        let image = place.with_extension(kind);
        fs::create_dir_all(place).expect("own directory");
        File::create(&image).and_then(|file| file.set_len(size)).expect("own directory");
        must(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(place));
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("own file system");
        LoopMount(place.to_owned())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        // A file system in use goes with its last user; a failure here must not hide the test's own.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn must(command: &mut Command) {
    let output = command.output().expect("the tools of file systems are installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

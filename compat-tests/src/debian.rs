//! A Debian 12 as anybody installs it on a disk: cloud kernel, cloud-init, guest agent, ssh, and GRUB for both firmwares.
//!
//! Built once with `mmdebstrap` and kept (in the lab's cache, or beside the built programs). Nothing is mounted and no loop
//! device used: the file systems are made from folders, and GRUB's sectors are put where its installer would put them.

use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is installed besides Debian's minimum.
const PACKAGES: &str = "systemd-sysv,systemd-resolved,dbus,udev,libpam-systemd,kmod,procps,iproute2,openssh-server,sudo,\
    cloud-init,cloud-guest-utils,qemu-guest-agent,linux-image-cloud-amd64,initramfs-tools,zstd,fdisk,e2fsprogs,\
    grub-common,grub-pc-bin,grub-efi-amd64-bin,dosfstools,mtools,busybox-static";

/// Jobs that would run in the middle of a test.
const AT_REST: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
];

/// Drivers of the initramfs.
const DRIVERS: &str = "virtio_pci\nvirtio_scsi\nvirtio_blk\nata_piix\nsd_mod\nsr_mod\next4\n";

/// What GRUB does before it knows where it is.
const FIRST_STEPS: &str =
    "search.fs_label guest-root root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n";

/// Everything that GRUB needs, so that its image is complete.
const GRUB_MODULES: &str = "part_gpt ext2 search search_label normal configfile linux echo test";

/// Run in the new system: the initramfs, GRUB's images, and the file system of the EFI partition.
const FINISH: &str = "set -e
update-initramfs -c -k all >/dev/null
ln -s $(basename /boot/vmlinuz-*) /boot/vmlinuz; ln -s $(basename /boot/initrd.img-*) /boot/initrd.img
cd /boot/grub
grub-mkimage -O i386-pc -o core.img -p /boot/grub -c first.cfg biosdisk $MODULES
cp /usr/lib/grub/i386-pc/boot.img .
grub-mkimage -O x86_64-efi -o BOOTX64.EFI -p /boot/grub -c first.cfg efi_gop $MODULES
mkfs.vfat -n EFI -C esp.img 32768 >/dev/null
mmd -i esp.img ::/EFI ::/EFI/BOOT
mcopy -i esp.img BOOTX64.EFI ::/EFI/BOOT/BOOTX64.EFI
";

const SECTOR: u64 = 512;
/// Where the partitions begin, in sectors: GRUB's own, that of EFI, the root file system (the last, so that it may grow).
const GRUB_AT: u64 = 2048;
const EFI_AT: u64 = 4096;
const ROOT_AT: u64 = 71_680;
/// The disk's size; what is not used takes no room.
const DISK_SIZE: u64 = 2 << 30;

/// The disk, raw, made if it is not kept from an earlier run. It is only ever copied.
///
/// # Errors
/// Why it cannot be had here (no `mmdebstrap`, no network).
pub fn disk() -> Result<PathBuf, String> {
    let cache = cache()?;
    let mut hasher = DefaultHasher::new();
    include_str!("debian.rs").hash(&mut hasher);
    let folder = cache.join(format!("debian-{:016x}", hasher.finish()));
    let lock = File::create(cache.join("debian.lock")).map_err(text)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(text)?;
    if !folder.exists() {
        let draft = folder.with_extension("unfinished");
        if draft.exists() {
            fs::remove_dir_all(&draft).map_err(text)?;
        }
        fs::create_dir_all(&draft).map_err(text)?;
        build(&draft)?;
        fs::rename(&draft, &folder).map_err(text)?;
    }
    Ok(folder.join("disk.raw"))
}

fn cache() -> Result<PathBuf, String> {
    let beside = || Some(std::env::current_exe().ok()?.ancestors().nth(2)?.join("guest-files"));
    let kept = std::env::var_os("FERROVISOR_LAB_CACHE").map(PathBuf::from).or_else(beside);
    let folder = kept.ok_or("a test lies in target/PROFILE/deps")?;
    fs::create_dir_all(&folder).map_err(text)?;
    Ok(folder)
}

fn build(folder: &Path) -> Result<(), String> {
    let (root, own) = (folder.join("root"), folder.join("own"));
    settings(&own).map_err(text)?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io"]);
    for part in ["doc", "info", "man", "locale"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{part}/*"));
    }
    command.arg(format!("--include={PACKAGES}"));
    command.arg(format!("--customize-hook=cp -r {}/. \"$1\"", own.display()));
    command.arg("--customize-hook=chroot \"$1\" env -u INITRD sh /finish");
    command.arg("bookworm").arg(&root).arg("deb http://deb.debian.org/debian bookworm main");
    // Installing the kernel would make an initramfs before its settings are there.
    run(command.env("INITRD", "No").env("LC_ALL", "C"))?;
    for unit in AT_REST {
        run(Command::new("systemctl").arg("--root").arg(&root).args(["--quiet", "disable", unit]))?;
    }
    run(Command::new("systemctl").arg("--root").arg(&root).args(["--quiet", "enable", "systemd-networkd"]))?;
    fs::write(root.join("etc/machine-id"), "").map_err(text)?;
    put_together(&root, folder)?;
    fs::remove_dir_all(root).map_err(text)?;
    fs::remove_dir_all(own).map_err(text)
}

/// What the machine has beyond Debian's packages.
fn settings(own: &Path) -> std::io::Result<()> {
    let write = |path: &str, content: &str| {
        let path = own.join(path);
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
        fs::write(path, content)
    };
    write("etc/hostname", "unnamed\n")?;
    write("etc/fstab", "LABEL=guest-root / ext4 noatime 0 1\n")?;
    write("etc/initramfs-tools/conf.d/guest", "MODULES=list\nCOMPRESS=zstd\n")?;
    write("etc/initramfs-tools/modules", DRIVERS)?;
    write("etc/cloud/cloud.cfg.d/90_guest.cfg", "datasource_list: [ NoCloud, ConfigDrive, None ]\nlocale: false\n")?;
    write("etc/ssh/sshd_config.d/guest.conf", "UseDNS no\nPasswordAuthentication yes\n")?;
    // Memory that is plugged in is used.
    write("etc/udev/rules.d/80-memory.rules", "SUBSYSTEM==\"memory\", ACTION==\"add\", ATTR{state}=\"online\"\n")?;
    write("boot/grub/first.cfg", FIRST_STEPS)?;
    let kernel = "linux /boot/vmlinuz root=LABEL=guest-root ro quiet mitigations=off console=tty0 console=ttyS0";
    write("boot/grub/grub.cfg", &format!("{kernel}\ninitrd /boot/initrd.img\nboot\n"))?;
    write("finish", &FINISH.replace("$MODULES", GRUB_MODULES))?;
    fs::set_permissions(own, Permissions::from_mode(0o755))
}

/// Partitions, GRUB's sectors and file systems, in one file.
fn put_together(root: &Path, folder: &Path) -> Result<(), String> {
    let disk = folder.join("disk.raw");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&disk).map_err(text)?;
    file.set_len(DISK_SIZE).map_err(text)?;
    let mut sgdisk = Command::new("sgdisk");
    sgdisk.args([format!("-n1:{GRUB_AT}:{}", EFI_AT - 1), "-t1:ef02".into()]);
    sgdisk.args([format!("-n2:{EFI_AT}:{}", EFI_AT + 65_535), "-t2:ef00".into()]);
    sgdisk.args([format!("-n3:{ROOT_AT}:0"), "-t3:8300".into()]);
    run(sgdisk.arg(&disk))?;
    let grub = root.join("boot/grub");
    install_grub(&file, &grub).map_err(text)?;
    file.write_all_at(&fs::read(grub.join("esp.img")).map_err(text)?, EFI_AT * SECTOR).map_err(text)?;
    fs::remove_file(grub.join("esp.img")).map_err(text)?;
    fs::remove_file(root.join("finish")).map_err(text)?;
    let file_system = folder.join("root.ext4");
    File::create(&file_system).and_then(|file| file.set_len(DISK_SIZE - (ROOT_AT + 34) * SECTOR)).map_err(text)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-L", "guest-root", "-d"]).arg(root).arg(&file_system))?;
    run(Command::new("dd").arg(format!("if={}", file_system.display())).arg(format!("of={}", disk.display())).args([
        "bs=1M",
        "conv=notrunc,sparse",
        &format!("seek={}", (ROOT_AT * SECTOR) >> 20),
        "status=none",
    ]))?;
    fs::remove_file(file_system).map_err(text)
}

/// What GRUB's installer does for the BIOS: the boot sector learns where the image is, the image where its rest is.
fn install_grub(disk: &File, grub: &Path) -> std::io::Result<()> {
    let boot = fs::read(grub.join("boot.img"))?;
    // The partition table stays, and the disk's signature.
    disk.write_all_at(&boot[..0x5c], 0)?;
    disk.write_all_at(&GRUB_AT.to_le_bytes(), 0x5c)?;
    disk.write_all_at(&boot[0x64..0x1b8], 0x64)?;
    let mut core = fs::read(grub.join("core.img"))?;
    core[0x1f4..0x1fc].copy_from_slice(&(GRUB_AT + 1).to_le_bytes());
    disk.write_all_at(&core, GRUB_AT * SECTOR)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

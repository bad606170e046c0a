//! `saferemove`: a removed volume is overwritten with zeros before its space can be given to somebody else.
//! (PVE: pve-storage PVE/Storage/LVMPlugin.pm, free_lvm_volumes_locked)

use super::{device, full_name, remove};
use crate::storage::driver::Storage;
use crate::task::abort;
use crate::tool::Tool;
use crate::{Error, Result, ResultExt};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes per second where the device cannot write zeros by itself and nothing is configured.
const DEFAULT_THROUGHPUT: u64 = 10 << 20;

/// Bytes that are written at a time.
const BLOCK: usize = 1 << 20;

/// What a volume is called while it is wiped: no storage lists such a name.
pub(super) fn doomed_name(name: &str) -> String {
    format!("del-{name}")
}

/// Overwrites a renamed volume and removes it. A volume that cannot be overwritten stays, so that nobody reads it.
pub(super) fn wipe_and_remove(storage: &Storage, doomed: &str) -> Result<()> {
    let full = full_name(storage, doomed)?;
    let change = |option: &'static str| Tool::new("lvchange").args([option, "--", &full]).run(storage.ctx);
    change("-aly").context(|| format!("can't activate LV '/dev/{full}' to zero-out its data"))?;
    change("--refresh").context(|| format!("can't refresh LV '/dev/{full}' to zero-out its data"))?;
    let path = device(storage, doomed)?;
    match largest_zero_request(&path) {
        Some(largest) if largest > 0 => {
            let step = step_size(storage, largest);
            Tool::new("blkdiscard")
                .args(["-v", "--zeroout", "--step", &step.to_string(), "--", &path.to_string_lossy()])
                .run(storage.ctx)?;
        }
        // Without a device node there is nothing that could be read again.
        None => {}
        Some(_) => write_zeros(&path, throughput(storage)).context(|| format!("unable to zero-out '/dev/{full}'"))?,
    }
    let _lock = storage.lock()?;
    remove(storage, doomed)
}

/// Bytes per step, as configured in MiB, but no more than the device takes at once.
fn step_size(storage: &Storage, largest: u64) -> u64 {
    let configured: u64 = storage.entry.get("saferemove-stepsize").and_then(|text| text.parse().ok()).unwrap_or(32);
    (configured.clamp(1, 32) << 20).min(largest)
}

/// Bytes per second; PVE's value is an argument of `cstream -t`, where a negative number is an upper limit.
fn throughput(storage: &Storage) -> u64 {
    let configured = storage.entry.get("saferemove_throughput").and_then(|text| text.trim().parse::<i64>().ok());
    configured.map(i64::unsigned_abs).filter(|limit| *limit > 0).unwrap_or(DEFAULT_THROUGHPUT)
}

/// How many bytes the device can be told to zero at once; `None` without a device mapper node.
fn largest_zero_request(path: &Path) -> Option<u64> {
    let real = fs::canonicalize(path).ok()?;
    let node = real.strip_prefix("/dev").ok()?.to_str()?.to_owned();
    if !node.starts_with("dm-") {
        return None;
    }
    let text = fs::read_to_string(format!("/sys/block/{node}/queue/write_zeroes_max_bytes")).ok()?;
    text.trim().parse().ok()
}

/// Writes zeros to a device's end, so many bytes per second.
fn write_zeros(path: &Path, limit: u64) -> Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let zeros = vec![0; BLOCK];
    let begun = Instant::now();
    let mut written = 0u64;
    loop {
        abort::check()?;
        match file.write(&zeros) {
            Ok(0) => break,
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::from(error)),
        }
        let due = Duration::from_millis(written.saturating_mul(1000) / limit);
        if let Some(early) = due.checked_sub(begun.elapsed()) {
            std::thread::sleep(early.min(Duration::from_secs(1)));
        }
    }
    file.sync_data()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Entry;
    use crate::tool::script::Script;

    #[test]
    fn figures_come_from_the_entry() {
        let ctx = Script::new().context(Path::new("/nowhere"));
        let mut entry = Entry::new("lvm");
        entry.set("saferemove-stepsize", "8");
        entry.set("saferemove_throughput", "-2048");
        let mut storage = Storage { ctx: &ctx, id: "vg".into(), entry };
        assert_eq!((step_size(&storage, 1 << 30), step_size(&storage, 4096)), (8 << 20, 4096));
        assert_eq!(throughput(&storage), 2048);
        storage.entry = Entry::new("lvm");
        assert_eq!((step_size(&storage, 1 << 30), throughput(&storage)), (32 << 20, 10 << 20));
    }
}

//! Huge pages: made before the start where they are missing, given back when they are not used.
//! (PVE: qemu-server Memory.pm, hugepages_allocate and its kin)

use super::super::command_line::{HugePages, page_mount};
use super::sysfs::Sysfs;
use crate::{Context, Error, Result, command, error::ResultExt, file};
use std::fs;
use std::os::fd::OwnedFd;

/// The right to change the number of pages, and what it was before.
pub struct HugePageLock {
    _lock: OwnedFd,
    before: Vec<(String, String)>,
    sizes: Vec<u64>,
    keep: bool,
}

fn per_node(node: u64, size: u64) -> String {
    format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{}kB", size * 1024)
}

impl HugePageLock {
    /// Waits for other starts, mounts what is missing and makes the pages.
    ///
    /// # Errors
    /// When the kernel has no memory left in such large pieces; what was made is given back then.
    pub fn take(ctx: &Context, sysfs: &dyn Sysfs, needed: HugePages, keep: bool) -> Result<Self> {
        let lock = file::lock_file(ctx, &ctx.root.path("/var/lock/hugepages"))?;
        for size in needed.keys() {
            mount(*size)?;
        }
        let sizes = needed.keys().copied().collect();
        let mut taken = HugePageLock { _lock: lock, before: Vec::new(), sizes, keep };
        match taken.allocate(sysfs, &needed) {
            Ok(()) => Ok(taken),
            Err(error) => {
                let failures: Vec<Error> = taken.reset(sysfs).err().into_iter().collect();
                Err(error.with_cleanup_failures(&failures))
            }
        }
    }

    fn allocate(&mut self, sysfs: &dyn Sysfs, needed: &HugePages) -> Result<()> {
        for (size, nodes) in needed {
            for (node, wanted) in nodes {
                let place = per_node(*node, *size);
                let number = |file: &str| {
                    let text = sysfs.line(&format!("{place}/{file}")).unwrap_or_default();
                    text.trim().parse::<u64>().map_err(|_| Error::new(format!("unable to read '{place}/{file}'")))
                };
                let (free, all) = (number("free_hugepages")?, number("nr_hugepages")?);
                if *wanted <= free {
                    continue;
                }
                let file = format!("{place}/nr_hugepages");
                self.before.push((file.clone(), all.to_string()));
                sysfs.write(&file, &(all + wanted - free).to_string())?;
                if number("free_hugepages")? < *wanted {
                    return Err(Error::new("hugepage allocation failed"));
                }
            }
        }
        Ok(())
    }

    fn reset(&self, sysfs: &dyn Sysfs) -> Result<()> {
        self.before.iter().rev().try_for_each(|(file, before)| sysfs.write(file, before).map(drop))
    }

    /// QEMU did not start.
    pub fn give_back(self, sysfs: &dyn Sysfs) -> Result<()> {
        if self.keep { Ok(()) } else { self.reset(sysfs) }
    }

    /// QEMU has its pages. The number goes back to the one of the kernel's command line; pages in use are freed when
    /// QEMU ends.
    pub fn used(self, sysfs: &dyn Sysfs) {
        if self.keep {
            return;
        }
        let boot = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        for size in &self.sizes {
            let file = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", size * 1024);
            // Too many pages are a waste, not an error: the guest runs.
            let _ = sysfs.write(&file, &of_boot(&boot, *size).to_string());
        }
    }
}

/// The number that the kernel was started with.
fn of_boot(command_line: &str, size: u64) -> u64 {
    let mut current = 2;
    for word in command_line.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("hugepagesz", "2M")) => current = 2,
            Some(("hugepagesz", "1G")) => current = 1024,
            Some(("hugepages", number)) if current == size => return number.parse().unwrap_or(0),
            _ => {}
        }
    }
    0
}

fn mount(size: u64) -> Result<()> {
    let path = page_mount(size);
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let is_mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(&path) && words.next() == Some("hugetlbfs")
    });
    if is_mounted {
        return Ok(());
    }
    fs::create_dir_all(&path).context(|| format!("unable to create '{path}'"))?;
    let option = format!("pagesize={}k", size * 1024);
    command::run("mount", &["-t", "hugetlbfs", "-o", &option, "hugetlbfs", &path])
        .map(drop)
        .map_err(|error| error.context("hugepage mount error"))
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::fake::FakeSysfs;
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn missing_pages_are_made_and_failures_put_the_number_back() {
        let place = per_node(0, 2);
        let (free, all) = (format!("{place}/free_hugepages"), format!("{place}/nr_hugepages"));
        let needed = HugePages::from([(2, BTreeMap::from([(0, 10)]))]);
        let lock = || HugePageLock {
            _lock: fs::File::open("/dev/null").unwrap().into(),
            before: Vec::new(),
            sizes: vec![2],
            keep: false,
        };
        let enough = FakeSysfs::with(&[(free.as_str(), "12"), (all.as_str(), "20")]);
        lock().allocate(&enough, &needed).unwrap();
        assert!(enough.written.borrow().is_empty());
        // Nothing becomes free although more are asked for.
        let full = FakeSysfs::with(&[(free.as_str(), "3"), (all.as_str(), "20")]);
        let mut taken = lock();
        assert_eq!(taken.allocate(&full, &needed).unwrap_err().message(), "hugepage allocation failed");
        taken.give_back(&full).unwrap();
        assert_eq!(*full.written.borrow(), [format!("{all} <- 27"), format!("{all} <- 20")]);
    }

    #[test]
    fn the_number_of_the_boot_is_found() {
        let text = "quiet hugepages=7 hugepagesz=1G hugepages=3 hugepagesz=2M hugepages=9";
        assert_eq!((of_boot(text, 2), of_boot(text, 1024), of_boot("quiet", 2)), (7, 3, 0));
    }
}

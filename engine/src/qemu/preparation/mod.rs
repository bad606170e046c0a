//! What has to exist before QEMU starts: copies of firmware, devices of the host, huge pages, and the processes that
//! serve a TPM or directories.
//!
//! ```text
//! Preparation::before_plan_runs   firmware's variables, reservations, drivers, mediated devices
//! Preparation::processes          huge pages, virtiofsd, swtpm
//! Preparation::started            reservations last as long as the VM; spare huge pages go back
//! Preparation::undo               everything made so far, last first
//! ```
//! What a VM that has ended leaves behind is removed by [`clean`].

mod hugepages;
mod passthrough;
mod swtpm;
mod sysfs;
mod virtiofsd;

pub use hugepages::HugePageLock;

use super::command_line::{Plan, hugepages_needed};
use super::config::Vm;
use super::{files, reservations};
use crate::host::firmware_here;
use crate::{Context, Error, Result, Task, Vmid, error::ResultExt, file};
use std::fs;
use std::path::Path;
use sysfs::RealSysfs;

type Step<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// What has been made for a start.
pub struct Preparation<'a> {
    task: &'a Task<'a>,
    vm: Vm<'a>,
    undo: Vec<Step<'a>>,
    /// Held until QEMU has its pages.
    pages: Option<HugePageLock>,
    /// Open until QEMU has connected, so that it can wait for the servers.
    sockets: Vec<std::os::unix::net::UnixListener>,
}

impl<'a> Preparation<'a> {
    /// Nothing yet.
    pub fn new(task: &'a Task<'a>, vm: Vm<'a>) -> Self {
        Preparation { task, vm, undo: Vec::new(), pages: None, sockets: Vec::new() }
    }

    /// Makes what the command line refers to, and adds what only now is known.
    pub fn before(&mut self, plan: &mut Plan, seconds: u64) -> Result<()> {
        let ctx = self.task.ctx;
        let vmid = self.vm.vmid;
        if let Some(copy) = &plan.preparations.firmware {
            let source = firmware_here(&copy.source)
                .ok_or_else(|| Error::new(format!("EFI vars image '{}' not found", copy.source)))?;
            let target = std::path::PathBuf::from(&copy.target);
            let place = || format!("unable to create '{}'", target.display());
            fs::create_dir_all(target.parent().unwrap_or(&target)).context(place)?;
            fs::copy(&source, &target).context(place)?;
            let target = target.clone();
            self.undo.push(Box::new(move || remove(&target)));
        }
        if plan.preparations.pci.is_empty() {
            return Ok(());
        }
        let taken = plan.preparations.pci.iter().filter(|device| device.mediated.is_none());
        let ids: Vec<String> = taken.flat_map(|device| device.ids.clone()).collect();
        reservations::reserve(ctx, vmid, &ids, seconds)?;
        self.undo.push(Box::new(move || clean_devices(ctx, vmid)));
        let smbios = self.vm.properties("pve-qm-smbios1", "smbios1")?;
        let identity = smbios.and_then(|smbios| smbios.text("uuid"));
        let mut uuid = None;
        for device in &plan.preparations.pci {
            let found = passthrough::prepare(&RealSysfs, vmid, device, &mut |text| self.task.warn(text))?;
            if uuid.is_none()
                && let Some(own) = found.needs_identity
            {
                uuid = Some(identity.clone().unwrap_or(own));
            }
        }
        if let Some(uuid) = uuid {
            plan.command.extend(["-uuid".to_owned(), uuid]);
        }
        Ok(())
    }

    /// Starts what QEMU connects to.
    pub fn processes(&mut self) -> Result<()> {
        let ctx = self.task.ctx;
        let needed = hugepages_needed(&self.vm, &ctx.host)?;
        if !needed.is_empty() {
            let keep = self.vm.flag("keephugepages") == Some(true);
            self.pages = Some(HugePageLock::take(ctx, &RealSysfs, needed, keep)?);
        }
        for share in virtiofsd::start_all(self.task, &self.vm)? {
            let path = share.path.clone();
            self.undo.push(Box::new(move || remove(&path)));
            self.sockets.push(share.socket);
        }
        if let Some(process) = swtpm::start(self.task, &self.vm)? {
            self.undo.push(Box::new(move || {
                swtpm::end(process);
                Ok(())
            }));
        }
        Ok(())
    }

    /// QEMU runs. What cannot be done any more is told, not undone.
    pub fn started(mut self) {
        let ctx = self.task.ctx;
        self.undo.clear();
        if let Some(process) = files::process(ctx, self.vm.vmid)
            && let Err(error) = reservations::keep(ctx, self.vm.vmid, process.pid)
        {
            self.task.warn(error.message());
        }
        if let Some(pages) = self.pages.take() {
            pages.used(&RealSysfs);
        }
    }

    /// Undoes everything, and says what could not be undone.
    pub fn undo(mut self) -> Vec<Error> {
        self.sockets.clear();
        let mut failures: Vec<Error> = self.undo.drain(..).rev().filter_map(|step| step().err()).collect();
        if let Some(pages) = self.pages.take() {
            failures.extend(pages.give_back(&RealSysfs).err());
        }
        failures
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<()> {
    file::remove_if_there(path).context(|| format!("unable to remove '{}'", path.display()))
}

/// Removes what a VM that has ended left: mediated devices, reservations, sockets, copies of firmware.
pub fn clean(ctx: &Context, vmid: Vmid) -> Result<()> {
    let directory = files::directory(ctx);
    let copy = directory.join(format!("efidisk/{vmid}-ovmf.fd"));
    remove(&copy)?;
    for entry in fs::read_dir(directory.join("virtiofsd")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("vm{vmid}-fs")) {
            remove(&entry.path())?;
        }
    }
    clean_devices(ctx, vmid)
}

fn clean_devices(ctx: &Context, vmid: Vmid) -> Result<()> {
    // Nodes below a directory share the kernel with the real one and must not take its devices away.
    if ctx.root.prefix().as_os_str().is_empty() {
        passthrough::remove_mediated(&RealSysfs, vmid)?;
    }
    reservations::release(ctx, vmid)
}

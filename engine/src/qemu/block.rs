//! Block devices of a running VM: which node belongs to a drive, and copies of drives that the guest goes on writing to.

use super::config::{Drive, Slot};
use super::qmp::{self, Monitor};
use crate::storage::{self, Format, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, task::abort};
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The node that jobs on a drive work on: below its throttle, if it has one as a node.
pub fn job_node(monitor: &mut Monitor, drive: &Drive) -> Result<String> {
    let name = format!("drive-{}", drive.slot);
    let blocks = monitor.execute("query-block", json!({}))?;
    let blocks = blocks.as_array().cloned().unwrap_or_default();
    if blocks.iter().any(|block| block["device"] == name.as_str()) {
        return Ok(name);
    }
    let top = blocks.iter().map(|block| &block["inserted"]).find(|inserted| inserted["node-name"] == name.as_str());
    let top = top.ok_or_else(|| Error::new(format!("drive '{}' is not attached to the running VM", drive.slot)))?;
    if top["drv"] != "throttle" {
        return Ok(name);
    }
    // The node below is known by what it reads: a filter has no file of its own.
    let nodes = monitor.execute("query-named-block-nodes", json!({"flat": true}))?;
    let is_below = |node: &&Value| {
        node["file"] == top["file"]
            && node["drv"] != "throttle"
            && !matches!(node["drv"].as_str(), Some("file" | "host_device"))
    };
    let below = nodes.as_array().into_iter().flatten().find(is_below).and_then(|node| node["node-name"].as_str());
    below.map(str::to_owned).ok_or_else(|| Error::new(format!("drive '{}' has no image", drive.slot)))
}

/// What becomes of the source when the copy is as new as it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest goes on with the copy.
    Switch,
    /// The guest goes on with the source, and the copy stays as it is at one moment for all drives.
    Leave,
}

/// Copies of drives of a running VM on their way. Whatever has not ended is cancelled when this is dropped.
pub struct Mirror<'a> {
    task: &'a Task<'a>,
    vmid: Vmid,
    jobs: Vec<Job>,
    has_ended: bool,
}

struct Job {
    id: String,
    target: String,
}

impl<'a> Mirror<'a> {
    /// No copy yet.
    pub fn new(task: &'a Task<'a>, vmid: Vmid) -> Self {
        Mirror { task, vmid, jobs: Vec::new(), has_ended: false }
    }

    /// Whether there is anything to wait for.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Begins to copy a drive to a volume. `limit` is in KiB per second.
    pub fn start(&mut self, drive: &Drive, target: &VolumeId, limit: Option<u64>) -> Result<()> {
        let ctx = self.task.ctx;
        let path = storage::activate_volume(ctx, target, None)?;
        let format = storage::describe(ctx, target)?.format;
        let mut monitor = Monitor::connect(ctx, self.vmid)?;
        let node = job_node(&mut monitor, drive)?;
        let name = target_node(target);
        let driver = if path.starts_with("/dev") { "host_device" } else { "file" };
        let file = json!({"driver": driver, "filename": path, "cache": {"direct": false}, "discard": "unmap"});
        let chain = json!({
            "driver": format.name(), "node-name": name, "file": file, "discard": "unmap", "detect-zeroes": "unmap",
        });
        monitor.execute("blockdev-add", chain)?;
        let id = format!("mirror-{}", drive.slot);
        let mut wish = json!({
            "job-id": id, "device": node, "target": name, "sync": "full", "auto-dismiss": true,
            "speed": limit.map_or(0, |limit| limit.saturating_mul(1024)),
        });
        if format == Format::Raw {
            wish["copy-mode"] = "background".into();
        }
        if let Err(error) = monitor.execute("blockdev-mirror", wish) {
            let removed = monitor.execute("blockdev-del", json!({"node-name": name}));
            return Err(error.with_cleanup_failures(&removed.err().into_iter().collect::<Vec<_>>()));
        }
        self.jobs.push(Job { id, target: name });
        Ok(())
    }

    /// Waits until all copies are as new as their sources; the log tells how far they are.
    pub fn wait_until_ready(&self) -> Result<()> {
        let mut told: Option<Instant> = None;
        loop {
            abort::check()?;
            let running = qmp::execute(self.task.ctx, self.vmid, "query-block-jobs", json!({}))?;
            let running = running.as_array().cloned().unwrap_or_default();
            let mut ready = true;
            for job in &self.jobs {
                let Some(state) = running.iter().find(|state| state["device"] == job.id.as_str()) else {
                    crate::bail!("{}: job has ended unexpectedly", job.id);
                };
                if let Some(reason) = state["error"].as_str() {
                    crate::bail!("{}: {reason}", job.id);
                }
                let (done, all) = (state["offset"].as_u64().unwrap_or(0), state["len"].as_u64().unwrap_or(0));
                let is_ready = state["ready"].as_bool().unwrap_or(false);
                ready &= is_ready;
                if is_ready || told.is_none_or(|told| told.elapsed() > Duration::from_secs(1)) {
                    let percent = if all == 0 { 100.0 } else { done as f64 * 100.0 / all as f64 };
                    let (done, all) = (storage::print_size(done), storage::print_size(all));
                    self.task.log(format!("{}: transferred {done} of {all} ({percent:.2}%)", job.id));
                }
            }
            if ready {
                return Ok(());
            }
            if told.is_none_or(|told| told.elapsed() > Duration::from_secs(1)) {
                told = Some(Instant::now());
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends all jobs.
    pub fn finish(mut self, end: End) -> Result<()> {
        let ctx = self.task.ctx;
        let command = match end {
            End::Switch => "block-job-complete",
            End::Leave => "block-job-cancel",
        };
        let mut monitor = Monitor::connect(ctx, self.vmid)?;
        for job in &self.jobs {
            monitor.execute(command, json!({"device": job.id}))?;
        }
        drop(monitor);
        self.wait_for_end(Duration::from_secs(600))?;
        self.has_ended = true;
        if end == End::Leave {
            self.remove_targets()?;
        }
        Ok(())
    }

    fn wait_for_end(&self, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        loop {
            let running = qmp::execute(self.task.ctx, self.vmid, "query-block-jobs", json!({}))?;
            let is_ours = |state: &Value| self.jobs.iter().any(|job| state["device"] == job.id.as_str());
            if !running.as_array().into_iter().flatten().any(is_ours) {
                return Ok(());
            }
            if Instant::now() > until {
                crate::bail!("block jobs of VM {} do not end", self.vmid);
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn remove_targets(&self) -> Result<()> {
        let mut monitor = Monitor::connect(self.task.ctx, self.vmid)?;
        for job in &self.jobs {
            monitor.execute("blockdev-del", json!({"node-name": job.target}))?;
        }
        Ok(())
    }
}

impl Drop for Mirror<'_> {
    fn drop(&mut self) {
        if self.has_ended || self.jobs.is_empty() {
            return;
        }
        for job in &self.jobs {
            // Some may have ended, and so may the VM; then there is nothing left to cancel.
            let _ =
                qmp::execute(self.task.ctx, self.vmid, "block-job-cancel", json!({"device": job.id, "force": true}));
        }
        let outcome = self.wait_for_end(Duration::from_secs(60)).and_then(|()| self.remove_targets());
        if let Err(error) = outcome
            && super::status::is_running(self.task.ctx, self.vmid)
        {
            self.task.log(format!("cancelling block jobs: {error}"));
        }
    }
}

/// The name of a copy's node: at most 31 characters, another one for each volume.
pub(super) fn target_node(volume: &VolumeId) -> String {
    let sum = openssl::sha::sha256(volume.to_string().as_bytes());
    format!("copy-{}", crate::types::hex(&sum[..12]))
}

/// The drive that a running VM has on a volume.
pub fn slot_of(ctx: &Context, vmid: Vmid, volume: &VolumeId) -> Result<Option<Slot>> {
    let path = storage::path(ctx, volume)?;
    let blocks = qmp::execute(ctx, vmid, "query-block", json!({}))?;
    let ours =
        |block: &&Value| block["inserted"]["file"].as_str().is_some_and(|file| std::path::Path::new(file) == path);
    let Some(block) = blocks.as_array().into_iter().flatten().find(ours) else { return Ok(None) };
    // Drives are named differently before and after machine 10.0.
    let name = |text: &str| Slot::of_key(text.strip_prefix("drive-").unwrap_or(text));
    let device = block["device"].as_str().and_then(name);
    let path = block["qdev"].as_str().and_then(|path| path.split('/').find_map(name));
    Ok(device.or(path))
}

/// Whether a running VM has this volume open.
pub fn is_open(ctx: &Context, vmid: Vmid, volume: &VolumeId) -> Result<bool> {
    let path = storage::path(ctx, volume)?;
    let nodes = qmp::execute(ctx, vmid, "query-named-block-nodes", json!({"flat": true}))?;
    let wanted = path.to_string_lossy();
    Ok(nodes.as_array().into_iter().flatten().any(|node| node["file"] == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_are_short_and_differ() {
        let node = |text: &str| target_node(&text.parse().unwrap());
        assert!(node("local:100/vm-100-disk-0.qcow2").len() <= 31);
        assert_ne!(node("local:100/vm-100-disk-0.qcow2"), node("local:100/vm-100-disk-1.qcow2"));
    }
}

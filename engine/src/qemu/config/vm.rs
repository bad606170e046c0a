//! The view of one part of a VM's configuration with PVE's defaults.

use super::{Drive, NetDevice, Properties, Slot};
use crate::config::guest::Part;
use crate::types::split_list;
use crate::{Error, Result, Vmid};

/// A VM as one part of its file describes it.
#[derive(Debug, Clone, Copy)]
pub struct Vm<'a> {
    /// Its number.
    pub vmid: Vmid,
    part: &'a Part,
}

/// What can be changed while the VM runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HotplugFeatures {
    /// Processors.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
    /// Drives.
    pub disk: bool,
    /// Network cards.
    pub network: bool,
    /// USB devices and the tablet.
    pub usb: bool,
    /// What cloud-init tells.
    pub cloudinit: bool,
}

impl<'a> Vm<'a> {
    /// A view of a part.
    pub fn new(vmid: Vmid, part: &'a Part) -> Self {
        Vm { vmid, part }
    }

    /// The part itself.
    pub fn part(&self) -> &'a Part {
        self.part
    }

    /// A value as it stands in the file; empty ones count as absent.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.part.get(key).filter(|text| !text.is_empty())
    }

    /// A switch, when it is set.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.text(key).map(|_| self.part.flag(key))
    }

    /// A whole number, when it is set.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    /// The name, or `vmN`.
    pub fn name(&self) -> String {
        self.text("name").map_or_else(|| format!("vm{}", self.vmid), str::to_owned)
    }

    /// Processor sockets.
    pub fn sockets(&self) -> u64 {
        self.number("sockets").or_else(|| self.number("smp")).filter(|count| *count > 0).unwrap_or(1)
    }

    /// Cores of each socket.
    pub fn cores(&self) -> u64 {
        self.number("cores").filter(|count| *count > 0).unwrap_or(1)
    }

    /// Processors that are there at the start.
    pub fn vcpus(&self) -> u64 {
        self.number("vcpus").filter(|count| *count > 0).unwrap_or_else(|| self.sockets() * self.cores())
    }

    /// Memory in MiB.
    pub fn memory(&self) -> Result<u64> {
        let Some(text) = self.text("memory") else { return Ok(512) };
        let memory = Properties::parse("~pve-qm-memory", "memory", text)?;
        memory.number("current").ok_or_else(|| Error::new(format!("unable to parse 'memory': {text}")))
    }

    /// The type of guest system.
    pub fn ostype(&self) -> Option<&'a str> {
        self.text("ostype")
    }

    /// The generation of Windows, 0 for anything else.
    pub fn windows(&self) -> u32 {
        windows_version(self.ostype().unwrap_or_default())
    }

    /// The type of the SCSI controller.
    pub fn scsihw(&self) -> &'a str {
        self.text("scsihw").unwrap_or("lsi")
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        self.flag("template") == Some(true)
    }

    /// Attached drives in PVE's order.
    pub fn drives(&self) -> Result<Vec<(Slot, Drive)>> {
        Slot::all()
            .filter_map(|slot| Some((slot, self.text(&slot.to_string())?)))
            .map(|(slot, text)| Ok((slot, Drive::parse(slot, text)?)))
            .collect()
    }

    /// Volumes that are kept but not attached.
    pub fn unused(&self) -> Result<Vec<(Slot, Drive)>> {
        self.part
            .indexed("unused")
            .map(|(number, text)| {
                let slot: Slot = format!("unused{number}").parse().map_err(Error::new)?;
                Ok((slot, Drive::parse(slot, text)?))
            })
            .collect()
    }

    /// Network cards by number.
    pub fn nets(&self) -> Result<Vec<(u32, NetDevice)>> {
        self.part
            .indexed("net")
            .map(|(number, text)| Ok((number, NetDevice::parse(&format!("net{number}"), text)?)))
            .collect()
    }

    /// Values of `prefix0`, `prefix1`, … by number.
    pub fn indexed(&self, prefix: &'a str) -> Vec<(u32, &'a str)> {
        self.part.indexed(prefix).collect()
    }

    /// A property string option.
    pub fn properties(&self, format: &str, key: &str) -> Result<Option<Properties>> {
        self.text(key).map(|text| Properties::parse(format, key, text)).transpose()
    }

    /// What `hotplug` allows. (PVE: QemuServer.pm, parse_hotplug_features)
    pub fn hotplug(&self) -> HotplugFeatures {
        let text = match self.text("hotplug") {
            None | Some("1") => "network,disk,usb",
            Some("0") => "",
            Some(text) => text,
        };
        let names = split_list(text);
        let has = |name: &str| names.iter().any(|found| found == name);
        HotplugFeatures {
            cpu: has("cpu"),
            memory: has("memory"),
            disk: has("disk"),
            network: has("network"),
            usb: has("usb"),
            cloudinit: has("cloudinit"),
        }
    }

    /// Whether the guest agent is switched on, and how it is reached (`virtio` or `isa`).
    pub fn agent(&self) -> Result<Option<String>> {
        let Some(agent) = self.properties("~pve-qm-agent", "agent")? else { return Ok(None) };
        Ok(agent.is_on("enabled").then(|| agent.text("type").unwrap_or_else(|| "virtio".into())))
    }
}

/// The generation of Windows that an `ostype` means. (PVE: Helpers.pm, windows_version)
pub fn windows_version(ostype: &str) -> u32 {
    match ostype {
        "wxp" | "w2k3" | "w2k" => 5,
        "w2k8" | "wvista" => 6,
        other => other.strip_prefix("win").and_then(|version| version.parse().ok()).unwrap_or(0),
    }
}

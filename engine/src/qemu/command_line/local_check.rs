//! What the installed QEMU cannot do, found before anything is made for the start.

use crate::host::QemuVersion;
use crate::{Error, Result};

/// Options that came with a version of QEMU: where they stand, what they begin with, the version, and what to call them.
const NEEDS: [(&str, &str, (u32, u32), &str); 6] = [
    ("-object", "sev-snp-guest,", (9, 1), "amd-sev: snp"),
    ("-object", r#"{"id":"tdx0""#, (10, 1), "intel-tdx"),
    ("-device", "virtio-iommu-pci,aw-bits=", (9, 0), "machine: aw-bits"),
    ("-cpu", ",guest-phys-bits=", (9, 0), "cpu: guest-phys-bits"),
    ("-cpu", ",+hv-evmcs", (3, 1), "cpu: hv-evmcs"),
    ("-loadstate", "/", (6, 0), "vmstate"),
];

/// Fails by name when a command has what the installed QEMU does not know.
pub(super) fn check(command: &[String], qemu: &QemuVersion) -> Result<()> {
    for pair in command.windows(2) {
        let [option, value] = pair else { continue };
        for (place, text, (major, minor), name) in NEEDS {
            if option == place && value.contains(text) && !qemu.at_least(major, minor) {
                return Err(Error::new(format!(
                    "option '{name}' needs QEMU {major}.{minor}, but '{qemu}' is installed, please upgrade"
                )));
            }
        }
        if option == "-object" && is_fraction(value) {
            return Err(Error::new("the memory cannot be divided by the number of NUMA nodes, QEMU wants whole MiB"));
        }
        if option == "-loadstate" && !qemu.proxmox && !std::path::Path::new(value).is_file() {
            return Err(Error::new("only Proxmox's QEMU can go on from a state on a device"));
        }
    }
    Ok(())
}

/// Whether the size of a memory object is no whole number; PVE prints such a line, and its QEMU refuses it.
fn is_fraction(object: &str) -> bool {
    let size = object.split(',').find_map(|part| part.strip_prefix("size="));
    object.starts_with("memory-backend-") && size.is_some_and(|size| size.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use serde_json::json;

    #[test]
    fn what_came_later_is_refused_by_name() {
        let facts = json!({"qemu_version": "7.2.22 (Debian)"});
        let host = Host::with_overrides(facts.as_object().unwrap().clone());
        let qemu = host.qemu_version().unwrap();
        let refused =
            |words: [&str; 2]| check(&words.map(str::to_owned), qemu).err().map(|error| error.message().to_owned());
        let text = refused(["-object", "sev-snp-guest,id=sev0"]).unwrap();
        assert!(text.starts_with("option 'amd-sev: snp' needs QEMU 9.1, but '7.2.22'"), "{text}");
        assert_eq!(refused(["-device", "virtio-iommu-pci"]), None);
        assert!(refused(["-object", "memory-backend-ram,id=a,size=341.333333333333M"]).unwrap().contains("whole MiB"));
        assert_eq!(refused(["-object", "memory-backend-ram,id=a,size=341M"]), None);
    }
}

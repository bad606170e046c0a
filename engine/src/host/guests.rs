//! Facts that only matter to special guests: huge pages, firmware, protection of memory, SCSI devices of the host.

use super::Host;
use serde_json::{Value, json};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where PVE's package puts firmware, and where Debian's packages `ovmf` and `qemu-efi-aarch64` do.
const FIRMWARE: &str = "/usr/share/pve-edk2-firmware";
const FIRMWARE_HERE: [&str; 2] = ["/usr/share/OVMF", "/usr/share/AAVMF"];

/// Bytes of the variables that firmware comes with, for planning on another machine.
const KNOWN_SIZES: [(&str, u64); 4] =
    [("OVMF_VARS.fd", 131_072), ("OVMF_VARS_4M", 540_672), ("OVMF_SEV_VARS_4M", 540_672), ("AAVMF_VARS", 67_108_864)];

impl Host {
    /// Whether the facts are those of another machine: what cannot be looked at is then taken for granted.
    pub fn is_imagined(&self) -> bool {
        self.replaced("qemu_version").is_some()
    }

    /// Whether the kernel has huge pages of a size in MiB.
    pub fn has_huge_pages(&self, mebibytes: u64) -> bool {
        match self.replaced("hugepages") {
            Some(Value::String(all)) if all == "any" => true,
            Some(Value::Array(sizes)) => sizes.iter().any(|size| size.as_u64() == Some(mebibytes)),
            Some(one) => crate::call::config_text(one) == mebibytes.to_string(),
            None => Path::new(&format!("/sys/kernel/mm/hugepages/hugepages-{}kB", mebibytes * 1024)).is_dir(),
        }
    }

    /// The size of a firmware file in bytes, `None` when it is not there. Files are known by PVE's path.
    pub fn firmware_size(&self, path: &str) -> Option<u64> {
        let name = path.rsplit('/').next().unwrap_or(path);
        if let Some(Value::Object(sizes)) = self.replaced("firmware_vars_size")
            && let Some((_, size)) = sizes.iter().find(|(file, _)| file.rsplit('/').next() == Some(name))
        {
            return size.as_u64();
        }
        if self.is_imagined() {
            return Some(KNOWN_SIZES.iter().find(|(known, _)| name.starts_with(known)).map_or(0, |(_, size)| *size));
        }
        std::fs::metadata(firmware_here(path)?).ok().map(|metadata| metadata.len())
    }

    /// What the processor has for confidential guests, in the shape of PVE's `host-hw-capabilities.json`.
    pub fn hardware_capabilities(&self) -> Value {
        match self.replaced("hw_capabilities") {
            Some(known) => known.clone(),
            None => probe_capabilities(),
        }
    }

    /// The flag of nested virtualization, `svm` or `vmx`.
    pub fn nested_flag(&self) -> Option<&'static str> {
        if self.is_imagined() && self.replaced("cpu_vendor").is_some() {
            return match self.cpu_vendor().as_str() {
                "AuthenticAMD" => Some("svm"),
                "GenuineIntel" => Some("vmx"),
                _ => None,
            };
        }
        ["svm", "vmx"].into_iter().find(|flag| self.has_cpu_flag(flag))
    }

    /// The SCSI type of a device of the host: 0 is a disk, 1 a tape. `None` for everything that speaks no SCSI.
    pub fn scsi_type(&self, path: &str) -> Option<u64> {
        if self.is_imagined() {
            return Some(0);
        }
        let metadata = std::fs::metadata(path).ok()?;
        let kind = match metadata.file_type() {
            kind if kind.is_block_device() => "block",
            kind if kind.is_char_device() => "char",
            _ => return None,
        };
        let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        let file = format!("/sys/dev/{kind}/{major}:{minor}/device/type");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }
}

/// Where a firmware file of PVE's is on this machine.
pub fn firmware_here(path: &str) -> Option<PathBuf> {
    let name = Path::new(path).file_name()?;
    let places = std::iter::once(FIRMWARE).chain(FIRMWARE_HERE);
    places.map(|directory| Path::new(directory).join(name)).find(|file| file.is_file())
}

#[cfg(target_arch = "x86_64")]
fn probe_capabilities() -> Value {
    use std::arch::x86_64::__cpuid;
    let is_on = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        matches!(text.trim(), "Y" | "1")
    };
    let mut sev = json!({"sev-support": false, "sev-support-es": false, "sev-support-snp": false});
    // Leaf 0x8000001f describes encrypted memory where there is any.
    if __cpuid(0x8000_0000).eax >= 0x8000_001f {
        let leaf = __cpuid(0x8000_001f);
        let bit = |number: u32| leaf.eax & (1 << number) != 0;
        let module = "/sys/module/kvm_amd/parameters";
        sev = json!({
            "sev-support": bit(1) && is_on(&format!("{module}/sev")),
            "sev-support-es": bit(3) && is_on(&format!("{module}/sev_es")),
            "sev-support-snp": bit(4) && is_on(&format!("{module}/sev_snp")),
            "cbitpos": leaf.ebx & 0x3f, "reduced-phys-bits": (leaf.ebx >> 6) & 0x3f,
        });
    }
    let tdx = is_on("/sys/module/kvm_intel/parameters/tdx");
    json!({"amd-sev": sev, "intel-tdx": {"tdx-support": tdx}})
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_capabilities() -> Value {
    json!({"amd-sev": {"sev-support": false}, "intel-tdx": {"tdx-support": false}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_another_machine_win() {
        let host = |facts: Value| Host::with_overrides(facts.as_object().unwrap().clone());
        let path = "/usr/share/pve-edk2-firmware//OVMF_VARS_4M.ms.fd";
        assert_eq!(host(json!({"qemu_version": "10.1.2"})).firmware_size(path), Some(540_672));
        let told = json!({"firmware_vars_size": {"/usr/share/pve-edk2-firmware/OVMF_VARS_4M.ms.fd": 77}});
        assert_eq!(host(told).firmware_size(path), Some(77));
        assert!(host(json!({"hugepages": "any"})).has_huge_pages(1024));
        assert!(!host(json!({"hugepages": [2]})).has_huge_pages(1024));
        assert_eq!(host(json!({"qemu_version": "9.2", "cpu_vendor": "AuthenticAMD"})).nested_flag(), Some("svm"));
        assert!(host(json!({})).hardware_capabilities()["amd-sev"]["sev-support"].is_boolean());
    }
}

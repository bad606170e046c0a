//! Memory that the host cannot read: AMD SEV and Intel TDX. (PVE: qemu-server CPUConfig.pm, get_amd_sev_object and
//! get_intel_tdx_object)

use super::builder::{Builder, canonical_json, fail};
use crate::Result;
use crate::qemu::config::{Properties, Vm};
use serde_json::{Value, json};

/// How a VM is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// AMD SEV.
    Sev,
    /// AMD SEV with encrypted state.
    SevEs,
    /// AMD SEV with nested paging.
    SevSnp,
    /// Intel TDX.
    Tdx,
}

impl Protection {
    /// What is configured.
    pub fn of(vm: &Vm) -> Result<Option<Self>> {
        if let Some(sev) = vm.properties("pve-qemu-sev-fmt", "amd-sev")? {
            return Ok(Some(match sev.text("type").as_deref() {
                Some("es") => Protection::SevEs,
                Some("snp") => Protection::SevSnp,
                _ => Protection::Sev,
            }));
        }
        Ok(vm.properties("pve-qemu-tdx-fmt", "intel-tdx")?.map(|_| Protection::Tdx))
    }
}

/// Adds the object that protects the memory.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    let Some(protection) = Protection::of(&builder.vm)? else { return Ok(()) };
    let capabilities = builder.host.hardware_capabilities();
    if protection == Protection::Tdx {
        let options = builder.vm.properties("pve-qemu-tdx-fmt", "intel-tdx")?.unwrap_or_default();
        let object = trusted_domain(builder, &options, &capabilities["intel-tdx"])?;
        builder.device_option("-object", canonical_json(&object));
        builder.machine_flags.push("confidential-guest-support=tdx0".into());
        builder.machine_flags.push("kernel_irqchip=split".into());
        return Ok(());
    }
    let options = builder.vm.properties("pve-qemu-sev-fmt", "amd-sev")?.unwrap_or_default();
    let object = secure_virtualization(builder, protection, &options, &capabilities["amd-sev"])?;
    builder.device_option("-object", object);
    builder.machine_flags.push("confidential-guest-support=sev0".into());
    Ok(())
}

fn is_on(value: &Value) -> bool {
    value.as_bool().unwrap_or(false) || value.as_u64().is_some_and(|number| number > 0)
}

fn secure_virtualization(
    builder: &Builder,
    protection: Protection,
    options: &Properties,
    capabilities: &Value,
) -> Result<String> {
    if !is_on(&capabilities["sev-support"]) {
        return fail("Your CPU does not support AMD SEV.");
    }
    if protection == Protection::SevEs && !is_on(&capabilities["sev-support-es"]) {
        return fail("Your CPU does not support AMD SEV-ES.");
    }
    if protection == Protection::SevSnp && !is_on(&capabilities["sev-support-snp"]) {
        return fail("Your CPU does not support AMD SEV-SNP.");
    }
    if !builder.is_uefi() {
        return fail("To use AMD SEV, you need to change the BIOS to OVMF.");
    }
    // Bits of the guest's policy, from AMD's specifications.
    let bit = |number: u32, is_set: bool| u32::from(is_set) << number;
    let (kind, policy) = if protection == Protection::SevSnp {
        let threads = options.flag("allow-smt") != Some(false);
        ("sev-snp-guest", bit(17, true) | bit(16, threads) | bit(19, !options.is_on("no-debug")))
    } else {
        let policy = bit(0, options.is_on("no-debug"))
            | bit(1, options.is_on("no-key-sharing"))
            | bit(2, protection == Protection::SevEs)
            | bit(3, true);
        ("sev-guest", policy)
    };
    let number = |key: &str| crate::call::config_text(&capabilities[key]);
    let hashes = if options.is_on("kernel-hashes") { ",kernel-hashes=on" } else { "" };
    Ok(format!(
        "{kind},id=sev0,cbitpos={},reduced-phys-bits={},policy={policy:#x}{hashes}",
        number("cbitpos"),
        number("reduced-phys-bits")
    ))
}

fn trusted_domain(builder: &Builder, options: &Properties, capabilities: &Value) -> Result<Value> {
    if !is_on(&capabilities["tdx-support"]) {
        return fail("Your CPU does not support Intel TDX.");
    }
    if !builder.is_uefi() {
        return fail("To use Intel TDX, you need to change the BIOS to OVMF.");
    }
    let mut object = json!({"qom-type": "tdx-guest", "id": "tdx0"});
    if options.is_on("attestation") {
        let Some(cid) = options.text("vsock-cid") else { return fail("Missing cid for vsock.") };
        let Some(port) = options.text("vsock-port") else { return fail("Missing port for vsock.") };
        object["quote-generation-socket"] = json!({"type": "vsock", "cid": cid, "port": port});
    }
    Ok(object)
}

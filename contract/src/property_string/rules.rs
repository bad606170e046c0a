//! What four property string formats check beyond their schema (pve-storage PVE/Storage/Plugin.pm,
//! pve-guest-common PVE/VZDump/Common.pm, qemu-server PVE/QemuServer/CPUConfig.pm).

use super::PropertyStringFormat;
use crate::verify::text_of;
use serde_json::{Map, Value};

/// CPU models that are put together from a basic one and flags; the basic ones are listed with `reported-model`.
const BUILT_IN_MODELS: [&str; 5] = ["x86-64-v2", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4", "host"];

/// CPU flags that the configuration of a VM may switch.
const VM_CPU_FLAGS: [&str; 13] = [
    "aes",
    "amd-no-ssb",
    "amd-ssbd",
    "hv-evmcs",
    "hv-tlbflush",
    "ibpb",
    "md-clear",
    "nested-virt",
    "pcid",
    "pdpe1gb",
    "spec-ctrl",
    "ssbd",
    "virt-ssbd",
];

/// Applies the rule of a format, if it has one; the result is what callers see.
pub(super) fn apply(
    format_id: &str,
    format: &PropertyStringFormat,
    values: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    match format_id {
        "prune-backups" => prune_backups(values),
        "backup-fleecing" => fleecing(values),
        "pve-cpu-conf" => cpu(values),
        "pve-vm-cpu-conf" => vm_cpu(format, values),
        _ => Ok(values),
    }
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(text_of).is_some_and(|text| !text.is_empty() && text != "0")
}

/// Nothing to keep means to keep all; both together contradict each other.
fn prune_backups(mut values: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let keep_all = is_true(values.remove("keep-all").as_ref());
    let counts = |value: &Value| text_of(value).and_then(|text| text.parse::<f64>().ok()).is_some_and(|n| n > 0.0);
    if !values.values().any(counts) {
        return Ok(Map::from_iter([("keep-all".to_owned(), Value::String("1".to_owned()))]));
    }
    if keep_all {
        return Err("keep-all cannot be set together with other options.".to_owned());
    }
    Ok(values)
}

fn fleecing(values: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if is_true(values.get("enabled")) && !is_true(values.get("storage")) {
        return Err("'storage' parameter is required when 'enabled' is set".to_owned());
    }
    Ok(values)
}

fn cpu(values: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if is_true(values.get("cputype")) { Ok(values) } else { Err("CPU is missing cputype".to_owned()) }
}

/// Whether a custom model exists is found out by who reads the file of custom models.
fn vm_cpu(format: &PropertyStringFormat, values: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let values = cpu(values)?;
    let model = values.get("cputype").and_then(text_of).unwrap_or_default();
    let basic = format.keys.get("reported-model").and_then(|schema| schema.enumeration.as_ref());
    let known = model.starts_with("custom-")
        || BUILT_IN_MODELS.contains(&model.as_str())
        || basic.is_some_and(|models| models.contains(&model));
    if !known {
        return Err(format!("Built-in cputype '{model}' is not defined (missing 'custom-' prefix?)"));
    }
    let flags = values.get("flags").and_then(text_of).unwrap_or_default();
    let supported = |flag: &str| flag.strip_prefix(['+', '-']).is_some_and(|name| VM_CPU_FLAGS.contains(&name));
    if !flags.is_empty() && !flags.split(';').all(supported) {
        return Err(format!("VM-specific CPU flags must be a subset of: {}", VM_CPU_FLAGS.join(", ")));
    }
    if values.contains_key("reported-model") {
        return Err("Property 'reported-model' not allowed in VM-specific CPU config.".to_owned());
    }
    Ok(values)
}

//! What of a configuration file counts: a value that its option does not allow is passed over, with a word about it.
//! (PVE: qemu-server QemuServer.pm, parse_vm_config and check_type)

use super::{Drive, Slot, Vm};
use crate::config::guest::Part;
use contract::{Kind, Method, Schema, Verb};

/// The part without values that mean nothing, and what was wrong with them.
pub fn readable(vm: &Vm) -> (Part, Vec<String>) {
    let mut part = vm.part().clone();
    let mut warnings = Vec::new();
    let Some(create) = contract::method(Verb::Post, "/nodes/{node}/qemu") else { return (part, warnings) };
    part.options.retain(|key, value| match problem(create, key, value) {
        None => true,
        Some(problem) => {
            warnings.push(format!("vm {} - unable to parse value of '{key}' - {problem}", vm.vmid));
            false
        }
    });
    // These are old names.
    if let Some(drive) = part.options.remove("cdrom") {
        part.options.entry("ide2".into()).or_insert(drive);
    }
    (part, warnings)
}

fn problem(create: &Method, key: &str, value: &str) -> Option<String> {
    if let Ok(slot) = key.parse::<Slot>() {
        return Drive::parse(slot, value).err().map(|error| error.message().to_owned());
    }
    let schema = create.parameter(key)?;
    match schema.kind {
        Some(Kind::Boolean) if contract::parse_boolean(value).is_none() => {
            Some(format!("type check ('boolean') failed - got '{value}'"))
        }
        Some(Kind::Integer) if !value.chars().all(|c| c.is_ascii_digit()) => {
            Some(format!("type check ('integer') failed - got '{value}'"))
        }
        Some(Kind::Number) if value.parse::<f64>().is_err() => {
            Some(format!("type check ('number') failed - got '{value}'"))
        }
        Some(Kind::String) => text_problem(schema, value),
        _ => None,
    }
}

fn text_problem(schema: &Schema, value: &str) -> Option<String> {
    let format = schema.format.as_deref()?;
    if contract::property_string::format(format).is_none() {
        return contract::format::check(format, value).err();
    }
    let errors = contract::property_string::parse(format, value).err()?;
    Some(errors.iter().map(|(key, text)| format!("{key}: {text}")).collect::<Vec<_>>().join(", "))
}

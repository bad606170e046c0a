//! What of a configuration counts when a VM starts: drives whose rules between keys are broken are passed over, with a
//! word about it. (PVE: qemu-server Drive.pm, parse_drive)

use super::{Drive, Slot, Vm};
use crate::config::guest::{GuestKind, Part};
use crate::config::guest_text::Section;
use crate::guest::values;

/// The part without values that mean nothing, and what was wrong with them.
pub fn readable(vm: &Vm) -> (Part, Vec<String>) {
    let mut part = vm.part().clone();
    let mut warnings = Vec::new();
    for (key, value) in std::mem::take(&mut part.options) {
        let stored =
            values::stored(GuestKind::Qemu, &Section::Current, &key, &value).and_then(|(key, value)| {
                match key.parse::<Slot>().map(|slot| Drive::parse(slot, &value)) {
                    Ok(Err(error)) => Err(error.message().to_owned()),
                    _ => Ok((key, value)),
                }
            });
        match stored {
            Ok((key, value)) => drop(part.options.entry(key).or_insert(value)),
            Err(problem) => warnings.push(format!("vm {} - unable to parse value of '{key}' - {problem}", vm.vmid)),
        }
    }
    (part, warnings)
}

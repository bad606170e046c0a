//! What a command line may refer to besides volumes, read from the node: only what a configuration asks for.

use super::command_line::Surroundings;
use super::config::Vm;
use super::{cpu_models, reservations};
use crate::hardware::{pci, usb};
use crate::mapping::{Kind, Mappings};
use crate::{Context, Result};
use std::collections::BTreeSet;

/// Reads what a VM needs.
pub fn read(ctx: &Context, vm: &Vm) -> Result<Surroundings> {
    let has = |prefix: &'static str| !vm.indexed(prefix).is_empty();
    let mut around = Surroundings::default();
    let mut kinds = Vec::new();
    if has("hostpci") {
        kinds.push(Kind::Pci);
        around.pci = pci::list(&ctx.host);
        around.busy = match ctx.host.is_imagined() {
            true => BTreeSet::new(),
            false => reservations::of_others(ctx, vm.vmid)?,
        };
    }
    if has("usb") {
        kinds.push(Kind::Usb);
        around.usb = usb::list(&ctx.host);
    }
    if has("virtiofs") {
        kinds.push(Kind::Directory);
    }
    around.mappings = Mappings::load(ctx, &kinds)?;
    if vm.text("cpu").is_some_and(|cpu| cpu.contains("custom-")) {
        around.cpu_models = cpu_models::values(ctx)?;
    }
    Ok(around)
}

//! Directories of the host, shared by virtio-fs. (PVE: qemu-server Virtiofs.pm, config)

use super::builder::{Builder, fail};
use crate::Result;
use crate::mapping::{Kind, Mappings, directory_problem};
use crate::qemu::config::{Properties, Vm};

/// How many a VM can have.
const MOST: u32 = 10;

/// The options of a VM by number.
pub(in crate::qemu) fn shares(vm: &Vm) -> Result<Vec<(u32, Properties)>> {
    vm.indexed("virtiofs")
        .into_iter()
        .filter(|(number, _)| *number < MOST)
        .map(|(number, text)| Ok((number, Properties::parse("pve-qm-virtiofs", &format!("virtiofs{number}"), text)?)))
        .collect()
}

/// Adds all directories.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    for (number, share) in shares(&builder.vm)? {
        let name = share.text("dirid").unwrap_or_default();
        if share.is_on("expose-acl") && builder.vm.windows() > 0 {
            return fail(
                "Please disable ACLs for virtiofs on Windows VMs, otherwise the virtiofs shared directory cannot be \
                 mounted.",
            );
        }
        if !builder.host.is_imagined() {
            check(builder, &name)?;
        }
        let socket = format!("{}/virtiofsd/vm{}-fs{number}", builder.options.paths.short_run, builder.vm.vmid);
        builder.device_option("-chardev", format!("socket,id=virtiofs{number},path={socket}"));
        builder.device(format!("vhost-user-fs-pci,queue-size=1024,chardev=virtiofs{number},tag={name}"));
    }
    Ok(())
}

fn check(builder: &Builder, name: &str) -> Result<()> {
    let path = shared_path(&builder.around.mappings, &builder.host.node_name(), name)?;
    match directory_problem(&path) {
        Some(problem) => fail(format!("directory mapping invalid: {problem}")),
        None => Ok(()),
    }
}

/// The directory that a name means on this node.
pub(in crate::qemu) fn shared_path(mappings: &Mappings, node: &str, name: &str) -> Result<String> {
    if mappings.mapping(Kind::Directory, name).is_none() {
        return fail(format!("Directory ID {name} does not exist."));
    }
    match mappings.entries(Kind::Directory, name).as_slice() {
        [] => fail(format!("No directory mapping for node {node}.")),
        [entry] => Ok(entry.text("path").unwrap_or_default()),
        _ => fail(format!("More than than one directory mapping for node {node}.")),
    }
}

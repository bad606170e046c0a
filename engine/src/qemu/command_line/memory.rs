//! Memory and its division among NUMA nodes. (PVE: qemu-server Memory.pm, config)

use super::builder::{Builder, fail};
use crate::Result;
use crate::qemu::config::Properties;

/// Adds the memory of the VM.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    if builder.vm.hotplug().memory {
        return fail("option 'hotplug: memory' is not supported yet");
    }
    let memory = builder.vm.memory()?;
    builder.option("-m", memory.to_string());
    if builder.vm.flag("numa") != Some(true) {
        return Ok(());
    }
    let nodes = builder.vm.indexed("numa");
    if nodes.is_empty() {
        return divide_evenly(builder, memory);
    }
    let mut total = 0;
    for (node, text) in nodes {
        let numa = Properties::parse("pve-qm-numanode", &format!("numa{node}"), text)?;
        total += add_node(builder, node, &numa)?;
    }
    if total != memory {
        return fail("total memory for NUMA nodes must be equal to vm static memory");
    }
    Ok(())
}

/// One node for each socket.
fn divide_evenly(builder: &mut Builder, memory: u64) -> Result<()> {
    let (sockets, cores) = (builder.vm.sockets(), builder.vm.cores());
    if !memory.is_multiple_of(sockets) {
        return fail(format!("memory size {memory} cannot be divided among {sockets} NUMA nodes"));
    }
    for node in 0..sockets {
        let first = cores * node;
        let cpus = if cores > 1 { format!("{first}-{}", first + cores - 1) } else { first.to_string() };
        let size = memory / sockets;
        builder.option("-object", format!("memory-backend-ram,id=ram-node{node},size={size}M"));
        builder.option("-numa", format!("node,nodeid={node},cpus={cpus},memdev=ram-node{node}"));
    }
    Ok(())
}

/// A node as configured; gives back its memory.
fn add_node(builder: &mut Builder, node: u32, numa: &Properties) -> Result<u64> {
    let Some(size) = numa.number("memory").filter(|size| *size > 0) else {
        return fail(format!("missing NUMA node{node} memory value"));
    };
    let Some(cpus) = numa.text("cpus") else { return fail(format!("missing NUMA node{node} cpus")) };
    let cpus = cpus.split(';').map(str::trim).collect::<Vec<_>>().join(",cpus=");
    let mut object = format!("memory-backend-ram,id=ram-node{node},size={size}M");
    if let Some(list) = numa.text("hostnodes") {
        let ranges: Vec<&str> = list.split(';').map(str::trim).collect();
        let hostnodes = ranges.join(",");
        let Some(policy) = numa.text("policy") else {
            return fail(format!("you need to define a policy for hostnode {hostnodes}"));
        };
        for range in ranges {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let numbers = first.parse::<u64>().ok().zip(last.parse::<u64>().ok());
            let Some((first, last)) = numbers.filter(|(first, last)| first <= last) else {
                return fail(format!("invalid range: {range}"));
            };
            if let Some(missing) = (first..=last).find(|number| !builder.host.has_numa_node(*number)) {
                return fail(format!("host NUMA node{missing} doesn't exist"));
            }
        }
        object += &format!(",host-nodes={hostnodes},policy={policy}");
    }
    builder.option("-object", object);
    builder.option("-numa", format!("node,nodeid={node},cpus={cpus},memdev=ram-node{node}"));
    Ok(size)
}

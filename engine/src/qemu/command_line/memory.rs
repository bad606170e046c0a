//! Memory: its division among NUMA nodes, huge pages, and modules that can be added. (PVE: qemu-server Memory.pm)

use super::builder::{Builder, fail};
use super::virtiofs;
use crate::Result;
use crate::host::Host;
use crate::qemu::config::{Properties, Vm};
use std::collections::BTreeMap;

/// MiB that a VM with modules has from the beginning.
const STATIC: u64 = 1024;

/// NUMA nodes that can be described.
const MOST_NODES: u32 = 8;

/// Adds the memory of the VM.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    let memory = builder.vm.memory()?;
    let has_modules = builder.vm.hotplug().memory;
    let is_shared = !virtiofs::shares(&builder.vm)?.is_empty();
    let mut fixed = memory;
    if has_modules {
        fixed = modules_start(builder, memory)?;
        let most = most_memory(builder)?;
        builder.option("-m", format!("size={fixed},slots=255,maxmem={most}M"));
    } else {
        builder.option("-m", memory.to_string());
    }
    let has_nodes = builder.vm.flag("numa") == Some(true);
    let pages = builder.vm.text("hugepages").map(str::to_owned);
    if pages.is_some() && !has_nodes {
        return fail("numa needs to be enabled to use hugepages");
    }
    if has_modules && is_shared {
        return fail("Memory hotplug does not work in combination with virtio-fs.");
    }
    let backend = Backend { host: builder.host, pages: pages.as_deref(), is_shared };
    if has_nodes {
        for (object, node) in nodes(&builder.vm, builder.host, &backend, fixed)? {
            builder.option("-object", object);
            builder.option("-numa", node);
        }
    } else if is_shared {
        builder.option("-object", format!("memory-backend-memfd,id=virtiofs-mem,size={memory}M,share=on"));
        builder.machine_flags.push("memory-backend=virtiofs-mem".into());
    }
    if has_modules {
        for module in modules(&builder.vm, memory, fixed) {
            let name = format!("mem-{}", module.name);
            builder.option("-object", backend.object(&name, &module.size.to_string(), Some(module.size as f64))?);
            builder.option("-device", format!("pc-dimm,id={},memdev={name},node={}", module.name, module.node));
            if module.until > memory {
                let size = module.size;
                return fail(format!("memory size ({memory}) must be aligned to {size} for hotplugging"));
            }
        }
    }
    Ok(())
}

/// The memory that is there without modules.
fn modules_start(builder: &Builder, memory: u64) -> Result<u64> {
    if builder.vm.flag("numa") != Some(true) {
        return fail("NUMA needs to be enabled for memory hotplug");
    }
    let most = most_memory(builder)?;
    if memory > most {
        return fail(format!("Total memory is bigger than {most}MB"));
    }
    if !numbered_nodes(&builder.vm).is_empty() {
        return fail("cannot enable memory hotplugging with custom NUMA topology");
    }
    let fixed = static_memory(&builder.vm);
    if memory < fixed {
        return fail(format!("minimum memory must be {fixed}MB"));
    }
    Ok(fixed)
}

fn static_memory(vm: &Vm) -> u64 {
    if vm.text("hugepages") == Some("1024") { STATIC * configured_sockets(vm) } else { STATIC }
}

/// As `sockets` says, without the old `smp`.
fn configured_sockets(vm: &Vm) -> u64 {
    vm.number("sockets").filter(|count| *count > 0).unwrap_or(1)
}

/// MiB that the processor of the guest can address, with room for QEMU. (PVE: Memory.pm, get_max_mem)
fn most_memory(builder: &Builder) -> Result<u64> {
    let cpu = builder.vm.properties("pve-vm-cpu-conf", "cpu")?.unwrap_or_default();
    let of_host = builder.host.phys_address_bits();
    let configured = match cpu.text("phys-bits").as_deref() {
        Some("host") => of_host,
        Some(bits) => bits.parse().ok(),
        None => None,
    };
    let bits = configured.unwrap_or_else(|| {
        let of_host = of_host.unwrap_or(36);
        match cpu.text("cputype").as_deref() {
            Some("host" | "max") => of_host,
            _ => of_host.min(40),
        }
    });
    Ok((1u64 << (bits & !1).clamp(21, 63).saturating_sub(21)).min(4 << 20))
}

/// How memory is backed.
struct Backend<'a> {
    host: &'a Host,
    /// The option `hugepages`.
    pages: Option<&'a str>,
    /// Other processes read it, too.
    is_shared: bool,
}

impl Backend<'_> {
    /// `size` as it is printed; `whole` is the same as a number.
    fn object(&self, id: &str, size: &str, whole: Option<f64>) -> Result<String> {
        if let Some(pages) = self.pages {
            let page = page_size(self.host, pages, whole.unwrap_or(0.0), size)?;
            let path = page_mount(page);
            return Ok(format!("memory-backend-file,id={id},size={size}M,mem-path={path},share=on,prealloc=yes"));
        }
        Ok(match self.is_shared && id.starts_with("virtiofs-mem") {
            true => format!("memory-backend-memfd,id={id},size={size}M,share=on"),
            false => format!("memory-backend-ram,id={id},size={size}M"),
        })
    }

    fn name(&self, node: u64) -> String {
        if self.is_shared { format!("virtiofs-mem{node}") } else { format!("ram-node{node}") }
    }
}

/// Where huge pages of a size in MiB are mounted.
pub(in crate::qemu) fn page_mount(page: u64) -> String {
    format!("/run/hugepages/kvm/{}kB", page * 1024)
}

/// The size of page for a piece of memory, both in MiB. (PVE: Memory.pm, hugepages_size)
fn page_size(host: &Host, pages: &str, size: f64, printed: &str) -> Result<u64> {
    let whole = size as u64;
    if size <= 0.0 || whole % 2 == 1 {
        return fail(format!("memory size '{printed}' is not a positive even integer; cannot use for hugepages"));
    }
    let (has_small, has_large) = (host.has_huge_pages(2), host.has_huge_pages(1024));
    if !has_small && !has_large {
        return fail("your system doesn't support hugepages");
    }
    if pages == "any" {
        return match (has_large && whole.is_multiple_of(1024), has_small) {
            (true, _) => Ok(1024),
            (false, true) => Ok(2),
            (false, false) => fail(format!(
                "host only supports 1024 GB hugepages, but requested size '{printed}' is not a multiple of 1024 MB"
            )),
        };
    }
    let page: u64 = pages.parse().unwrap_or(0);
    if !host.has_huge_pages(page) {
        return fail(format!("your system doesn't support hugepages of {pages} MB"));
    }
    if !whole.is_multiple_of(page) {
        return fail(format!("Memory size {printed} is not a multiple of the requested hugepages size {pages}"));
    }
    Ok(page)
}

fn numbered_nodes<'a>(vm: &Vm<'a>) -> Vec<(u32, &'a str)> {
    vm.indexed("numa").into_iter().filter(|(number, _)| *number < MOST_NODES).collect()
}

/// `-object` and `-numa` of each node.
fn nodes(vm: &Vm, host: &Host, backend: &Backend, fixed: u64) -> Result<Vec<(String, String)>> {
    let mut nodes = Vec::new();
    let mut total = 0.0;
    for (number, text) in numbered_nodes(vm) {
        let numa = Properties::parse("pve-qm-numanode", &format!("numa{number}"), text)?;
        let Some(size) = numa.fraction("memory").filter(|size| *size > 0.0) else {
            return fail(format!("missing NUMA node{number} memory value"));
        };
        total += size;
        let name = backend.name(u64::from(number));
        let mut object = backend.object(&name, &numa.text("memory").unwrap_or_default(), Some(size))?;
        let Some(cpus) = numa.text("cpus") else { return fail(format!("missing NUMA node{number} cpus")) };
        let cpus = ranges(&cpus)?.iter().map(Range::to_string).collect::<Vec<_>>().join(",cpus=");
        match numa.text("hostnodes") {
            Some(list) => {
                let hostnodes = host_nodes(host, &list)?;
                let Some(policy) = numa.text("policy") else {
                    return fail(format!("you need to define a policy for hostnode {hostnodes}"));
                };
                object += &format!(",host-nodes={hostnodes},policy={policy}");
            }
            None if backend.pages.is_some() => {
                return fail("numa hostnodes need to be defined to use hugepages");
            }
            None => {}
        }
        nodes.push((object, format!("node,nodeid={number},cpus={cpus},memdev={name}")));
    }
    if total > 0.0 {
        return match total == fixed as f64 {
            true => Ok(nodes),
            false => fail("total memory for NUMA nodes must be equal to vm static memory"),
        };
    }
    let (sockets, cores) = (vm.sockets(), vm.cores());
    let size = fixed as f64 / sockets as f64;
    for node in 0..sockets {
        if backend.pages.is_some() && !host.has_numa_node(node) {
            return fail(format!("host NUMA node{node} doesn't exist"));
        }
        let first = cores * node;
        let cpus = if cores > 1 { format!("{first}-{}", first + cores - 1) } else { first.to_string() };
        let name = backend.name(node);
        let object = backend.object(&name, &print_number(size), Some(size))?;
        nodes.push((object, format!("node,nodeid={node},cpus={cpus},memdev={name}")));
    }
    Ok(nodes)
}

/// A number as Perl prints it: 15 digits at most.
fn print_number(number: f64) -> String {
    if number.fract() == 0.0 {
        return format!("{number:.0}");
    }
    let digits = 15usize.saturating_sub(format!("{:.0}", number.trunc()).len());
    let text = format!("{number:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

struct Range {
    first: u64,
    last: Option<u64>,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.last {
            Some(last) => write!(f, "{}-{last}", self.first),
            None => write!(f, "{}", self.first),
        }
    }
}

/// `0-3;8`. (PVE: Helpers.pm, parse_number_sets)
fn ranges(list: &str) -> Result<Vec<Range>> {
    list.split(';')
        .map(|part| {
            let (first, last) = match part.trim().split_once('-') {
                Some((first, last)) => (first.parse().ok(), Some(last.parse().ok())),
                None => (part.trim().parse().ok(), None),
            };
            match (first, last) {
                (Some(first), None) => Ok(Range { first, last: None }),
                (Some(first), Some(Some(last))) if last < first => {
                    fail(format!("invalid range: {part} ({last} < {first})"))
                }
                (Some(first), Some(Some(last))) => Ok(Range { first, last: Some(last) }),
                _ => fail(format!("invalid range: {part}")),
            }
        })
        .collect()
}

fn host_nodes(host: &Host, list: &str) -> Result<String> {
    let ranges = ranges(list)?;
    for range in &ranges {
        let mut nodes = range.first..=range.last.unwrap_or(range.first);
        if let Some(missing) = nodes.find(|node| !host.has_numa_node(*node)) {
            return fail(format!("host NUMA node{missing} doesn't exist"));
        }
    }
    Ok(ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(","))
}

/// A module of memory.
pub(in crate::qemu) struct Module {
    /// `dimm0`, …
    pub name: String,
    /// MiB.
    pub size: u64,
    /// The NUMA node.
    pub node: u64,
    /// MiB of the VM with this and all modules before it.
    pub until: u64,
}

/// The modules that make up `memory`: 32 of each size, each size twice the one before. (PVE: Memory.pm, foreach_dimm)
pub(in crate::qemu) fn modules(vm: &Vm, memory: u64, fixed: u64) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut size = if vm.text("hugepages") == Some("1024") { 1024 } else { 512 };
    let numbered: Vec<u64> = numbered_nodes(vm).iter().map(|(number, _)| u64::from(*number)).collect();
    let nodes = if numbered.is_empty() { (0..configured_sockets(vm)).collect() } else { numbered };
    let mut until = fixed;
    if until == memory {
        return modules;
    }
    for round in 0..8usize {
        for place in 0..32usize {
            until += size;
            let node = nodes[place % nodes.len()];
            modules.push(Module { name: format!("dimm{}", round * 32 + place), size, node, until });
            if until >= memory {
                return modules;
            }
        }
        size *= 2;
    }
    modules
}

/// Huge pages by size in MiB and node of the host.
pub type HugePages = BTreeMap<u64, BTreeMap<u64, u64>>;

/// The huge pages that a VM needs at its start. (PVE: Memory.pm, hugepages_topology)
pub fn hugepages_needed(vm: &Vm, host: &Host) -> Result<HugePages> {
    let mut needed = HugePages::new();
    let Some(pages) = vm.text("hugepages").filter(|_| vm.flag("numa") == Some(true)) else { return Ok(needed) };
    let mut add = |size: f64, node: u64| -> Result<()> {
        let page = page_size(host, pages, size, &print_number(size))?;
        *needed.entry(page).or_default().entry(node).or_default() += size as u64 / page;
        Ok(())
    };
    let memory = vm.memory()?;
    let has_modules = vm.hotplug().memory;
    let fixed = if has_modules { static_memory(vm) } else { memory };
    let numbered = numbered_nodes(vm);
    let mut on_host = BTreeMap::new();
    for (number, text) in &numbered {
        let numa = Properties::parse("pve-qm-numanode", &format!("numa{number}"), text)?;
        let hostnodes = host_nodes(host, &numa.text("hostnodes").unwrap_or_default())?;
        let Ok(node) = hostnodes.parse::<u64>() else {
            return fail("more than 1 hostnode value in numa node is not supported when hugepages are enabled");
        };
        on_host.insert(u64::from(*number), node);
        add(numa.fraction("memory").unwrap_or(0.0), node)?;
    }
    if numbered.is_empty() {
        let sockets = configured_sockets(vm);
        for node in 0..sockets {
            add(fixed as f64 / sockets as f64, node)?;
        }
    }
    if has_modules {
        for module in modules(vm, memory, fixed) {
            add(module.size as f64, on_host.get(&module.node).copied().unwrap_or(module.node))?;
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_perl_does() {
        assert_eq!(print_number(1024.0), "1024");
        assert_eq!(print_number(1024.0 / 3.0), "341.333333333333");
        assert_eq!(print_number(0.5), "0.5");
    }

    #[test]
    fn modules_grow_after_thirty_two() {
        let config = crate::config::guest::GuestConfig::parse(
            crate::config::guest::GuestKind::Qemu,
            "sockets: 2\nmemory: 18432\nnuma: 1\n",
        );
        let vm = Vm::new("100".parse().unwrap(), &config.current);
        let found = modules(&vm, 18432, 1024);
        assert_eq!((found.len(), found[32].size, found[1].node, found[32].name.as_str()), (33, 1024, 1, "dimm32"));
        assert!(modules(&vm, 1024, 1024).is_empty());
    }
}

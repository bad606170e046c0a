//! What this machine offers to containers, as [`super::plan`] wants to know it.

use super::cgroup::{self, Hierarchies};
use super::monitor;
use super::plan::{AppArmor, Bridge, Device, Facts, LXC_CONFIG, passed_devices};
use super::system_calls;
use crate::config::guest::Part;
use crate::{Context, Result, Vmid, error::ResultExt};
use rustix::fs::FileType;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Looks at the machine for one container.
pub fn of_host(ctx: &Context, vmid: Vmid, part: &Part) -> Result<Facts> {
    let hierarchies = Hierarchies::of_host()?;
    let swap_file = hierarchies.legacy.get("memory").map(|root| root.join("memory.memsw.limit_in_bytes"));
    Ok(Facts {
        directory: monitor::directory(ctx, vmid),
        log: log_file(ctx, vmid),
        system_calls: system_calls::socket_path(ctx, vmid),
        group: cgroup::group(ctx, vmid),
        monitor_group: cgroup::monitor_group(ctx, vmid),
        swap_accounting: swap_file.is_none_or(|file| file.exists()),
        hierarchies,
        apparmor: apparmor(Path::new("/")),
        includes: names(Path::new(LXC_CONFIG)),
        seccomp_base: fs::read_to_string(format!("{LXC_CONFIG}/common.seccomp")).ok(),
        bridges: bridges(ctx),
        cpus: processors()?,
        devices: devices(part)?,
    })
}

/// liblxc's log of a container's last start.
pub fn log_file(ctx: &Context, vmid: Vmid) -> PathBuf {
    ctx.root.run(&format!("pve/ct-{vmid}.log"))
}

/// What the kernel restricts and the installed parser can compile: versions before 4.0, which came with the rules of its
/// name, know neither message queues nor user namespaces.
fn apparmor(root: &Path) -> Option<AppArmor> {
    let enabled =
        fs::read(root.join("sys/module/apparmor/parameters/enabled")).is_ok_and(|text| text.starts_with(b"Y"));
    let features = root.join("sys/kernel/security/apparmor/features");
    let parser = root.join("etc/apparmor.d/abi/4.0").exists();
    let has = |feature: &str| parser && features.join(feature).exists();
    let found =
        || AppArmor { message_queues: has("ipc/posix_mqueue"), user_namespaces: has("namespaces/userns_create") };
    enabled.then(found)
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// The bridges, or what replaces them.
pub fn bridges(ctx: &Context) -> BTreeMap<String, Bridge> {
    if let Some(Value::Object(replaced)) = ctx.host.replaced("bridges") {
        let bridge = |mtu: &Value| Bridge { mtu: mtu.as_u64().unwrap_or(1500), vlan_aware: true, open_vswitch: false };
        return replaced.iter().map(|(name, mtu)| (name.clone(), bridge(mtu))).collect();
    }
    let links = Path::new("/sys/class/net");
    let read = |path: PathBuf| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let mtu = |name: &String| read(links.join(name).join("mtu"))?.parse().ok();
    // One that cannot be asked has no bridges that a container could use.
    let of_open_vswitch = crate::network::open_vswitch::bridges().unwrap_or_default();
    let of_open_vswitch = of_open_vswitch
        .into_iter()
        .filter_map(|name| Some((name.clone(), Bridge { mtu: mtu(&name)?, vlan_aware: true, open_vswitch: true })));
    names(links)
        .into_iter()
        .filter(|name| links.join(name).join("bridge").is_dir())
        .filter_map(|name| {
            let vlan_aware = read(links.join(&name).join("bridge/vlan_filtering")).as_deref() == Some("1");
            Some((name.clone(), Bridge { mtu: mtu(&name)?, vlan_aware, open_vswitch: false }))
        })
        .chain(of_open_vswitch)
        .collect()
}

/// The processors that are switched on.
pub fn processors() -> Result<Vec<u32>> {
    let path = "/sys/devices/system/cpu/online";
    let text = fs::read_to_string(path).context(|| path)?;
    Ok(cgroup::parse_cpu_list(&text))
}

fn devices(part: &Part) -> Result<BTreeMap<String, Device>> {
    let mut found = BTreeMap::new();
    for device in passed_devices(part)? {
        let Ok(node) = rustix::fs::stat(device.path.as_str()) else { continue };
        let block = match FileType::from_raw_mode(node.st_mode) {
            FileType::BlockDevice => true,
            FileType::CharacterDevice => false,
            _ => continue,
        };
        let (major, minor) = (rustix::fs::major(node.st_rdev), rustix::fs::minor(node.st_rdev));
        found.insert(device.path, Device { block, major, minor });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{AppArmor, apparmor};
    use std::fs;

    #[test]
    fn profiles_name_only_what_kernel_and_parser_know() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(apparmor(root.path()), None);
        write("sys/module/apparmor/parameters/enabled", "Y\n");
        write("sys/kernel/security/apparmor/features/namespaces/userns_create", "");
        assert_eq!(apparmor(root.path()), Some(AppArmor::default()), "Debian 12's parser");
        write("etc/apparmor.d/abi/4.0", "");
        assert_eq!(apparmor(root.path()), Some(AppArmor { message_queues: false, user_namespaces: true }));
    }
}

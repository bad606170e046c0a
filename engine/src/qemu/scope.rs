//! Where a VM's process belongs: a systemd scope of its own, with its share of the processors.
//! (PVE: qemu-server QemuServer.pm, vm_start_nolock)

use super::config::Vm;
use crate::lxc::cgroup::Hierarchies;
use crate::{Context, Error, Result, command};
use std::fs;
use std::path::{Path, PathBuf};

/// The words in front of the command of a server that a VM needs beside QEMU. It ends by itself when QEMU does.
pub fn server_prefix(ctx: &Context, vmid: crate::Vmid, name: &str) -> Vec<String> {
    if !has_scopes(ctx) {
        return Vec::new();
    }
    let unit = format!("--unit={vmid}-{name}");
    ["systemd-run", "--quiet", "--scope", "--collect", "--slice=qemu", unit.as_str(), "--"].map(str::to_owned).into()
}

/// Changes `cpuunits` or `cpulimit` of a running VM; none is the default again. Without scopes weights have no effect.
/// (PVE: qemu-server PVE/QemuServer/CGroup.pm)
pub fn change(ctx: &Context, vmid: crate::Vmid, key: &str, value: Option<&str>) -> Result<()> {
    let number = positive(value);
    let property = match (key, number) {
        ("cpulimit", Some(_)) if !has_scopes(ctx) => return Err(no_systemd()),
        _ if !has_scopes(ctx) => return Ok(()),
        ("cpulimit", limit) => quota(limit),
        (_, units) => weight(units.map(|units| units as u64)),
    };
    command::run("systemctl", &["set-property", "--runtime", &format!("{vmid}.scope"), &property]).map(drop)
}

/// Moves this process, the VM's keeper, to where QEMU is: an end of the service that started it is not its end.
/// (systemd moves processes for others only into units with delegation.)
pub fn join(ctx: &Context, qemu: u32) {
    if !has_scopes(ctx) {
        return;
    }
    let lines = fs::read_to_string(format!("/proc/{qemu}/cgroup")).unwrap_or_default();
    for place in places(&lines, &Hierarchies::of_host().unwrap_or_default()) {
        // A group that is gone meanwhile is left out, and so are all when QEMU has ended.
        let _ = fs::write(place, std::process::id().to_string());
    }
}

/// `4:memory:/system.slice/x.service` → `/sys/fs/cgroup/memory/system.slice/x.service/cgroup.procs`.
fn places(lines: &str, hierarchies: &Hierarchies) -> Vec<PathBuf> {
    let place = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let root = match controllers {
            "" => hierarchies.unified.as_ref(),
            some => some.split(',').find_map(|controller| hierarchies.legacy.get(controller)),
        };
        Some(root?.join(group.trim_start_matches('/')).join("cgroup.procs"))
    };
    lines.lines().filter_map(place).collect()
}

/// Nodes below a directory, and machines without systemd, have no scopes.
fn has_scopes(ctx: &Context) -> bool {
    ctx.root.prefix().as_os_str().is_empty() && Path::new("/run/systemd/system").is_dir()
}

fn positive(text: Option<&str>) -> Option<f64> {
    text.and_then(|number| number.parse::<f64>().ok()).filter(|number| *number > 0.0)
}

/// How many processors' time the scope gets; any when there is no limit.
fn quota(limit: Option<f64>) -> String {
    format!("CPUQuota={}", limit.map(|limit| format!("{}%", (limit * 100.0) as u64)).unwrap_or_default())
}

fn weight(units: Option<u64>) -> String {
    format!("CPUWeight={}", units.unwrap_or(100).clamp(1, 10_000))
}

fn no_systemd() -> Error {
    Error::new("option 'cpulimit' needs systemd, which does not run here")
}

/// The words in front of QEMU's command that put it into its scope. Without scopes a limit of processor time is refused.
pub fn prefix(ctx: &Context, vm: &Vm) -> Result<Vec<String>> {
    let limit = positive(vm.text("cpulimit"));
    if !has_scopes(ctx) {
        return match limit {
            Some(_) => Err(no_systemd()),
            None => Ok(Vec::new()),
        };
    }
    let scope = format!("{}.scope", vm.vmid);
    // A scope of an earlier run that ended badly would block the name; usually there is none.
    let _ = command::run("systemctl", &["reset-failed", &scope]);
    let mut properties = vec![
        "KillMode=process".to_owned(),
        "SendSIGKILL=no".into(),
        "TimeoutStopSec=infinity".into(),
        weight(vm.number("cpuunits")),
    ];
    if limit.is_some() {
        properties.push(quota(limit));
    }
    let mut words: Vec<String> =
        ["systemd-run", "--quiet", "--scope", "--collect", "--slice=qemu"].map(str::to_owned).into();
    words.push(format!("--unit={}", vm.vmid));
    words.push(format!("--description=VM {}", vm.vmid));
    words.extend(properties.into_iter().flat_map(|property| ["-p".to_owned(), property]));
    words.push("--".into());
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_files_of_each_hierarchy() {
        let hierarchies = Hierarchies {
            legacy: [("cpu", "/c/cpu"), ("name=systemd", "/c/systemd")].map(|(k, v)| (k.into(), v.into())).into(),
            unified: Some("/c/unified".into()),
            ..Hierarchies::default()
        };
        let lines = "5:cpuacct,cpu:/lxc.monitor/7\n2:name=systemd:/\n1:misc:/x\n0::/a.slice/b:c\n";
        let found = places(lines, &hierarchies);
        let wanted = ["/c/cpu/lxc.monitor/7", "/c/systemd", "/c/unified/a.slice/b:c"];
        assert_eq!(found, wanted.map(|place| PathBuf::from(place).join("cgroup.procs")));
    }
}

//! Where a VM's process belongs: a systemd scope of its own, with its share of the processors.
//! (PVE: qemu-server QemuServer.pm, vm_start_nolock)

use super::config::Vm;
use crate::{Context, Error, Result, command};
use std::path::Path;

/// The words in front of the command of a server that a VM needs beside QEMU. It ends by itself when QEMU does.
pub fn server_prefix(ctx: &Context, vmid: crate::Vmid, name: &str) -> Vec<String> {
    if !ctx.root.prefix().as_os_str().is_empty() || !Path::new("/run/systemd/system").is_dir() {
        return Vec::new();
    }
    let unit = format!("--unit={vmid}-{name}");
    ["systemd-run", "--quiet", "--scope", "--collect", "--slice=qemu", unit.as_str(), "--"].map(str::to_owned).into()
}

/// Changes `cpuunits` or `cpulimit` of a running VM; none is the default again. Without scopes weights have no effect.
/// (PVE: qemu-server PVE/QemuServer/CGroup.pm)
pub fn change(ctx: &Context, vmid: crate::Vmid, key: &str, value: Option<&str>) -> Result<()> {
    let limit = value.and_then(|limit| limit.parse::<f64>().ok()).filter(|limit| *limit > 0.0);
    let has_scope = ctx.root.prefix().as_os_str().is_empty() && Path::new("/run/systemd/system").is_dir();
    let property = match (key, limit) {
        ("cpulimit", Some(_)) if !has_scope => return Err(no_systemd()),
        _ if !has_scope => return Ok(()),
        ("cpulimit", limit) => {
            format!("CPUQuota={}", limit.map(|limit| format!("{}%", (limit * 100.0) as u64)).unwrap_or_default())
        }
        (_, units) => format!("CPUWeight={}", units.map_or(100, |units| (units as u64).clamp(1, 10_000))),
    };
    command::run("systemctl", &["set-property", "--runtime", &format!("{vmid}.scope"), &property]).map(drop)
}

fn no_systemd() -> Error {
    Error::new("option 'cpulimit' needs systemd, which does not run here")
}

/// The words in front of QEMU's command that put it into its scope. Nodes below a directory, and machines without
/// systemd, have no scopes; a limit of processor time is refused there.
pub fn prefix(ctx: &Context, vm: &Vm) -> Result<Vec<String>> {
    let limit = vm.text("cpulimit").and_then(|limit| limit.parse::<f64>().ok()).filter(|limit| *limit > 0.0);
    if !ctx.root.prefix().as_os_str().is_empty() || !Path::new("/run/systemd/system").is_dir() {
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
        format!("CPUWeight={}", vm.number("cpuunits").unwrap_or(100).clamp(1, 10000)),
    ];
    if let Some(limit) = limit {
        properties.push(format!("CPUQuota={}%", (limit * 100.0) as u64));
    }
    let mut words: Vec<String> =
        ["systemd-run", "--quiet", "--scope", "--collect", "--slice=qemu"].map(str::to_owned).into();
    words.push(format!("--unit={}", vm.vmid));
    words.push(format!("--description=VM {}", vm.vmid));
    words.extend(properties.into_iter().flat_map(|property| ["-p".to_owned(), property]));
    words.push("--".into());
    Ok(words)
}

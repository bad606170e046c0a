//! DHCP for containers whose network the host manages (`host-managed=1,ip=dhcp`): a client of the host's among the
//! container's links.
//!
//! The client's script sets address and route and touches no file, so it needs nothing of the container's own files. Name
//! servers are written with the container's other files before it starts. A client ends with the lease's interface or is
//! ended with the container. (PVE: LXC.pm manage_dhclient, kill_dhclients)

use super::interface::Interface;
use super::monitor;
use crate::process::ProcessId;
use crate::{Context, Result, Vmid, command, error::ResultExt, file};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};

/// What the client runs when a lease comes or goes.
const SCRIPT: &str = r#"#!/bin/sh
route() {
    ip "$1" route replace default via "$2" dev "$interface" || ip "$1" route replace default via "$2" dev "$interface" onlink
}
case "$reason" in
    PREINIT | PREINIT6)
        ip link set dev "$interface" up ;;
    BOUND | RENEW | REBIND | REBOOT)
        if [ -n "$old_ip_address" ] && [ "$old_ip_address" != "$new_ip_address" ]; then
            ip -4 address delete "$old_ip_address/${old_subnet_mask:-255.255.255.255}" dev "$interface"
        fi
        ip -4 address replace "$new_ip_address/${new_subnet_mask:-255.255.255.255}" dev "$interface"
        for router in $new_routers; do
            route -4 "$router"
            break
        done ;;
    EXPIRE | FAIL | RELEASE | STOP)
        [ -z "$old_ip_address" ] ||
            ip -4 address delete "$old_ip_address/${old_subnet_mask:-255.255.255.255}" dev "$interface" ;;
    BOUND6 | RENEW6 | REBIND6)
        ip -6 address replace "$new_ip6_address/${new_ip6_prefixlen:-128}" dev "$interface" ;;
    EXPIRE6 | RELEASE6 | STOP6)
        ip -6 address delete "$old_ip6_address/${old_ip6_prefixlen:-128}" dev "$interface" ;;
esac
exit 0
"#;

/// The families that have a client: the client's flag and the option of `netN`.
const FAMILIES: [(&str, &str); 2] = [("4", "ip"), ("6", "ip6")];

/// Where the clients of a container have their files.
pub fn directory(ctx: &Context, vmid: Vmid) -> PathBuf {
    monitor::directory(ctx, vmid).join("hook")
}

fn wants(net: &Interface, option: &str) -> bool {
    net.flag("host-managed") && !net.flag("link_down") && net.get(option) == Some("dhcp")
}

/// Families whose client an interface has in one form and not in the other.
fn only_in<'a>(one: Option<&'a Interface>, other: Option<&Interface>) -> impl Iterator<Item = (&'static str, &'a str)> {
    let other_name = |option: &str| other.filter(|net| wants(net, option)).map(|net| net.name().to_owned());
    let names = FAMILIES.map(|(family, option)| (family, one.filter(|net| wants(net, option)), other_name(option)));
    let of_one = names.into_iter().filter_map(|(family, net, other)| Some((family, net?.name(), other)));
    of_one.filter(|(_, name, other)| other.as_deref() != Some(*name)).map(|(family, name, _)| (family, name))
}

/// Starts the clients that an interface wants and did not have.
pub fn start(
    ctx: &Context,
    vmid: Vmid,
    init: ProcessId,
    old: Option<&Interface>,
    new: Option<&Interface>,
) -> Result<()> {
    for (family, name) in only_in(new, old) {
        let place = directory(ctx, vmid);
        fs::create_dir_all(&place).context(|| format!("unable to create '{}'", place.display()))?;
        file::replace_volatile(&place.join("script"), SCRIPT.as_bytes(), 0o755)?;
        run(&place, init, "-1", family, name)?;
    }
    Ok(())
}

/// Ends the clients that an interface does not want any more; their addresses go.
pub fn release(
    ctx: &Context,
    vmid: Vmid,
    init: ProcessId,
    old: Option<&Interface>,
    new: Option<&Interface>,
) -> Result<()> {
    for (family, name) in only_in(old, new) {
        let place = directory(ctx, vmid);
        let released = run(&place, init, "-r", family, name);
        end(&place.join(format!("dhclient{family}-{name}.pid")));
        released?;
    }
    Ok(())
}

/// Runs the host's client among the container's links. What it starts goes on by itself.
fn run(place: &Path, init: ProcessId, action: &str, family: &str, name: &str) -> Result<()> {
    let path = |end: &str| place.join(format!("dhclient{family}-{name}.{end}")).to_string_lossy().into_owned();
    let (pid, script, family) = (init.pid.to_string(), place.join("script"), format!("-{family}"));
    let (pid_file, leases, script) = (path("pid"), path("leases"), script.to_string_lossy());
    let mut words = vec!["-t", &pid, "--net", "--uts", "--"];
    // The profile of Debian's client allows it its own script only.
    if is_confined() {
        words.extend(["aa-exec", "-p", "unconfined", "--"]);
    }
    words.extend(["dhclient", action, "-q", &family, "-pf", &pid_file, "-lf", &leases, "-sf", &script, name]);
    command::run("nsenter", &words).map(drop)
}

fn is_confined() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Ends all clients of a container and removes their files.
pub fn end_all(ctx: &Context, vmid: Vmid) -> Result<()> {
    let place = directory(ctx, vmid);
    let entries = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|end| end == "pid")) {
        end(&path);
    }
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("unable to remove '{}'", place.display()))
        }
        _ => Ok(()),
    }
}

/// Ends the client that a file names, unless the number is another process's by now.
fn end(pid_file: &Path) {
    let pid =
        fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let words = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let is_ours = words.split(|byte| *byte == 0).any(|word| Path::new(&*String::from_utf8_lossy(word)) == pid_file);
    if is_ours {
        // It may have ended between the look and the signal.
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = fs::remove_file(pid_file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_managed_interfaces_have_a_client() {
        let net = |text: &str| Interface::parse(0, text).unwrap();
        assert!(wants(&net("name=eth0,ip=dhcp,host-managed=1"), "ip"));
        assert!(!wants(&net("name=eth0,ip=dhcp,host-managed=1"), "ip6"));
        assert!(!wants(&net("name=eth0,ip=dhcp"), "ip"));
        assert!(!wants(&net("name=eth0,ip=dhcp,host-managed=1,link_down=1"), "ip"));
        let (one, other) = (net("name=a,ip=dhcp,ip6=dhcp,host-managed=1"), net("name=a,ip6=dhcp,host-managed=1"));
        assert_eq!(only_in(Some(&one), Some(&other)).collect::<Vec<_>>(), [("4", "a")]);
        assert_eq!(only_in(Some(&other), None).collect::<Vec<_>>(), [("6", "a")]);
        assert_eq!(only_in(None, Some(&one)).count(), 0);
    }

    #[test]
    fn a_number_that_is_another_process_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let vmid = "100".parse().unwrap();
        let place = super::directory(&ctx, vmid);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("dhclient4-eth0.pid"), std::process::id().to_string()).unwrap();
        end_all(&ctx, vmid).unwrap();
        assert!(!place.exists());
    }
}

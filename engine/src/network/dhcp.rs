//! The DHCP client of an interface: `dhcpcd`, one process for each interface, which goes on by itself.
//!
//! (isc-dhcp-client is not looked after any more.) One that ifupdown has started before us is ended here, too: two clients
//! of one interface would take the address from each other.

use super::netlink::Netlink;
use crate::{Result, bail, command, host};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CLIENT: &str = "dhcpcd";
/// The client of ifupdown and ifupdown2.
const OLD_CLIENT: &str = "dhclient";
/// How long an apply waits for the first address; the client itself goes on asking.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits for a cable that carries nothing.
const PATIENCE_FOR_CARRIER: Duration = Duration::from_secs(5);
/// Names of the client's process files: for both families, IPv4, IPv6.
const FAMILIES: [(&str, Option<&str>); 3] = [("", None), ("-4", Some("-4")), ("-6", Some("-6"))];

/// Starts the client; one that runs goes on.
pub fn start(name: &str, four: bool, six: bool) -> Result<()> {
    if host::program_path(CLIENT).is_none() {
        bail!("'{name}' asks for DHCP, and no client is installed (need package 'dhcpcd-base')");
    }
    let family = match (four, six) {
        (true, false) => FAMILIES[1],
        (false, true) => FAMILIES[2],
        _ => FAMILIES[0],
    };
    if lives(&pid_file(name, family.0)) {
        return Ok(());
    }
    // Without an answer it must not invent an address, as it would (`-L`).
    let words = ["-q", "-b", "-L"].into_iter().chain(family.1).chain(["--", name]);
    command::run(CLIENT, &words.collect::<Vec<_>>()).map(drop)
}

/// Ends the client and gives the address back. One that does not run is no error. Name servers stay as they are.
pub fn stop(name: &str) -> Result<()> {
    let servers = Path::new("/etc/resolv.conf");
    let known = std::fs::read(servers).unwrap_or_default();
    for (suffix, family) in FAMILIES {
        let file = pid_file(name, suffix);
        let words: Vec<&str> = ["-q", "-k"].into_iter().chain(family).chain(["--", name]).collect();
        // A client that is about to run its scripts misses the signal.
        for _ in 0..3 {
            if lives(&file) {
                let _ = command::run(CLIENT, &words);
            }
        }
        if lives(&file) {
            bail!("the DHCP client of '{name}' does not end");
        }
    }
    for (old, family) in [("dhclient", "-4"), ("dhclient6", "-6")] {
        let file = PathBuf::from(format!("/run/{old}.{name}.pid"));
        if lives(&file) {
            let leases = format!("/var/lib/dhcp/{old}.{name}.leases");
            command::run(OLD_CLIENT, &[family, "-r", "-pf", &file.display().to_string(), "-lf", &leases, name])?;
        }
    }
    let has_server = |text: &[u8]| text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"nameserver"));
    if has_server(&known) && !has_server(&std::fs::read(servers).unwrap_or_default()) {
        crate::file::replace(servers, &known, 0o644)?;
    }
    Ok(())
}

/// Whether a client of this interface runs.
pub fn runs(name: &str) -> bool {
    let old = ["dhclient", "dhclient6"].map(|old| PathBuf::from(format!("/run/{old}.{name}.pid")));
    FAMILIES.iter().map(|(suffix, _)| pid_file(name, suffix)).chain(old).any(|file| lives(&file))
}

/// Waits until interfaces that have just begun to ask have an address. None in time is worth a warning and no more.
pub fn await_leases(netlink: &Netlink, mut names: Vec<(String, bool)>, log: &mut dyn FnMut(&str)) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut waiting = Vec::new();
        for (name, four) in names {
            let nets = netlink.addresses_of(&name).unwrap_or_default();
            let net = nets.into_iter().find(|net| net.address.is_ipv4() == four && !net.is_link_local());
            match net {
                Some(net) => log(&format!("{name}: has address {net}")),
                None => waiting.push((name, four)),
            }
        }
        let is_late = |name: &str| {
            let carrier = std::fs::read_to_string(format!("/sys/class/net/{name}/carrier")).unwrap_or_default();
            begin.elapsed() > if carrier.starts_with('1') { PATIENCE } else { PATIENCE_FOR_CARRIER }
        };
        let (late, still): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(name, _)| is_late(name));
        for (name, _) in late {
            log(&format!("warning: '{name}' has no address from a DHCP server yet; its client goes on asking"));
        }
        if still.is_empty() {
            return Ok(());
        }
        names = still;
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn pid_file(name: &str, suffix: &str) -> PathBuf {
    PathBuf::from(format!("/run/dhcpcd/{name}{suffix}.pid"))
}

/// Whether the process that a file names is a DHCP client that lives.
fn lives(file: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    let Ok(pid) = text.trim().parse::<u32>() else { return false };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim(), CLIENT | OLD_CLIENT)
}

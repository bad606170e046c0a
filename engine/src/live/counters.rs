//! Network counters of guests, from the interfaces of the node. What the node sends into an interface is what the guest
//! receives. (PVE: pve-common PVE/ProcFSTools.pm, read_proc_net_dev; pve-manager PVE/API2/Nodes.pm, netstat)

/// An interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    /// The guest's number.
    pub vmid: u32,
    /// The number of its network device.
    pub device: u32,
    /// Bytes that the guest received.
    pub received: u64,
    /// Bytes that the guest sent.
    pub sent: u64,
}

/// The interfaces of all guests that run now, by guest and device.
pub fn read() -> Vec<Counter> {
    parse(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

fn parse(text: &str) -> Vec<Counter> {
    let mut counters: Vec<Counter> = text.lines().filter_map(parse_line).collect();
    counters.sort_unstable();
    counters
}

/// `tapVMIDiN: RECEIVED … SENT …`; the ninth number is what was sent.
fn parse_line(line: &str) -> Option<Counter> {
    let (name, numbers) = line.split_once(':')?;
    let name = name.trim();
    let (vmid, device) = name.strip_prefix("tap").or_else(|| name.strip_prefix("veth"))?.split_once('i')?;
    let mut numbers = numbers.split_ascii_whitespace();
    let from_guest = numbers.next()?.parse().ok()?;
    let to_guest = numbers.nth(7)?.parse().ok()?;
    Some(Counter { vmid: vmid.parse().ok()?, device: device.parse().ok()?, received: to_guest, sent: from_guest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_of_guests_count() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10\n\
            veth101i0: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\ntap100i12:     30 1 0 0 0 0 0 0      40 1 0 0 0 0 0 0\n\
            tapx: 1 1 0 0 0 0 0 0 1 1\n";
        let counter = |vmid, device, received, sent| Counter { vmid, device, received, sent };
        assert_eq!(parse(text), [counter(100, 12, 40, 30), counter(101, 0, 20, 10)]);
    }
}

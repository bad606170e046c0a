//! Tickets of SPICE displays: a password for QEMU that is good for one login, and a signed "host name" with which a viewer
//! asks the SPICE proxy for its connection. The name travels in the clear and is worth nothing without the password.
//!
//! ```text
//! pvespiceproxy:TTTTTTTT:VMID:NODE:PORT::SIGNATURE      viewers ask for it with `:PORT` behind it
//! ```
//! (PVE: pve-common PVE/Ticket.pm, assemble_spice_ticket; all in lower case, because viewers make it so)

use super::keys;
use crate::{Context, Result, Vmid};
use openssl::sha::sha1;

/// The ports of SPICE displays. (PVE: pve-common PVE/Tools.pm, spice_port_range)
pub const PORTS: std::ops::RangeInclusive<u16> = 61000..=61999;

/// How long a name holds, in seconds; and how far clocks may be apart.
const LIFETIME: i64 = 40;
const SKEW: i64 = 20;

/// What a viewer gets.
pub struct SpiceTicket {
    /// For QEMU, with `set_password`. Secret.
    pub password: String,
    /// The name to ask the proxy for.
    pub host: String,
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The guest.
    pub vmid: Vmid,
    /// The node that it runs on.
    pub node: String,
    /// The port of its display there.
    pub port: u16,
}

/// Makes a ticket for the display of a guest on this node.
pub fn assemble(ctx: &Context, vmid: Vmid, port: u16) -> Result<SpiceTicket> {
    keys::ensure_csrf_secret(ctx)?;
    let mut random = [0; 20];
    openssl::rand::rand_bytes(&mut random).expect("the system's random source is always there");
    let plain =
        format!("pvespiceproxy:{:08x}:{vmid}:{}:{port}", ctx.clock.now(), ctx.node.to_string().to_ascii_lowercase());
    let signature = signature(ctx, &plain)?;
    Ok(SpiceTicket { password: crate::types::hex(&random), host: format!("{plain}::{signature}") })
}

/// Reads `NAME:PORT` as a viewer asks for it; `None` when it is forged, too old, or asks for another port.
pub fn verify(ctx: &Context, asked: &str) -> Option<Destination> {
    let (plain, rest) = asked.split_once("::")?;
    let (given, port) = rest.split_once(':')?;
    let port: u16 = port.parse().ok()?;
    let parts: Vec<&str> = plain.split(':').collect();
    let ["pvespiceproxy", time, vmid, node, signed_port] = parts.as_slice() else { return None };
    if time.len() != 8 || signed_port.parse() != Ok(port) || !PORTS.contains(&port) {
        return None;
    }
    let age = ctx.clock.now() - i64::from_str_radix(time, 16).ok()?;
    let expected = signature(ctx, plain).ok()?;
    let same = expected.len() == given.len() && openssl::memcmp::eq(expected.as_bytes(), given.as_bytes());
    if !same || age <= -SKEW || age >= LIFETIME {
        return None;
    }
    Some(Destination { vmid: vmid.parse().ok()?, node: (*node).to_owned(), port })
}

fn signature(ctx: &Context, plain: &str) -> Result<String> {
    let secret = keys::csrf_secret(ctx)?;
    Ok(crate::types::hex(&sha1(format!("{plain}{secret}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    #[test]
    fn a_name_leads_to_its_port_for_a_short_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut ctx = Context { clock: Clock::Fixed(0x6512_abcd), ..Context::for_test(directory.path()) };
        std::fs::create_dir_all(directory.path().join("etc/pve")).unwrap();
        std::fs::write(ctx.root.etc_pve("pve-www.key"), "secret\n").unwrap();
        let vmid = "100".parse().unwrap();
        let ticket = assemble(&ctx, vmid, 61003).unwrap();
        assert!(ticket.host.starts_with("pvespiceproxy:6512abcd:100:"), "{}", ticket.host);
        assert_eq!((ticket.password.len(), ticket.host.to_lowercase()), (40, ticket.host.clone()));
        let asked = format!("{}:61003", ticket.host);
        assert_eq!(verify(&ctx, &asked).map(|to| (to.vmid, to.port)), Some((vmid, 61003)));
        let forged = [
            format!("{}:61004", ticket.host),
            ticket.host.clone(),
            asked.replace(":100:", ":101:"),
            asked.replace("6512abcd", "6512abce"),
            asked.replace("::", ":"),
            String::new(),
        ];
        for asked in &forged {
            assert_eq!(verify(&ctx, asked), None, "{asked}");
        }
        ctx.clock = Clock::Fixed(0x6512_abcd + LIFETIME);
        assert_eq!(verify(&ctx, &asked), None);
    }
}

//! Network cards: the host's end (a tap device on a bridge, or user-mode networking) and the card.

use super::builder::{Builder, fail};
use crate::Result;
use crate::qemu::config::NetDevice;

/// Adds all cards.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    for (number, net) in builder.vm.nets()?.into_iter().filter(|(number, _)| *number < 32) {
        let id = format!("net{number}");
        let host_end = host_end(builder, &net, number)?;
        builder.device_option("-netdev", host_end);
        builder.uses(10, 0, 1);
        let card = card(builder, &net, &id)?;
        builder.device(card);
    }
    Ok(())
}

/// The name of a card's tap device.
pub fn tap_name(vmid: crate::Vmid, number: u32) -> String {
    format!("tap{vmid}i{number}")
}

fn host_end(builder: &Builder, net: &NetDevice, number: u32) -> Result<String> {
    let vm = &builder.vm;
    let queues = net.queues().filter(|_| net.model() == "virtio").map(|queues| format!(",queues={queues}"));
    let queues = queues.unwrap_or_default();
    if net.bridge().is_none() {
        return Ok(format!("type=user,id=net{number},hostname={}{queues}", vm.name()));
    }
    let tap = tap_name(vm.vmid, number);
    if tap.len() >= 16 {
        return fail(format!("interface name '{tap}' is too long (max 15 character)"));
    }
    let vhost =
        if builder.is_native && builder.host.has_vhost_net() && net.model() == "virtio" { ",vhost=on" } else { "" };
    Ok(format!(
        "type=tap,id=net{number},ifname={tap},script=/usr/libexec/qemu-server/pve-bridge,\
         downscript=/usr/libexec/qemu-server/pve-bridgedown{vhost}{queues}"
    ))
}

/// The card as the guest sees it. (PVE: QemuServer.pm, print_netdevice_full)
fn card(builder: &mut Builder, net: &NetDevice, id: &str) -> Result<String> {
    let is_virtio = net.model() == "virtio";
    let model = if is_virtio { "virtio-net-pci".to_owned() } else { net.model() };
    let address = builder.pci_address(id);
    let mac = net.mac().unwrap_or_else(|| stable_mac(builder.vm.vmid, id));
    let mut card = format!("{model},mac={mac},netdev={id}{address},id={id}");
    let is_recent = builder.at_least(7, 1);
    if let Some(queues) = net.queues().filter(|queues| *queues > 1 && is_virtio) {
        card += &format!(",vectors={},mq=on", queues * 2 + 2);
        card += if is_recent { ",packed=on" } else { "" };
    }
    if is_recent && is_virtio {
        card += ",rx_queue_size=1024,tx_queue_size=256";
    }
    card += &builder.boot_index(id);
    card += &mtu(builder, net, id)?;
    card += old_boot_code(builder, &model);
    if is_virtio {
        let off = if builder.version.at_least(11, 0, 1) {
            net.host_tunnel() != Some(true)
        } else {
            builder.at_least(10, 2) && net.host_tunnel() == Some(false)
        };
        card += if off { ",host_tunnel=off" } else { "" };
    }
    Ok(card)
}

/// virtio tells the guest the MTU of its bridge, or a smaller one.
fn mtu(builder: &mut Builder, net: &NetDevice, id: &str) -> Result<String> {
    let is_virtio = net.model() == "virtio";
    let told = builder.options.mtus.get(id).copied();
    if told == Some(0) {
        builder.notes.push(format!("netdev {id}: not adding 'host_mtu' parameter for migration compat"));
    }
    let bridge = net.bridge().filter(|_| is_virtio && told != Some(0));
    let Some(bridge) = bridge else {
        if let Some(mtu) = net.mtu() {
            let reason = match (told, net.bridge()) {
                (Some(0), _) => ", not used on the source side according to migration parameters",
                (_, None) => ", no bridge configured",
                _ => ", not using VirtIO",
            };
            if told != Some(0) || builder.version.at_least(10, 0, 1) || mtu != 1500 {
                builder.warnings.push(format!("netdev {id}: ignoring MTU '{mtu}'{reason}"));
            }
        }
        return Ok(String::new());
    };
    let Some(of_bridge) = builder.host.bridge_mtu(&bridge) else {
        return fail(format!("bridge '{bridge}' does not exist"));
    };
    if let Some(mtu) = told {
        builder.notes.push(format!("netdev {id}: using 'host_mtu={mtu}' for migration compat"));
    }
    let mtu = match told.or(net.mtu()) {
        None | Some(1) => of_bridge,
        Some(mtu) if mtu < 576 => {
            return fail(format!("netdev {id}: MTU '{mtu}' is smaller than the IP minimum MTU '576'"));
        }
        Some(mtu) if mtu > of_bridge => {
            return fail(format!(
                "netdev {id}: MTU '{mtu}' is bigger than the bridge MTU '{of_bridge}' - adjust the MTU for the network \
                 device in the VM configuration, while ensuring that the bridge is configured as desired."
            ));
        }
        Some(mtu) => mtu,
    };
    let shows = mtu != 1500 || builder.version.at_least(10, 0, 1) || told.is_some();
    Ok(if shows { format!(",host_mtu={mtu}") } else { String::new() })
}

/// Boot code of before QEMU 2.4, which guests of that time know.
fn old_boot_code(builder: &Builder, model: &str) -> &'static str {
    if !builder.has_old_boot_code {
        return "";
    }
    match model {
        "virtio-net-pci" => ",romfile=pxe-virtio.rom",
        "e1000" => ",romfile=pxe-e1000.rom",
        "e1000e" => ",romfile=pxe-e1000e.rom",
        "pcnet" => ",romfile=pxe-pcnet.rom",
        "rtl8139" => ",romfile=pxe-rtl8139.rom",
        _ => "",
    }
}

/// An address for a card that was written into the file without one: the same at each start.
fn stable_mac(vmid: crate::Vmid, id: &str) -> String {
    let sum = openssl::sha::sha256(format!("{vmid} {id}").as_bytes());
    format!("BC:24:11:{:02X}:{:02X}:{:02X}", sum[0], sum[1], sum[2])
}

//! Devices that come and go while a VM runs.
//!
//! What a change means for QEMU is the difference of two command lines: the one that the VM has and the one that it would
//! get. So a device that is plugged looks to the guest exactly as it will after the next start. Whatever differs besides
//! devices, their back ends and helper objects cannot be changed now.

use super::command_line::local;
use super::config::Vm;
use super::launch::{self, Start};
use super::qmp::{self, Monitor};
use super::{spice, status};
use crate::config::guest::Part;
use crate::{Context, Error, Result, Vmid, network};
use serde_json::{Map, Value, json};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a guest may take to let a device go. (PVE: QemuServer.pm, qemu_devicedelverify)
const PATIENCE: Duration = Duration::from_secs(5);

/// One option of a command line with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    option: String,
    value: String,
}

/// What has to go and what has to come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    removed: Vec<Item>,
    added: Vec<Item>,
}

fn items(command: &[String]) -> Vec<Item> {
    let mut found = Vec::new();
    let mut words = command.iter().peekable();
    while let Some(option) = words.next() {
        let value = words.next_if(|word| !word.starts_with('-')).cloned().unwrap_or_default();
        found.push(Item { option: option.clone(), value });
    }
    found
}

impl Difference {
    fn of(old: &[String], new: &[String]) -> Self {
        let (old, mut added) = (items(old), items(new));
        let mut removed = Vec::new();
        for item in old {
            match added.iter().position(|other| *other == item) {
                Some(place) => drop(added.remove(place)),
                None => removed.push(item),
            }
        }
        Difference { removed, added }
    }

    /// Whether only devices and what belongs to them differ, and none of them merely changes.
    fn can_be_plugged(&self) -> bool {
        const KINDS: [&str; 6] = ["-device", "-drive", "-blockdev", "-netdev", "-chardev", "-object"];
        let known = |item: &Item| KINDS.contains(&item.option.as_str());
        let changes =
            |item: &Item| self.added.iter().any(|other| other.option == item.option && other.id() == item.id());
        self.removed.iter().chain(&self.added).all(known) && !self.removed.iter().any(changes)
    }
}

impl Item {
    fn new_json(&self) -> Option<Value> {
        serde_json::from_str(&self.value).ok()
    }

    fn key(&self, wanted: &str) -> Option<String> {
        if let Some(json) = self.new_json() {
            return json[wanted].as_str().map(str::to_owned);
        }
        self.value.split(',').find_map(|part| part.strip_prefix(wanted)?.strip_prefix('=')).map(str::to_owned)
    }

    /// The name by which QEMU knows it.
    fn id(&self) -> String {
        self.key("id").or_else(|| self.key("node-name")).unwrap_or_default()
    }

    /// Key-value text as the object that QMP wants: `on`, `off` and sizes have their own types there.
    fn arguments(&self, first: &str) -> Value {
        let mut map = Map::new();
        for (place, part) in self.value.split(',').enumerate() {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, value),
                None if place == 0 => (first, part),
                None => (part, "on"),
            };
            let key = if key == "type" { first } else { key };
            let value = match value {
                "on" => true.into(),
                "off" => false.into(),
                _ if key == "size" => crate::storage::parse_size(value).map_or_else(|| value.into(), Value::from),
                text => text.into(),
            };
            map.insert(key.to_owned(), value);
        }
        Value::Object(map)
    }
}

/// Takes a running VM from one configuration to another; `None` when that needs a new start. What has come is taken away
/// again when a later part fails.
pub fn change(ctx: &Context, vmid: Vmid, old: &Part, new: &Part) -> Option<Result<()>> {
    let plans = || -> Result<(local::Local, local::Local)> {
        let machine = status::running_machine(&Vm::new(vmid, old), &mut Monitor::connect(ctx, vmid)?)?;
        // Both lines name the same port, whatever it is.
        let how = Start { machine, spice_port: Some(*spice::PORTS.start()), ..Start::default() };
        let places = local::Places::of(ctx, vmid);
        let local = |part: &Part| -> Result<local::Local> {
            let plan = launch::plan(ctx, &Vm::new(vmid, part), &how)?;
            local::localise(&plan, &ctx.host, ctx.host.qemu_version()?, &places)
        };
        Ok((local(old)?, local(new)?))
    };
    let (before, after) = match plans() {
        Ok(plans) => plans,
        Err(error) => return Some(Err(error)),
    };
    // The names of taps are not in the command: their numbers tell the two apart.
    let difference = Difference::of(&before.command, &after.command);
    if !difference.can_be_plugged() {
        return None;
    }
    Some(unplug(ctx, vmid, &difference.removed).and_then(|()| plug(ctx, vmid, new, &after, &difference.added)))
}

fn plug(ctx: &Context, vmid: Vmid, new: &Part, after: &local::Local, added: &[Item]) -> Result<()> {
    let order = |item: &Item| match item.option.as_str() {
        "-object" => 0,
        "-device" => 2,
        _ => 1,
    };
    let mut sorted: Vec<&Item> = added.iter().collect();
    sorted.sort_by_key(|item| order(item));
    let mut done: Vec<Item> = Vec::new();
    for item in sorted {
        if let Err(error) = add(ctx, vmid, new, after, item) {
            done.reverse();
            let undone = unplug(ctx, vmid, &done);
            return Err(error.with_cleanup_failures(&undone.err().into_iter().collect::<Vec<_>>()));
        }
        done.push(item.clone());
    }
    Ok(())
}

fn add(ctx: &Context, vmid: Vmid, new: &Part, after: &local::Local, item: &Item) -> Result<()> {
    let mut monitor = Monitor::connect(ctx, vmid)?;
    match item.option.as_str() {
        "-object" => {
            monitor.execute("object-add", item.new_json().unwrap_or_else(|| item.arguments("qom-type"))).map(drop)
        }
        "-blockdev" => monitor.execute("blockdev-add", item.new_json().unwrap_or_default()).map(drop),
        "-netdev" => {
            let mut arguments = item.arguments("type");
            let id = item.id();
            if arguments["type"] == "tap" {
                let number = id.trim_start_matches("net").parse().map_err(|_| Error::new("a card has no number"))?;
                let device = tap(ctx, vmid, new, after, number)?;
                for (place, queue) in device.queues.iter().enumerate() {
                    monitor.send_descriptor(&format!("{id}-{place}"), queue.as_fd())?;
                }
                let names: Vec<String> = (0..device.queues.len()).map(|place| format!("{id}-{place}")).collect();
                let key = if names.len() == 1 { "fd" } else { "fds" };
                arguments[key] = names.join(":").into();
            }
            monitor.execute("netdev_add", arguments).map(drop)
        }
        "-drive" => {
            drop(monitor);
            let answer = qmp::human(ctx, vmid, &format!("drive_add auto {}", quoted(&item.value)))?;
            if answer.trim() == "OK" {
                Ok(())
            } else {
                Err(Error::new(format!("adding drive failed: {}", answer.trim())))
            }
        }
        "-device" => {
            drop(monitor);
            let answer = qmp::human(ctx, vmid, &format!("device_add {}", quoted(&item.value)))?;
            match answer.trim() {
                "" => Ok(()),
                text => Err(Error::new(format!("adding device failed: {text}"))),
            }
        }
        other => Err(Error::new(format!("'{other}' cannot be added to a running VM"))),
    }
}

/// One word of the human monitor, whatever it holds.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn tap(ctx: &Context, vmid: Vmid, new: &Part, after: &local::Local, number: u32) -> Result<network::TapDevice> {
    let nets = Vm::new(vmid, new).nets()?;
    let net = nets.iter().find(|(found, _)| *found == number).map(|(_, net)| net);
    let port = net.map(|net| net.port(vmid, number)).transpose()?.flatten();
    let port = port.ok_or_else(|| Error::new(format!("net{number} has no bridge")))?;
    let queues = after.taps.iter().find(|tap| tap.name == port.name).map_or(1, |tap| tap.queues);
    network::port::check(ctx, &port)?;
    network::create_tap(ctx, &port, queues)
}

fn unplug(ctx: &Context, vmid: Vmid, removed: &[Item]) -> Result<()> {
    let of = |option: &'static str| removed.iter().filter(move |item| item.option == option);
    // Devices go before the controllers that they hang on.
    for item in of("-device").collect::<Vec<_>>().into_iter().rev() {
        remove_device(ctx, vmid, &item.id())?;
    }
    let mut monitor = Monitor::connect(ctx, vmid)?;
    for item in of("-netdev") {
        monitor.execute("netdev_del", json!({"id": item.id()}))?;
    }
    for item in of("-blockdev") {
        monitor.execute("blockdev-del", json!({"node-name": item.id()}))?;
    }
    for item in of("-chardev") {
        monitor.execute("chardev-remove", json!({"id": item.id()}))?;
    }
    drop(monitor);
    for item in of("-drive") {
        // It goes with its device, when that was plugged as well.
        let answer = qmp::human(ctx, vmid, &format!("drive_del {}", item.id()))?;
        if !answer.trim().is_empty() && !answer.contains("not found") {
            crate::bail!("deleting drive {} failed: {}", item.id(), answer.trim());
        }
    }
    let mut monitor = Monitor::connect(ctx, vmid)?;
    for item in of("-object") {
        monitor.execute("object-del", json!({"id": item.id()}))?;
    }
    Ok(())
}

fn remove_device(ctx: &Context, vmid: Vmid, id: &str) -> Result<()> {
    if id.is_empty() {
        crate::bail!("a device without a name cannot be removed");
    }
    if !is_there(ctx, vmid, id)? {
        return Ok(());
    }
    qmp::execute(ctx, vmid, "device_del", json!({"id": id}))?;
    let until = Instant::now() + PATIENCE;
    while is_there(ctx, vmid, id)? {
        if Instant::now() > until {
            crate::bail!("error on hot-unplugging device '{id}'");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn is_there(ctx: &Context, vmid: Vmid, id: &str) -> Result<bool> {
    let devices = qmp::execute(ctx, vmid, "qom-list", json!({"path": "/machine/peripheral"}))?;
    Ok(devices.as_array().into_iter().flatten().any(|device| device["name"] == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_new_device_with_its_back_end_is_a_difference() {
        let old = words("qemu -nodefaults -device vga,id=vga");
        let new = words(
            "qemu -nodefaults -object iothread,id=io1 -device vga,id=vga -drive file=/a,id=drive-scsi1 -device scsi-hd,id=scsi1",
        );
        let difference = Difference::of(&old, &new);
        assert!(difference.removed.is_empty() && difference.can_be_plugged());
        let options: Vec<(&str, String)> =
            difference.added.iter().map(|item| (item.option.as_str(), item.id())).collect();
        assert_eq!(options, [("-object", "io1".into()), ("-drive", "drive-scsi1".into()), ("-device", "scsi1".into())]);
    }

    #[test]
    fn changes_of_devices_and_of_the_machine_wait() {
        let old = words("qemu -smp 1 -device scsi-hd,id=scsi0,bootindex=100");
        assert!(!Difference::of(&old, &words("qemu -smp 2 -device scsi-hd,id=scsi0,bootindex=100")).can_be_plugged());
        assert!(!Difference::of(&old, &words("qemu -smp 1 -device scsi-hd,id=scsi0,bootindex=101")).can_be_plugged());
        assert!(Difference::of(&old, &words("qemu -smp 1")).can_be_plugged());
    }

    #[test]
    fn arguments_have_the_types_of_qmp() {
        let item = Item { option: "-netdev".into(), value: "type=tap,id=net0,vhost=on".into() };
        assert_eq!(item.arguments("type"), json!({"type": "tap", "id": "net0", "vhost": true}));
        let item = Item { option: "-object".into(), value: "memory-backend-ram,id=mem-dimm0,size=512M".into() };
        assert_eq!(item.arguments("qom-type")["size"], 512 << 20);
    }
}

//! From PVE's command line to the one that runs on this machine.
//!
//! The distribution's QEMU has neither `-id` nor machine revisions, and PVE's helper files are not installed; so:
//!
//! | PVE | here | why |
//! | --- | --- | --- |
//! | `/usr/bin/kvm` | `qemu-system-x86_64` and `accel=kvm` | the distribution's program, which emulates unless it is told |
//! | `-id N` | left out | only Proxmox's build knows it |
//! | `type=pc+pve1` | `type=pc` | likewise; the revision has already decided which options are there |
//! | `-no-shutdown` | left out | a guest that powers itself off ends its QEMU; nobody has to be there to end it |
//! | events to `qmeventd.sock` | a socket of the VM's own | guests need no daemon; who wants events connects |
//! | `script=pve-bridge` | `fds=…` of a tap that is on the bridge already | the tap goes when QEMU goes, however that ends |
//! | `-readconfig pve-….cfg` | the same devices as `-device` | the file is not ours to install |
//! | firmware of `pve-edk2-firmware` | that of Debian's `ovmf` | it is the same |
//! | `splash=…` | left out when the file is missing | QEMU would complain |
//! | `aio=io_uring` | `aio=threads` where the kernel refuses io_uring | QEMU would not start |
//! | `-spice …` | the node's certificate added | Proxmox's build has its place built in |
//! | SPICE | left out with what hangs on it, refused for QXL | only where the installed QEMU has none |

use super::{Plan, board, firmware, local_check};
use crate::host::{Host, QemuVersion};
use crate::qemu::files;
use crate::{Context, Error, Result, Vmid};

/// What runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Program and arguments. A tap's descriptors are not known yet: see [`Tap`].
    pub command: Vec<String>,
    /// Tap devices to make before the start.
    pub taps: Vec<Tap>,
}

/// A tap device that QEMU gets as open descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// How many queues it has.
    pub queues: usize,
    /// Where in the command its `-netdev` stands.
    position: usize,
}

impl Local {
    /// Puts the descriptors of a tap into the command.
    pub fn set_descriptors(&mut self, tap: &Tap, descriptors: &[i32]) {
        let list: Vec<String> = descriptors.iter().map(i32::to_string).collect();
        let key = if list.len() == 1 { "fd" } else { "fds" };
        self.command[tap.position] += &format!(",{key}={}", list.join(":"));
    }
}

/// Where files of the node lie that the plan does not name.
#[derive(Debug, Clone)]
pub struct Places {
    /// The VM's event socket.
    pub events: String,
    /// The node's certificate without its ending, as `…/pve-ssl`.
    pub certificate: String,
    /// The certificate of the authority.
    pub authority: String,
}

impl Places {
    /// Those of a VM of this node.
    pub fn of(ctx: &Context, vmid: Vmid) -> Self {
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        Places {
            events: text(files::event_socket(ctx, vmid)),
            certificate: text(ctx.root.etc_pve(&format!("nodes/{}/pve-ssl", ctx.node))),
            authority: text(ctx.root.etc_pve("pve-root-ca.pem")),
        }
    }

    fn spice(&self, value: &str) -> String {
        let Places { certificate, authority, .. } = self;
        format!("{value},x509-key-file={certificate}.key,x509-cert-file={certificate}.pem,x509-cacert-file={authority}")
    }
}

/// Changes a plan into what is started here.
pub fn localise(plan: &Plan, host: &Host, qemu: &QemuVersion, places: &Places) -> Result<Local> {
    local_check::check(&plan.command, qemu)?;
    let has_spice = host.has_spice();
    let mut command = Vec::with_capacity(plan.command.len());
    let mut taps = Vec::new();
    let has_spice_agent = plan.command.iter().any(|word| word.starts_with("spicevmc,id=vdagent"));
    let mut words = plan.command.iter().cloned().peekable();
    while let Some(word) = words.next() {
        let value = words.peek().cloned().unwrap_or_default();
        match (word.as_str(), value.as_str()) {
            ("/usr/bin/kvm", _) => command.push(host.qemu_program().to_owned()),
            ("-no-shutdown", _) => {}
            ("-id", _) if !qemu.proxmox => drop(words.next()),
            ("-spice", value) if has_spice => {
                words.next();
                command.extend([word, places.spice(value)]);
            }
            ("-device", value) if !has_spice && value.starts_with("qxl") => {
                return Err(Error::new(
                    "option 'vga: qxl' needs SPICE, which the installed QEMU has not; \
                     see whether there is a package 'qemu-system-modules-spice'",
                ));
            }
            ("-device", value) if value.starts_with("virtio-vga-gl") && !qemu.proxmox && !host.has_3d() => {
                return Err(Error::new(
                    "option 'vga: virtio-gl' needs a module of QEMU that is not installed; \
                     see whether it is in the package 'qemu-system-gui'",
                ));
            }
            ("-spice" | "-chardev" | "-device", value)
                if !has_spice && is_part_of_spice(&word, value, has_spice_agent) =>
            {
                drop(words.next());
            }
            // This watchdog sits on the ISA bus; PVE gives it a place on the other.
            ("-device", value) if value.starts_with("ib700,") => {
                words.next();
                command.extend([word, "ib700".to_owned()]);
            }
            ("-audiodev", value) if !has_spice && value.starts_with("spice,") => {
                words.next();
                command.extend([word, value.replacen("spice,", "none,", 1)]);
            }
            ("-readconfig", file) if board::devices(file).is_some() => {
                let devices = board::devices(file).unwrap_or_default();
                words.next();
                command.extend(devices.into_iter().flat_map(|device| ["-device".to_owned(), device]));
            }
            ("-bios" | "-drive" | "-blockdev", value) if value.contains(firmware::DIRECTORY) => {
                words.next();
                command.extend([word, with_firmware_here(value)]);
            }
            ("-chardev", value) if value.starts_with("socket,id=qmp-event,") => {
                words.next();
                let chardev = format!("socket,id=qmp-event,path={},server=on,wait=off", places.events);
                command.extend([word, chardev]);
            }
            ("-boot", value) => {
                words.next();
                command.extend([word, without_missing_splash(value)]);
            }
            ("-machine", value) => {
                words.next();
                let machine = if qemu.proxmox { value.to_owned() } else { without_revision(value) };
                command.extend([word, with_accelerator(machine, &plan.command)]);
            }
            ("-drive" | "-blockdev", value) if !host.has_io_uring() => {
                words.next();
                let value = value.replace("aio=io_uring", "aio=threads");
                command.extend([word, value.replace(r#""aio":"io_uring""#, r#""aio":"threads""#)]);
            }
            ("-netdev", value) if value.starts_with("type=tap,") => {
                words.next();
                command.extend([word, descriptor_netdev(value, command.len() + 1, &mut taps)]);
            }
            _ => command.push(word),
        }
    }
    Ok(Local { command, taps })
}

/// Whether an option is SPICE's own or hangs on it. The clipboard of VNC uses the agent's port without SPICE and keeps it.
fn is_part_of_spice(option: &str, value: &str, has_agent: bool) -> bool {
    let begins = |texts: &[&str]| texts.iter().any(|text| value.starts_with(text));
    match option {
        "-spice" => true,
        "-chardev" => begins(&["spicevmc", "spiceport"]),
        _ if has_agent && value.starts_with("virtserialport,chardev=vdagent") => true,
        _ => begins(&["usb-redir,chardev=usbredirchardev", "virtserialport,chardev=foldershare"]),
    }
}

fn without_missing_splash(value: &str) -> String {
    let keep = |part: &&str| part.strip_prefix("splash=").is_none_or(|file| std::path::Path::new(file).exists());
    value.split(',').filter(keep).collect::<Vec<_>>().join(",")
}

fn without_revision(value: &str) -> String {
    let part = |part: &str| match part.split_once("+pve") {
        Some((machine, _)) if part.starts_with("type=") => machine.to_owned(),
        _ => part.to_owned(),
    };
    value.split(',').map(part).collect::<Vec<_>>().join(",")
}

/// Only a program whose name ends with `kvm` uses KVM unasked. What the administrator's own arguments say goes first.
fn with_accelerator(machine: String, command: &[String]) -> String {
    let is_chosen = machine.split(',').any(|part| part.starts_with("accel="));
    let has_own =
        command.iter().any(|word| matches!(word.as_str(), "-accel" | "-enable-kvm" | "--accel" | "--enable-kvm"));
    if is_chosen || has_own { machine } else { format!("{machine},accel=kvm") }
}

/// Takes scripts and name out of a tap's option and notes which tap has to be made.
fn descriptor_netdev(value: &str, position: usize, taps: &mut Vec<Tap>) -> String {
    let mut tap = Tap { name: String::new(), queues: 1, position };
    let mut kept = Vec::new();
    for part in value.split(',') {
        match part.split_once('=') {
            Some(("ifname", name)) => tap.name = name.to_owned(),
            Some(("queues", count)) => tap.queues = count.parse().unwrap_or(1),
            Some(("script" | "downscript", _)) => {}
            _ => kept.push(part),
        }
    }
    taps.push(tap);
    kept.join(",")
}

/// Debian's packages put the same firmware elsewhere.
fn with_firmware_here(value: &str) -> String {
    let Some(start) = value.find(firmware::DIRECTORY) else { return value.to_owned() };
    let length = value[start..].find([',', '"']).unwrap_or(value.len() - start);
    let file = &value[start..start + length];
    match crate::host::firmware_here(file) {
        Some(here) => format!("{}{}{}", &value[..start], here.display(), &value[start + length..]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Preparations;
    use super::*;
    use serde_json::json;

    fn local(words: &[&str]) -> Local {
        local_with(words, false)
    }

    fn local_with(words: &[&str], spice: bool) -> Local {
        let facts = json!({"qemu_version": "7.2.22 (Debian)", "io_uring": false, "spice": spice});
        let host = Host::with_overrides(facts.as_object().unwrap().clone());
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        let plan = Plan { command, warnings: Vec::new(), notes: Vec::new(), preparations: Preparations::default() };
        let places =
            Places { events: "/run/x-event.qmp".into(), certificate: "/c".into(), authority: "/ca.pem".into() };
        localise(&plan, &host, host.qemu_version().unwrap(), &places).unwrap()
    }

    #[test]
    fn what_only_proxmox_has_goes() {
        let command =
            local(&["/usr/bin/kvm", "-id", "100", "-no-shutdown", "-machine", "accel=tcg,type=pc+pve0"]).command;
        assert_eq!(command, ["/usr/bin/qemu-system-x86_64", "-machine", "accel=tcg,type=pc"]);
    }

    #[test]
    fn kvm_is_asked_for() {
        let machine = |words: &[&str]| local(&[&["-machine", "type=pc+pve0"], words].concat()).command[1].clone();
        assert_eq!(machine(&[]), "type=pc,accel=kvm");
        assert_eq!(machine(&["-accel", "tcg,thread=single"]), "type=pc");
    }

    #[test]
    fn taps_are_given_by_descriptor() {
        let option = "type=tap,id=net0,ifname=tap100i0,script=/a,downscript=/b,vhost=on,queues=2";
        let mut local = local(&["-netdev", option, "-netdev", "type=user,id=net1,hostname=x"]);
        let tap = local.taps[0].clone();
        assert_eq!((tap.name.as_str(), tap.queues, local.taps.len()), ("tap100i0", 2, 1));
        local.set_descriptors(&tap, &[5, 6]);
        assert_eq!(local.command[1], "type=tap,id=net0,vhost=on,fds=5:6");
    }

    #[test]
    fn nothing_hangs_on_a_spice_that_is_left_out() {
        let usb = ["-chardev", "spicevmc,id=usbredirchardev0,name=usbredir", "-device"];
        let redirection = "usb-redir,chardev=usbredirchardev0,id=usbredirdev0,bus=xhci.0";
        let sound = ["-audiodev", "spice,id=spice-backend0"];
        let command = local(&[usb.as_slice(), &[redirection], &sound].concat()).command;
        assert_eq!(command, ["-audiodev", "none,id=spice-backend0"]);
    }

    #[test]
    fn spice_has_the_certificate_of_the_node() {
        let usb = ["-chardev", "spicevmc,id=usbredirchardev0,name=usbredir", "-spice", "tls-port=61000"];
        let command = local_with(&usb, true).command;
        assert_eq!(command[..2], usb[..2]);
        assert_eq!(command[3], "tls-port=61000,x509-key-file=/c.key,x509-cert-file=/c.pem,x509-cacert-file=/ca.pem");
    }

    #[test]
    fn io_uring_is_replaced_where_it_is_refused() {
        let command = local(&["-drive", "file=/a,aio=io_uring", "-blockdev", r#"{"aio":"io_uring"}"#]).command;
        assert_eq!(command, ["-drive", "file=/a,aio=threads", "-blockdev", r#"{"aio":"threads"}"#]);
    }
}

//! The graphics card, the tablet, and the channels of SPICE.

use super::builder::{Builder, fail};
use crate::Result;
use crate::qemu::config::Properties;

/// The option `vga`, resolved.
pub(super) struct Display {
    /// `std`, `virtio`, `serial0`, `none`, …
    kind: String,
    options: Properties,
    /// How many QXL cards there are.
    qxl: u64,
}

/// The port that a SPICE display gets when nobody looks for a free one.
const FIRST_SPICE_PORT: u64 = 61000;

impl Display {
    pub(super) fn of(builder: &Builder) -> Result<Self> {
        let options = builder.vm.properties("~pve-qm-vga", "vga")?.unwrap_or_default();
        let windows = builder.vm.windows();
        let default = match builder.is_arm() {
            true => "virtio",
            false if (windows == 0 && builder.at_least(2, 9)) || windows >= 6 => "std",
            false => "cirrus",
        };
        let configured = options.text("type").unwrap_or_else(|| default.to_owned());
        let qxl = match configured.strip_prefix("qxl") {
            Some("") => 1,
            Some(count) => count.parse().unwrap_or(1),
            None => 0,
        };
        let kind = if qxl > 0 { "qxl".to_owned() } else { configured };
        Ok(Display { kind, options, qxl })
    }

    /// A graphics card of the host takes its place.
    pub(super) fn remove_card(&mut self) {
        self.kind = "none".into();
    }

    /// Refuses what cannot be: a clipboard of VNC needs a card that shows something.
    fn check_clipboard(&self) -> Result<()> {
        let display = self;
        if display.has_clipboard() {
            let fits = ["std", "cirrus", "vmware", "virtio", "qxl"].iter().any(|kind| display.kind.starts_with(kind));
            if !fits {
                return fail(format!("vga type {} is not compatible with VNC clipboard", display.kind));
            }
        }
        Ok(())
    }

    fn has_clipboard(&self) -> bool {
        self.options.text("clipboard").as_deref() == Some("vnc")
    }

    fn is_serial(&self) -> bool {
        self.kind.starts_with("serial")
    }

    /// Whether there is no graphics card.
    pub(super) fn is_headless(&self) -> bool {
        self.is_serial() || self.kind == "none"
    }

    fn has_spice(&self) -> bool {
        self.qxl > 0 || self.kind.starts_with("virtio")
    }

    /// QEMU's name of the card.
    fn model(&self, number: u64, is_arm: bool) -> Option<&'static str> {
        Some(match self.kind.as_str() {
            "virtio" if is_arm => "virtio-gpu",
            "virtio-gl" if is_arm => "virtio-gpu-gl",
            "qxl" if number > 0 => "qxl",
            "qxl" => "qxl-vga",
            "cirrus" => "cirrus-vga",
            "std" => "VGA",
            "vmware" => "vmware-svga",
            "virtio" => "virtio-vga",
            "virtio-gl" => "virtio-vga-gl",
            _ => return None,
        })
    }

    /// `,vgamem_mb=N` and its kin.
    fn memory(&self, number: u64) -> String {
        match self.options.number("memory") {
            Some(memory) if self.kind.starts_with("virtio") => format!(",max_hostmem={}", memory << 20),
            Some(memory) if self.qxl > 0 => {
                format!(",vgamem_mb={memory},ram_size_mb={},vram_size_mb={}", memory * 4, memory * 2)
            }
            Some(memory) => format!(",vgamem_mb={memory}"),
            None if self.qxl > 0 && number > 0 => ",ram_size=67108864,vram_size=33554432".into(),
            None => String::new(),
        }
    }
}

/// An absolute pointer, which a VNC client needs, and a keyboard for machines that have none.
pub(super) fn pointer(builder: &mut Builder, display: &Display) {
    let default = display.qxl == 0 && !display.is_serial();
    if builder.vm.flag("tablet").unwrap_or(default) {
        let bus = if builder.is_q35() || builder.is_arm() { "ehci" } else { "uhci" };
        builder.device(format!("usb-tablet,id=tablet,bus={bus}.0,port=1"));
        if builder.is_arm() {
            builder.device("usb-kbd,id=keyboard,bus=ehci.0,port=2");
        }
    }
}

/// The card and where its picture goes.
pub(super) fn card(builder: &mut Builder, display: &Display) -> Result<()> {
    if display.is_headless() {
        if display.kind == "none" {
            builder.option("-vga", "none");
        }
        builder.command.push("-nographic".into());
        return Ok(());
    }
    let device = card_device(builder, display, 0)?;
    builder.device(device);
    if display.kind == "virtio-gl" {
        builder.option("-display", "egl-headless,gl=core");
    }
    let socket = builder.run_file("vnc");
    builder.option("-vnc", format!("unix:{socket},password=on"));
    Ok(())
}

fn card_device(builder: &mut Builder, display: &Display, number: u64) -> Result<String> {
    let Some(model) = display.model(number, builder.is_arm()) else {
        return fail(format!("no device-type for {}", display.kind));
    };
    let id = if number == 0 { "vga".to_owned() } else { format!("vga{number}") };
    let linux = builder.vm.ostype().is_none_or(|system| system == "other" || system.starts_with('l'));
    let outputs = if display.qxl > 0 && linux && builder.at_least(4, 1) { ",max_outputs=4" } else { "" };
    let address =
        if builder.is_q35() && number == 0 { ",bus=pcie.0,addr=0x1".into() } else { builder.pci_address(&id) };
    let seabios = builder.vm.text("bios") != Some("ovmf");
    let edid = if model == "VGA" && builder.vm.windows() > 0 && seabios { ",edid=off" } else { "" };
    if display.kind == "virtio-gl" && !builder.host.is_imagined() {
        check_rendering(&display.kind)?;
    }
    Ok(format!("{model},id={id}{}{outputs}{address}{edid}", display.memory(number)))
}

/// The host draws for this card.
fn check_rendering(kind: &str) -> Result<()> {
    let libraries = format!("/usr/lib/{}-linux-gnu/lib", std::env::consts::ARCH);
    if !["EGL.so.1", "GL.so.1"].iter().all(|name| std::path::Path::new(&format!("{libraries}{name}")).exists()) {
        return fail(format!("missing libraries for '{kind}' detected! Please install 'libgl1' and 'libegl1'"));
    }
    let nodes = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    match nodes.into_iter().any(|node| node.file_name().to_string_lossy().starts_with("renderD")) {
        true => Ok(()),
        false => {
            fail(format!("no DRM render node detected (/dev/dri/renderD*), no GPU? - needed for '{kind}' display"))
        }
    }
}

/// Clipboard and SPICE.
pub(super) fn channels(builder: &mut Builder, display: &Display) -> Result<()> {
    display.check_clipboard()?;
    if !display.has_spice() && !display.has_clipboard() {
        return Ok(());
    }
    if display.qxl > 1 {
        more_qxl_cards(builder, display)?;
    }
    let address = builder.pci_address("spice");
    builder.device(format!("virtio-serial,id=spice{address}"));
    let agent = if display.has_clipboard() {
        "qemu-vdagent,id=vdagent,name=vdagent,clipboard=on"
    } else {
        "spicevmc,id=vdagent,name=vdagent"
    };
    builder.device_option("-chardev", agent);
    builder.device("virtserialport,chardev=vdagent,name=com.redhat.spice.0");
    if display.has_spice() {
        let enhancements =
            builder.vm.properties("~pve-qm-spice_enhancements", "spice_enhancements")?.unwrap_or_default();
        if enhancements.is_on("foldersharing") {
            builder.device_option("-chardev", "spiceport,id=foldershare,name=org.spice-space.webdav.0");
            builder.device("virtserialport,chardev=foldershare,name=org.spice-space.webdav.0");
        }
        let chosen = builder.options.spice_port.map(u64::from);
        let port = builder.host.next_spice_port().or(chosen).unwrap_or(FIRST_SPICE_PORT);
        let address = builder.host.localhost_address();
        let video = enhancements.text("videostreaming").map(|mode| format!(",streaming-video={mode}"));
        let options = format!("tls-port={port},addr={address},tls-ciphers=HIGH,seamless-migration=on");
        builder.device_option("-spice", options + &video.unwrap_or_default());
    }
    Ok(())
}

/// Windows takes a card for each screen, other systems one card with more memory.
fn more_qxl_cards(builder: &mut Builder, display: &Display) -> Result<()> {
    if builder.vm.windows() > 0 {
        for number in 1..display.qxl {
            let device = card_device(builder, display, number)?;
            builder.device(device);
        }
        return Ok(());
    }
    let (ram, vram) = match display.options.number("memory") {
        Some(memory) => ((display.qxl * 4 * memory) << 20, (display.qxl * 2 * memory) << 20),
        None => (134_217_728, 67_108_864),
    };
    builder.option("-global", format!("qxl-vga.ram_size={ram}"));
    builder.option("-global", format!("qxl-vga.vram_size={vram}"));
    Ok(())
}

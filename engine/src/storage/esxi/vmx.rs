//! Descriptions of ESXi machines (`.vmx`), and what a VM is to be created with to be the same machine.
//! (PVE: pve-storage PVE/Storage/ESXiPlugin.pm, get_create_args)

use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A description. VMware's names of settings are the same in upper and lower case.
pub struct Vmx(BTreeMap<String, String>);

/// A disk or a drive for disks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device<'v> {
    bus: &'v str,
    slot: &'v str,
    file: &'v str,
    is_cdrom: bool,
    /// The model of its controller.
    controller: Option<&'v str>,
}

/// What is known of a machine's files.
pub struct Files<'f> {
    /// The storage.
    pub storage: &'f str,
    /// The volume's name of a file that the description names.
    pub volume: &'f dyn Fn(&str) -> Result<String>,
    /// Bytes of a disk.
    pub size: &'f dyn Fn(&str) -> Option<u64>,
    /// The machine runs.
    pub runs: bool,
}

impl Vmx {
    /// Reads a description; lines without a setting mean nothing.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
        Vmx(pairs.map(|(key, value)| (key.trim().to_ascii_lowercase(), unquote(value.trim()))).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(&key.to_ascii_lowercase()).map(String::as_str)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok().filter(|number| *number > 0)
    }

    fn is(&self, key: &str, wanted: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    }

    /// `scsi0:1` and its kin, in the order of their names.
    fn devices(&self) -> impl Iterator<Item = Device<'_>> {
        self.0.iter().filter_map(|(key, file)| {
            let place = key.strip_suffix(".filename")?;
            let bus = ["scsi", "ide", "sata", "nvme"].into_iter().find(|bus| place.starts_with(bus))?;
            let slot = &place[bus.len()..];
            let (controller, unit) = slot.split_once(':')?;
            if [controller, unit].iter().any(|part| part.parse::<u32>().is_err())
                || self.is(&format!("{place}.present"), "false")
            {
                return None;
            }
            let is_cdrom = self.get(&format!("{place}.deviceType")).is_some_and(|kind| kind.contains("cdrom"));
            let controller = self.get(&format!("{bus}{controller}.virtualDev"));
            Some(Device { bus, slot, file, is_cdrom, controller })
        })
    }

    /// Numbers of the present devices `KIND0`, `KIND1`, ….
    fn present(&self, kind: &str) -> Vec<u32> {
        let keys = self.0.keys().filter_map(|key| key.strip_prefix(kind)?.strip_suffix(".present"));
        let mut numbers: Vec<u32> = keys.filter_map(|number| number.parse().ok()).collect();
        numbers.retain(|number| self.is(&format!("{kind}{number}.present"), "true"));
        numbers.sort_unstable();
        numbers
    }

    fn mac(&self, card: &str) -> Option<&str> {
        let kind = self.get(&format!("{card}.addressType")).unwrap_or_default().to_ascii_lowercase();
        let generated = self.get(&format!("{card}.generatedAddress"));
        let given = self.get(&format!("{card}.address"));
        if matches!(kind.as_str(), "static" | "generated" | "vpx") { generated.or(given) } else { given }
    }

    /// The identity of the machine's board.
    fn uuid(&self) -> Option<String> {
        let digits: String = self.get("uuid.bios")?.chars().filter(char::is_ascii_hexdigit).collect();
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part));
        (digits.len() == 32).then(|| parts.map(Option::unwrap_or_default).join("-"))
    }

    /// A name that a host may have.
    fn name(&self) -> Option<String> {
        let name: String = self.get("displayName")?.split_whitespace().collect::<Vec<_>>().join("-");
        let allowed: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
        Some(allowed.trim_matches(['-', '.']).to_owned()).filter(|name| !name.is_empty())
    }

    /// What `import-metadata` says about the machine.
    pub fn metadata(&self, files: &Files) -> Result<Value> {
        let mut arguments = Map::new();
        let mut disks = Map::new();
        let mut warnings = Vec::new();
        self.processors_and_memory(&mut arguments)?;
        let is_efi = self.is("firmware", "efi");
        arguments.insert("bios".into(), json!(if is_efi { "ovmf" } else { "seabios" }));
        if is_efi {
            disks.insert("efidisk0".into(), json!(1));
            warnings.push(json!({ "type": "efi-state-lost", "key": "bios", "value": "ovmf" }));
        }
        let (ostype, is_windows) = ostype(self.get("guestOS").unwrap_or_default());
        arguments.insert("ostype".into(), json!(ostype));
        let controller = self.drives(files, &mut arguments, &mut disks, &mut warnings)?;
        let mut scsihw = controller.or((ostype == "l26").then_some("virtio-scsi-single"));
        if is_efi && scsihw.is_none_or(|kind| kind == "lsi") {
            let other = if is_windows { "pvscsi" } else { "virtio-scsi-single" };
            warnings.push(json!({ "type": "ovmf-with-lsi-unsupported", "key": "scsihw", "value": other }));
            scsihw = Some(other);
        }
        for (key, value) in [
            ("scsihw", scsihw.map(str::to_owned)),
            ("smbios1", self.uuid().map(|uuid| format!("uuid={uuid}"))),
            ("name", self.name()),
        ] {
            arguments.extend(value.map(|value| (key.to_owned(), json!(value))));
        }
        for number in 0..self.present("serial").len() {
            warnings.push(json!({ "type": "serial-port-socket-only", "key": format!("serial{number}") }));
            arguments.insert(format!("serial{number}"), json!("socket"));
        }
        if files.runs {
            warnings.push(json!({ "type": "guest-is-running" }));
        }
        Ok(json!({
            "type": "vm", "source": "esxi", "create-args": arguments, "disks": disks, "net": self.cards(),
            "warnings": warnings,
        }))
    }

    fn processors_and_memory(&self, arguments: &mut Map<String, Value>) -> Result<()> {
        let cores = self.number("cpuid.coresPerSocket").unwrap_or(1);
        let sockets = (self.number("numvcpus").unwrap_or(cores) / cores).max(1);
        for (key, number) in [("cores", cores), ("sockets", sockets)] {
            if number != 1 {
                arguments.insert(key.to_owned(), json!(number));
            }
        }
        let memory = self.number("memSize").ok_or_else(|| Error::new("the machine's description has no memSize"))?;
        arguments.insert("memory".to_owned(), json!(memory.to_string()));
        Ok(())
    }

    fn cards(&self) -> Map<String, Value> {
        let card = |number: u32| {
            let card = format!("ethernet{number}");
            let mut row = json!({ "model": self.get(&format!("{card}.virtualDev")).unwrap_or("vmxnet3") });
            if let Some(mac) = self.mac(&card).filter(|mac| !mac.is_empty()) {
                row["macaddr"] = json!(mac);
            }
            (format!("net{number}"), row)
        };
        self.present("ethernet").into_iter().map(card).collect()
    }

    /// Drives with their order for booting, and the model of the SCSI controller if one is named. Disks on NVMe become
    /// further SCSI disks.
    fn drives(
        &self,
        files: &Files,
        arguments: &mut Map<String, Value>,
        disks: &mut Map<String, Value>,
        warnings: &mut Vec<Value>,
    ) -> Result<Option<&'static str>> {
        let (nvme, others): (Vec<Device>, Vec<Device>) = self.devices().partition(|device| device.bus == "nvme");
        let mut model = None;
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        let mut order = Vec::new();
        for device in others.iter().chain(&nvme) {
            let mut bus = device.bus;
            if bus == "nvme" {
                let key = format!("nvme{}", device.slot);
                warnings.push(json!({ "type": "nvme-unsupported", "key": key, "value": device.file }));
                bus = "scsi";
            }
            let named = device.controller.map(str::to_ascii_lowercase);
            match named.as_deref() {
                Some("pvscsi") => model = model.or(Some("pvscsi")),
                Some(kind) if kind.starts_with("lsi") => model = model.or(Some("lsi")),
                _ => {}
            }
            let count = counts.entry(bus).or_default();
            let key = format!("{bus}{count}");
            *count += 1;
            if device.is_cdrom {
                let value = (files.volume)(device.file).unwrap_or_else(|_| device.file.to_owned());
                let value = format!("{}:{value}", files.storage);
                warnings.push(json!({ "type": "cdrom-image-ignored", "key": key, "value": value }));
                arguments.insert(key.clone(), json!("none,media=cdrom"));
            } else {
                let volume = (files.volume)(device.file)?;
                let mut row = json!({ "volid": format!("{}:{volume}", files.storage) });
                if let Some(size) = (files.size)(&volume) {
                    row["size"] = json!(size);
                }
                disks.insert(key.clone(), row);
            }
            order.push(key);
        }
        arguments.insert("boot".into(), json!(format!("order={}", order.join(";"))));
        Ok(model)
    }
}

/// A value without its quotes; `|22` is the character with that number in hexadecimal digits.
fn unquote(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let mut text = String::new();
    let mut rest = inner;
    while let Some(at) = rest.find('|') {
        let code = rest.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok()).filter(u8::is_ascii);
        text.push_str(&rest[..at]);
        match code {
            Some(code) => text.push(code.into()),
            None => text.push('|'),
        }
        rest = &rest[at + if code.is_some() { 3 } else { 1 }..];
    }
    text + rest
}

/// PVE's word for a guest system of VMware, and whether it is a Windows.
fn ostype(guest: &str) -> (&'static str, bool) {
    // The first rule that fits decides.
    const WINDOWS: &[(&str, &str)] = &[
        ("windows2019srvnext", "win11"),
        ("windows2022srvnext", "win11"),
        ("windows2019srv", "win10"),
        ("windows11", "win11"),
        ("windows12", "win11"),
        ("windows7server", "w2k8"),
        ("windows8server", "win8"),
        ("windows9", "win10"),
        ("windows8", "win8"),
        ("windows7", "win7"),
        ("winlonghorn", "w2k8"),
        ("longhorn", "w2k8"),
        ("winvista", "wvista"),
        ("winxppro", "wxp"),
        ("winnet", "w2k3"),
        ("winnt", "wxp"),
        ("win2000", "w2k"),
        ("win31", "other"),
        ("win95", "other"),
        ("win98", "other"),
        ("dos", "other"),
    ];
    const OTHERS: &[&str] =
        &["freebsd", "os2", "netware", "openserver", "unixware", "ecomstation", "vmkernel", "darwin"];
    let guest = guest.to_ascii_lowercase();
    if let Some((_, kind)) = WINDOWS.iter().find(|(name, _)| guest.starts_with(name)) {
        return (kind, true);
    }
    let is_other = matches!(guest.as_str(), "other" | "other-64") || OTHERS.iter().any(|name| guest.starts_with(name));
    match () {
        () if is_other => ("other", false),
        () if guest.starts_with("solaris") => ("solaris", false),
        () => ("l26", false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(text: &str) -> Result<Value> {
        let volume = |file: &str| Ok(format!("dc/ds/web/{file}"));
        let files = Files { storage: "esx", volume: &volume, size: &|_| Some(4096), runs: false };
        Vmx::parse(text).metadata(&files)
    }

    #[test]
    fn a_linux_machine_is_described() {
        let text = r#"
            .encoding = "UTF-8"
            displayName = "web |22one|22"
            guestOS = "debian11-64"
            memsize = "2048"
            numvcpus = "4"
            cpuid.coresPerSocket = "2"
            uuid.bios = "56 4d 8f 2b 11 22 33 44-55 66 77 88 99 aa bb cc"
            scsi0.virtualDev = "lsilogic"
            scsi0:0.fileName = "web.vmdk"
            scsi0:1.fileName = "gone.vmdk"
            scsi0:1.present = "FALSE"
            sata0:0.deviceType = "cdrom-image"
            sata0:0.fileName = "cd.iso"
            nvme0:0.fileName = "fast.vmdk"
            ethernet0.present = "TRUE"
            ethernet0.virtualDev = "e1000"
            ethernet0.addressType = "generated"
            ethernet0.generatedAddress = "00:0c:29:00:00:01"
            ethernet1.present = "FALSE"
            serial0.present = "TRUE"
        "#;
        let expected = json!({
            "type": "vm", "source": "esxi",
            "create-args": {
                "bios": "seabios", "boot": "order=sata0;scsi0;scsi1", "cores": 2, "memory": "2048", "name": "web-one",
                "ostype": "l26", "sata0": "none,media=cdrom", "scsihw": "lsi", "serial0": "socket",
                "smbios1": "uuid=564d8f2b-1122-3344-5566-778899aabbcc", "sockets": 2,
            },
            "disks": {
                "scsi0": { "volid": "esx:dc/ds/web/web.vmdk", "size": 4096 },
                "scsi1": { "volid": "esx:dc/ds/web/fast.vmdk", "size": 4096 },
            },
            "net": { "net0": { "model": "e1000", "macaddr": "00:0c:29:00:00:01" } },
            "warnings": [
                { "type": "cdrom-image-ignored", "key": "sata0", "value": "esx:dc/ds/web/cd.iso" },
                { "type": "nvme-unsupported", "key": "nvme0:0", "value": "fast.vmdk" },
                { "type": "serial-port-socket-only", "key": "serial0" },
            ],
        });
        assert_eq!(metadata(text).unwrap(), expected);
    }

    #[test]
    fn a_windows_with_efi_gets_a_controller_that_its_firmware_knows() {
        let text = "memSize=4096\nfirmware=\"efi\"\nguestOS=\"windows9srv-64\"\nscsi0:0.fileName=\"a.vmdk\"\nscsi0.virtualDev=\"lsisas1068\"";
        let found = metadata(text).unwrap();
        assert_eq!(found["create-args"]["scsihw"], "pvscsi");
        assert_eq!(found["create-args"]["bios"], "ovmf");
        assert_eq!(found["disks"]["efidisk0"], 1);
        let kinds: Vec<&str> =
            found["warnings"].as_array().unwrap().iter().flat_map(|row| row["type"].as_str()).collect();
        assert_eq!(kinds, ["efi-state-lost", "ovmf-with-lsi-unsupported"]);
    }

    #[test]
    fn guest_systems_have_their_names() {
        for (guest, kind) in [
            ("windows2022srvNext-64", "win11"),
            ("windows2019srv-64", "win10"),
            ("windows7Server-64", "w2k8"),
            ("winNetStandard", "w2k3"),
            ("winNT", "wxp"),
            ("solaris11-64", "solaris"),
            ("freeBSD14-64", "other"),
            ("darwin21-64", "other"),
            ("other5xLinux-64", "l26"),
            ("", "l26"),
        ] {
            assert_eq!(ostype(guest).0, kind, "{guest}");
        }
    }

    #[test]
    fn hostile_descriptions_do_no_harm() {
        for text in [
            "",
            "memSize=0",
            "memSize=-1",
            "numvcpus=99999999999999999999",
            "cpuid.coresPerSocket=0\nmemSize=1",
            "|",
            "a=|é",
        ] {
            let _ = metadata(text);
        }
        assert_eq!(unquote("\"a|7Cb|\""), "a|b|");
    }
}

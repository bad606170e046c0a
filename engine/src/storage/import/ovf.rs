//! OVF descriptions: what guest an appliance describes. (DMTF DSP0243; PVE: pve-storage PVE/GuestImport/OVF.pm)
//!
//! The text is somebody else's: names that it gives are taken only where they can mean nothing but a file beside it.

use crate::storage::directory::name::is_import_character;
use crate::{Error, Result, bail};
use roxmltree::{Document, Node};

/// A described guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appliance {
    /// A name that a host may have.
    pub name: Option<String>,
    /// Processors.
    pub cores: Option<u64>,
    /// MiB of memory.
    pub memory: Option<u64>,
    /// PVE's word for the operating system.
    pub ostype: &'static str,
    /// It boots by UEFI.
    pub uefi: bool,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Models of its network devices.
    pub networks: Vec<&'static str>,
}

/// A described disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `scsi0` and its kin.
    pub address: String,
    /// The file beside the description.
    pub file: String,
    /// The size that the guest sees, if it is told.
    pub size: Option<u64>,
}

/// Kinds of virtual hardware. (DMTF: CIM_ResourceAllocationSettingData, ResourceType)
const PROCESSOR: u32 = 3;
const MEMORY: u32 = 4;
const ETHERNET: u32 = 10;
const DISK: u32 = 17;

/// Reads a description.
pub fn parse(text: &str) -> Result<Appliance> {
    let document = Document::parse(text).map_err(|error| Error::new(format!("unable to parse OVF: {error}")))?;
    let envelope = document.root_element();
    let system = child(envelope, "VirtualSystem").ok_or_else(|| Error::new("OVF has no VirtualSystem"))?;
    let hardware = child(system, "VirtualHardwareSection");
    let items: Vec<Node> = hardware.iter().flat_map(|node| children(*node, "Item")).collect();
    let of_kind =
        |kind: u32| items.iter().copied().filter(move |item| number(*item, "ResourceType") == Some(kind.into()));
    let quantity = |kind: u32| of_kind(kind).find_map(|item| number(item, "VirtualQuantity"));
    let mut disks = Vec::new();
    for item in of_kind(DISK) {
        disks.extend(disk(envelope, &items, item)?);
    }
    let firmware = hardware.iter().flat_map(|node| children(*node, "Config"));
    let uefi = firmware
        .into_iter()
        .any(|node| attribute(node, "key") == Some("firmware") && attribute(node, "value") == Some("efi"));
    let system_id = child(system, "OperatingSystemSection").and_then(|node| attribute(node, "id")?.parse().ok());
    let named = text_of(system, "Name").filter(|name| !name.is_empty());
    Ok(Appliance {
        name: named.or_else(|| attribute(system, "id").map(str::to_owned)).and_then(|name| host_name(&name)),
        cores: quantity(PROCESSOR),
        memory: quantity(MEMORY),
        ostype: system_id.map_or("other", ostype),
        uefi,
        disks,
        networks: of_kind(ETHERNET).map(network_model).collect(),
    })
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

/// An attribute by its local name, in whatever name space.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|attribute| attribute.name() == name).map(|attribute| attribute.value())
}

fn text_of(node: Node, name: &'static str) -> Option<String> {
    Some(child(node, name)?.text().unwrap_or_default().trim().to_owned())
}

fn number(node: Node, name: &'static str) -> Option<u64> {
    text_of(node, name)?.parse().ok()
}

/// Blanks become `-`, everything else that no host's name has goes.
fn host_name(name: &str) -> Option<String> {
    let dashed = name.split_whitespace().collect::<Vec<_>>().join("-");
    let good = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let name: String = dashed.chars().filter(good).collect();
    if name.is_empty() { None } else { Some(name) }
}

fn network_model(item: Node) -> &'static str {
    let model = text_of(item, "ResourceSubType").unwrap_or_default().to_lowercase();
    ["e1000", "e1000e", "vmxnet3"].into_iter().find(|known| *known == model).unwrap_or("e1000")
}

/// The disk that an item speaks of; none if it cannot be understood.
fn disk(envelope: Node, items: &[Node], item: Node) -> Result<Option<Disk>> {
    let Some(id) = text_of(item, "HostResource").as_deref().and_then(disk_id).map(str::to_owned) else {
        return Ok(None);
    };
    let section = child(envelope, "DiskSection");
    let described =
        section.iter().flat_map(|node| children(*node, "Disk")).find(|node| attribute(*node, "diskId") == Some(&id));
    let Some(described) = described else { return Ok(None) };
    let Some(reference) = attribute(described, "fileRef") else { return Ok(None) };
    let files = child(envelope, "References");
    let file =
        files.iter().flat_map(|node| children(*node, "File")).find(|node| attribute(*node, "id") == Some(reference));
    let Some(file) = file.and_then(|node| attribute(node, "href")) else { return Ok(None) };
    if file.is_empty() || file == "." || file == ".." || !file.chars().all(is_import_character) {
        bail!("referenced path '{}' is invalid", file.escape_debug());
    }
    let parent = text_of(item, "Parent");
    let controller = items.iter().find(|other| parent.is_some() && text_of(**other, "InstanceID") == parent);
    let bus = match controller.and_then(|node| number(*node, "ResourceType")) {
        Some(5) => "ide",
        Some(6) => "scsi",
        Some(20) => "sata",
        _ => return Ok(None),
    };
    let number = number(item, "AddressOnParent").unwrap_or(0);
    let unit = attribute(described, "capacityAllocationUnits").map_or(Some(1), capacity_unit);
    let capacity = attribute(described, "capacity").and_then(|text| text.parse::<u64>().ok());
    let size = capacity.zip(unit).and_then(|(capacity, unit)| capacity.checked_mul(unit));
    Ok(Some(Disk { address: format!("{bus}{number}"), file: file.to_owned(), size }))
}

/// The id in `ovf:/disk/ID`.
fn disk_id(resource: &str) -> Option<&str> {
    let path = resource.strip_prefix("ovf:").unwrap_or(resource).strip_prefix('/')?;
    let (_section, id) = path.split_once('/')?;
    let unreserved = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    (!id.is_empty() && id.chars().all(unreserved)).then_some(id)
}

/// `byte * 2^30`.
fn capacity_unit(text: &str) -> Option<u64> {
    let (base, exponent) = text.trim().strip_prefix("byte")?.trim().strip_prefix('*')?.split_once('^')?;
    base.trim().parse::<u64>().ok()?.checked_pow(exponent.trim().parse().ok()?)
}

/// PVE's word for a system of the list. (DMTF: CIM_OperatingSystem, OSType)
fn ostype(id: u32) -> &'static str {
    match id {
        29 | 81 => "solaris",
        36 | 79 | 80 | 82..=85 | 87 | 89..=96 | 99..=101 | 106..=109 => "l26",
        58 => "w2k",
        18 | 67 | 71 | 72 | 75 => "wxp",
        69 | 70 => "w2k3",
        73 | 74 => "wvista",
        76 | 77 => "w2k8",
        97 | 98 => "l24",
        103 | 105 => "win7",
        111..=115 | 117 | 118 => "win8",
        116 | 119..=121 => "win10",
        122 | 123 => "win11",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(file: &str) -> String {
        format!(
            r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
 <References><File ovf:href="{file}" ovf:id="file1" ovf:size="1"/></References>
 <DiskSection><Disk ovf:capacity="4" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1"/></DiskSection>
 <VirtualSystem ovf:id="vm"><Name>My first guest!</Name>
  <OperatingSystemSection ovf:id="96"/>
  <VirtualHardwareSection>
   <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
   <Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
   <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>
   <Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>3</rasd:Parent>
     <rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
   <Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType></Item>
   <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
  </VirtualHardwareSection>
 </VirtualSystem>
</Envelope>"#
        )
    }

    #[test]
    fn a_description_becomes_a_guest() {
        let guest = parse(&description("disk 1.vmdk")).unwrap();
        assert_eq!(guest.name.as_deref(), Some("My-first-guest"));
        assert_eq!((guest.cores, guest.memory, guest.ostype, guest.uefi), (Some(2), Some(1024), "l26", true));
        let disk = Disk { address: "scsi0".into(), file: "disk 1.vmdk".into(), size: Some(4 << 30) };
        assert_eq!((guest.disks, guest.networks), (vec![disk], vec!["vmxnet3"]));
    }

    #[test]
    fn files_elsewhere_and_broken_texts_are_refused() {
        for bad in ["../x.vmdk", "/etc/shadow", "..", "a/b.vmdk"] {
            assert!(parse(&description(bad)).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "<",
            "<Envelope/>",
            "text",
            "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><Envelope>&a;</Envelope>",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}

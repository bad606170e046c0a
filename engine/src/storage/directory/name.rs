//! Names of volumes on a file based storage, and the one place that turns a name into a path below its directory.
//! (PVE: pve-storage PVE/Storage/Plugin.pm, parse_volname and parse_name_dir; patterns of PVE/Storage.pm)
//!
//! A name that parses never leaves its directory: its components hold no slash, are neither `.` nor `..`, and have no
//! control characters. Symbolic links are a matter of the file system and checked when a path is made.

use crate::storage::content::Content;
use crate::storage::volume::Format;
use crate::{Error, Result, Vmid};
use std::fmt;
use std::str::FromStr;

/// Longest file name on the file systems that people use.
const MAX_FILE_NAME: usize = 255;

/// A volume name that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A disk or a container's directory.
    Image(ImageName),
    /// A file that is named by its content type.
    File(FileName),
    /// A disk within an appliance: `import/ARCHIVE.ova/DISK`.
    Packed(FileName, String, Format),
}

/// `VMID/FILE` or, for a linked clone, `BASEVMID/BASEFILE/VMID/FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The guest that owns it.
    pub vmid: Vmid,
    /// The file's name.
    pub file: String,
    /// The image that this one is a linked clone of.
    pub base: Option<(Vmid, String)>,
    /// From the extension.
    pub format: Format,
    /// A template's image, which others may be based on.
    pub is_base: bool,
}

/// `iso/FILE`, `vztmpl/FILE`, `backup/FILE`, `snippets/FILE`, `import/FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName {
    /// Which directory.
    pub content: Content,
    /// The file's name.
    pub file: String,
    /// The format that lists show: `iso`, `tgz`, `tar.zst`, `snippet`, …
    pub format: String,
    /// The guest that a backup belongs to.
    pub vmid: Option<Vmid>,
}

impl Name {
    /// What it is. Containers' volumes are `images` as well; only their owner tells.
    pub fn content(&self) -> Content {
        match self {
            Name::Image(_) => Content::Images,
            Name::File(file) | Name::Packed(file, ..) => file.content,
        }
    }

    /// The guest that owns it.
    pub fn vmid(&self) -> Option<Vmid> {
        match self {
            Name::Image(image) => Some(image.vmid),
            Name::File(file) => file.vmid,
            Name::Packed(..) => None,
        }
    }

    /// The path below the directory of its content type.
    pub fn relative_path(&self) -> String {
        match self {
            Name::Image(image) => format!("{}/{}", image.vmid, image.file),
            Name::File(file) | Name::Packed(file, ..) => file.file.clone(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Image(image) => image.fmt(f),
            Name::File(file) => write!(f, "{}/{}", file.content, file.file),
            Name::Packed(file, disk, _) => write!(f, "{}/{}/{disk}", file.content, file.file),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((vmid, file)) = &self.base {
            write!(f, "{vmid}/{file}/")?;
        }
        write!(f, "{}/{}", self.vmid, self.file)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::new(format!("unable to parse directory volume name '{}'", text.escape_debug()));
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| is_component(part)) {
            return Err(bad());
        }
        match *parts.as_slice() {
            [first, file] => match first.parse::<Vmid>() {
                Ok(vmid) => Ok(Name::Image(image(vmid, file, None)?)),
                Err(_) => FileName::of(first, file).map(Name::File).ok_or_else(bad),
            },
            ["import", archive, disk] => packed(archive, disk).ok_or_else(bad),
            [base_vmid, base_file, vmid, file] => {
                let base_vmid = base_vmid.parse().map_err(|_| bad())?;
                parse_image_file(base_file)?;
                let vmid = vmid.parse().map_err(|_| bad())?;
                Ok(Name::Image(image(vmid, file, Some((base_vmid, base_file.to_owned())))?))
            }
            _ => Err(bad()),
        }
    }
}

fn packed(archive: &str, disk: &str) -> Option<Name> {
    let archive = FileName::new(Content::Import, archive).filter(|file| file.format == "ova")?;
    let (stem, extension) = disk.rsplit_once('.')?;
    let format: Format = extension.parse().ok().filter(|format| *format != Format::Subvol)?;
    let good = !stem.is_empty() && disk.chars().all(is_import_character);
    good.then(|| Name::Packed(archive, disk.to_owned(), format))
}

fn image(vmid: Vmid, file: &str, base: Option<(Vmid, String)>) -> Result<ImageName> {
    let (format, is_base) = parse_image_file(file)?;
    Ok(ImageName { vmid, file: file.to_owned(), base, format, is_base })
}

/// One component of a path that can mean nothing but itself.
fn is_component(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.len() <= MAX_FILE_NAME
        && !text.contains(|c: char| c == '/' || c.is_control())
}

/// Format and base flag of an image's file name.
pub fn parse_image_file(file: &str) -> Result<(Format, bool)> {
    let bad = || Error::new(format!("unable to parse volume filename '{}'", file.escape_debug()));
    if !is_component(file) || file.contains(char::is_whitespace) {
        return Err(bad());
    }
    let (stem, extension) = file.rsplit_once('.').ok_or_else(bad)?;
    let format: Format = extension.parse().map_err(|_| bad())?;
    if stem.is_empty() {
        return Err(bad());
    }
    if stem.starts_with("snap-") && format == Format::Qcow2 {
        return Err(Error::new(format!("'{file}' is a snapshot filename, not a volume!")));
    }
    Ok((format, stem.starts_with("base-")))
}

/// The number in `vm-100-disk-7…`, `base-100-disk-7…`, `subvol-100-disk-7…`, `basevol-100-disk-7…`. All formats share
/// the numbers, so that no name differs from another by its extension only.
pub fn disk_number(file: &str, vmid: Vmid) -> Option<u32> {
    let rest = ["vm-", "base-", "subvol-", "basevol-"].iter().find_map(|prefix| file.strip_prefix(prefix))?;
    let rest = rest.strip_prefix(&format!("{vmid}-disk-"))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

impl FileName {
    fn of(directory: &str, file: &str) -> Option<Self> {
        let content = match directory {
            "iso" => Content::Iso,
            "vztmpl" => Content::Vztmpl,
            "backup" => Content::Backup,
            "snippets" => Content::Snippets,
            "import" => Content::Import,
            _ => return None,
        };
        FileName::new(content, file)
    }

    /// A file of a content type, if its name may belong there.
    pub fn new(content: Content, file: &str) -> Option<Self> {
        if !is_component(file) {
            return None;
        }
        let format = match content {
            Content::Iso => has_stem(file, &[".iso", ".img"], true).map(|_| "iso".to_owned()),
            Content::Vztmpl => template_format(file),
            Content::Backup => backup_format(file).map(str::to_owned),
            Content::Snippets => Some("snippet".to_owned()),
            Content::Import => import_format(file, is_import_character),
            Content::Images | Content::Rootdir | Content::None => None,
        }?;
        let vmid = if content == Content::Backup { backup_owner(file) } else { None };
        Some(FileName { content, file: file.to_owned(), format, vmid })
    }
}

/// The extension of `extensions` that the name ends with, after at least one other character.
fn has_stem<'a>(file: &str, extensions: &[&'a str], ignore_case: bool) -> Option<&'a str> {
    extensions.iter().copied().find(|extension| {
        let Some(at) = file.len().checked_sub(extension.len()).filter(|at| *at > 0 && file.is_char_boundary(*at))
        else {
            return false;
        };
        let end = &file[at..];
        if ignore_case { end.eq_ignore_ascii_case(extension) } else { end == *extension }
    })
}

/// `tar`, or `t` and the compression.
fn template_format(file: &str) -> Option<String> {
    let extension = has_stem(file, &[".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar"], true)?;
    Some(match extension.strip_prefix(".tar.") {
        Some(compression) => format!("t{compression}"),
        None => "tar".to_owned(),
    })
}

/// `tgz`, `tar`, `vma` and their compressed forms.
fn backup_format(file: &str) -> Option<&'static str> {
    const EXTENSIONS: [&str; 11] = [
        ".tgz", ".tar", ".tar.gz", ".tar.lzo", ".tar.zst", ".tar.bz2", ".vma", ".vma.gz", ".vma.lzo", ".vma.zst",
        ".vma.bz2",
    ];
    has_stem(file, &EXTENSIONS, false).map(|extension| &extension[1..])
}

/// The guest in `vzdump-TYPE-VMID-…`.
fn backup_owner(file: &str) -> Option<Vmid> {
    let rest = file.strip_prefix("vzdump-")?;
    let (kind, rest) = rest.split_once('-')?;
    matches!(kind, "openvz" | "lxc" | "qemu").then_some(())?;
    let (vmid, rest) = rest.split_once('-')?;
    if rest.is_empty() { None } else { vmid.parse().ok() }
}

/// `qemu`, `lxc`, `openvz`; `unknown` for a backup with a name of its own.
pub fn backup_subtype(file: &str) -> &'static str {
    let kind = file.strip_prefix("vzdump-").and_then(|rest| rest.split_once('-')).map(|(kind, _)| kind);
    ["qemu", "lxc", "openvz"].into_iter().find(|name| kind == Some(name)).unwrap_or("unknown")
}

fn import_format(file: &str, allowed: fn(char) -> bool) -> Option<String> {
    let extension = has_stem(file, &[".ova", ".ovf", ".qcow2", ".raw", ".vmdk"], false)?;
    file.chars().all(allowed).then(|| extension[1..].to_owned())
}

/// Characters in names of disks within appliances.
pub fn is_import_character(c: char) -> bool {
    c == ' ' || is_safe_character(c)
}

/// Characters in names of files to import.
pub fn is_safe_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+' | '=' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    fn parse(text: &str) -> Name {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn images_have_owner_format_and_base() {
        let Name::Image(image) = parse("100/vm-100-disk-1.qcow2") else { panic!("no image") };
        assert_eq!((image.vmid.number(), image.format, image.is_base), (100, Format::Qcow2, false));
        let Name::Image(image) = parse("9000/base-9000-disk-0.raw/101/vm-101-disk-0.qcow2") else { panic!("no image") };
        assert_eq!(image.base.as_ref().unwrap().1, "base-9000-disk-0.raw");
        assert_eq!(image.vmid.number(), 101);
        let Name::Image(image) = parse("100/base-100-disk-0.vmdk") else { panic!("no image") };
        assert!(image.is_base);
        assert_eq!(parse("200/subvol-200-disk-0.subvol").relative_path(), "200/subvol-200-disk-0.subvol");
        assert_eq!(parse("100/vm-100-cloudinit.qcow2").vmid().unwrap().number(), 100);
        // CSI drivers and packer choose names of their own.
        assert_eq!(parse("9999/vm-9999-pvc-7f1c.raw").content(), Content::Images);
        assert_eq!(parse("100/my.disk.raw").content(), Content::Images);
    }

    #[test]
    fn files_are_known_by_directory_and_extension() {
        for (text, format) in [
            ("iso/debian 12.iso", "iso"),
            ("iso/X.ISO", "iso"),
            ("iso/disk.img", "iso"),
            ("vztmpl/debian-12.tar.zst", "tzst"),
            ("vztmpl/a.tar", "tar"),
            ("vztmpl/a.TAR.GZ", "tgz"),
            ("backup/vzdump-qemu-100-2024_01_02-03_04_05.vma.zst", "vma.zst"),
            ("backup/old.tgz", "tgz"),
            ("snippets/user data.yaml", "snippet"),
            ("import/image.qcow2", "qcow2"),
            ("import/an appliance.ova", "ova"),
        ] {
            let Name::File(file) = parse(text) else { panic!("{text} is a file") };
            assert_eq!(file.format, format, "{text}");
            assert_eq!(Name::File(file).to_string(), text);
        }
        let Name::Packed(archive, disk, format) = parse("import/an appliance.ova/disk 1.vmdk") else {
            panic!("a disk in an archive")
        };
        assert_eq!((archive.file.as_str(), disk.as_str(), format), ("an appliance.ova", "disk 1.vmdk", Format::Vmdk));
        let Name::File(backup) = parse("backup/vzdump-lxc-101-2024_01_02-03_04_05.tar.zst") else { panic!("no file") };
        assert_eq!(backup.vmid.unwrap().number(), 101);
        assert_eq!(backup_subtype(&backup.file), "lxc");
    }

    #[test]
    fn names_that_could_mean_another_place_are_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x.raw",
            "100/../x.raw",
            "100/..",
            "100/.",
            "100//x.raw",
            "100/x/y.raw",
            "iso/../../etc/shadow.iso",
            "iso/..",
            "snippets/..",
            "snippets/.",
            "snippets/",
            "snippets/a/b",
            "snippets/a\0b",
            "snippets/a\nb",
            "100/vm-100 disk.raw",
            "100/vm-100-disk-0",
            "100/.raw",
            "100/x.exe",
            "99/vm-99-disk-0.raw",
            "0100/vm-100-disk-0.raw",
            "100/snap-a-vm-100-disk-0.qcow2",
            "100/../200/101/vm-101-disk-0.raw",
            "9000/base-9000-disk-0.raw/101/../x.raw",
            "iso/a.txt",
            "iso/.iso",
            "vztmpl/a.tar.exe",
            "backup/a.zip",
            "import/a$b.raw",
            "import/a.raw/b.raw",
            "import/a.ova/../b.raw",
            "import/a.ova/b.iso",
            "import/a.ova/.raw",
            "import/a.ova/b/c.raw",
            "rootdir/x",
            "private/x.raw",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(format!("iso/{}.iso", "x".repeat(300)).parse::<Name>().is_err());
        assert!(format!("iso/{}.iso", "x".repeat(251)).parse::<Name>().is_ok());
    }

    #[test]
    fn disk_numbers_are_shared_by_all_formats() {
        let vmid: Vmid = "100".parse().unwrap();
        assert_eq!(disk_number("vm-100-disk-3.raw", vmid), Some(3));
        assert_eq!(disk_number("base-100-disk-0.qcow2", vmid), Some(0));
        assert_eq!(disk_number("subvol-100-disk-12.subvol", vmid), Some(12));
        assert_eq!(disk_number("vm-1000-disk-3.raw", vmid), None);
        assert_eq!(disk_number("vm-100-cloudinit.qcow2", vmid), None);
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same_and_stays_below(text in "([0-9]{1,4}|iso|vztmpl|backup|snippets|import|\\.\\.)(/[ -~\0\n]{0,12}){0,3}(\\.raw|\\.iso|\\.tar|/\\.\\.)?") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.to_string(), text);
                let path = name.relative_path();
                prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(!path.contains(['\0', '\n']));
            }
        }
    }
}

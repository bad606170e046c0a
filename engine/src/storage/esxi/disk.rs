//! Disks of ESXi machines: a small description names the file that holds the bytes. (VMware: "Virtual Disk Format 5.0")

use crate::{Error, Result, bail};

/// A described disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The file beside the description that holds the disk's bytes as they are.
    pub file: String,
    /// Bytes.
    pub size: u64,
}

/// Reads a description. Only disks that are whole in one file can be read over the network.
pub fn parse(text: &str, name: &str) -> Result<Extent> {
    if !text.trim_start().starts_with("# Disk DescriptorFile") {
        bail!("{name}: not a description of a disk");
    }
    let value = |key: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    if value("parentCID").is_some_and(|parent| !parent.eq_ignore_ascii_case("ffffffff")) {
        bail!("{name}: the disk has snapshots - consolidate them on the server first");
    }
    let access = |line: &&str| ["RW ", "RDONLY "].iter().any(|word| line.starts_with(word));
    let mut extents = text.lines().map(str::trim).filter(access);
    let (Some(line), None) = (extents.next(), extents.next()) else {
        bail!("{name}: the disk is not in exactly one file");
    };
    let malformed = || Error::new(format!("{name}: unable to read '{}'", line.escape_debug()));
    let (front, rest) = line.split_once('"').ok_or_else(malformed)?;
    let (file, _) = rest.split_once('"').ok_or_else(malformed)?;
    let words: Vec<&str> = front.split_whitespace().collect();
    let [_, sectors, kind] = words[..] else { return Err(malformed()) };
    if !matches!(kind, "VMFS" | "FLAT") {
        bail!("{name}: disks of type '{}' cannot be imported", kind.escape_debug());
    }
    if file.is_empty() || file.contains(|c: char| c == '/' || c.is_control()) || file == ".." {
        return Err(malformed());
    }
    let sectors: u64 = sectors.parse().map_err(|_| malformed())?;
    let size = sectors.checked_mul(512).ok_or_else(malformed)?;
    Ok(Extent { file: file.to_owned(), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(extents: &str, parent: &str) -> Result<Extent> {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={parent}\ncreateType=\"vmfs\"\n\n# Extent description\n\
             {extents}\n\n# The Disk Data Base\nddb.adapterType = \"lsilogic\"\n"
        );
        parse(&text, "web.vmdk")
    }

    #[test]
    fn a_disk_in_one_file_is_found() {
        let found = described("RW 8192 VMFS \"web 1-flat.vmdk\"", "ffffffff").unwrap();
        assert_eq!(found, Extent { file: "web 1-flat.vmdk".into(), size: 4 << 20 });
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (extents, parent, reason) in [
            ("RW 8192 VMFS \"a.vmdk\"", "12345678", "snapshots"),
            ("RW 8192 VMFSSPARSE \"a-delta.vmdk\"", "ffffffff", "'VMFSSPARSE'"),
            ("RW 1 FLAT \"a.vmdk\" 0\nRW 1 FLAT \"b.vmdk\" 0", "ffffffff", "exactly one file"),
            ("", "ffffffff", "exactly one file"),
            ("RW 8192 VMFS \"../../etc/shadow\"", "ffffffff", "unable to read"),
            ("RW 99999999999999999999 VMFS \"a.vmdk\"", "ffffffff", "unable to read"),
            ("RW 18446744073709551615 VMFS \"a.vmdk\"", "ffffffff", "unable to read"),
            ("RW VMFS", "ffffffff", "unable to read"),
        ] {
            let error = described(extents, parent).unwrap_err();
            assert!(error.message().contains(reason), "{extents}: {error}");
        }
        assert!(parse("KDMV\u{1}", "a.vmdk").is_err());
    }
}

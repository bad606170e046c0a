//! Mount units of systemd, as PVE writes them for file systems on disks: `/etc/systemd/system/mnt-pve-NAME.mount`.
//! (PVE: pve-storage PVE/API2/Disks/Directory.pm; systemd.unit(5), string escaping)

use std::fmt::Write;

/// What a unit mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountUnit {
    /// The device.
    pub what: String,
    /// The file system's type.
    pub kind: String,
    /// Mount options.
    pub options: String,
}

impl MountUnit {
    /// Reads a unit; what it does not have is empty.
    pub fn parse(text: &str) -> Self {
        let mut unit = MountUnit::default();
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name;
            } else if section == "Mount"
                && let Some((key, value)) = line.split_once('=')
            {
                match key {
                    "What" => unit.what = value.to_owned(),
                    "Type" => unit.kind = value.to_owned(),
                    "Options" => unit.options = value.to_owned(),
                    _ => {}
                }
            }
        }
        unit
    }

    /// The text of the unit for a storage's name.
    pub fn print(&self, name: &str) -> String {
        let MountUnit { what, kind, options } = self;
        format!(
            "[Install]\nWantedBy=multi-user.target\n\n\
             [Mount]\nOptions={options}\nType={kind}\nWhat={what}\nWhere=/mnt/pve/{name}\n\n\
             [Unit]\nDescription=Mount storage '{name}' under /mnt/pve\n\n"
        )
    }
}

/// The unit's name without `.mount` for `/mnt/pve/NAME`.
pub fn name_for(name: &str) -> String {
    format!("mnt-pve-{}", escape(name))
}

/// The storage's name in a unit's file name.
pub fn storage_of(file: &str) -> Option<String> {
    let escaped = file.strip_prefix("mnt-pve-")?.strip_suffix(".mount")?;
    if escaped.is_empty() { None } else { Some(unescape(escaped)) }
}

/// Escapes a word for a unit's name.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if index == 0 => escaped.push_str("\\x2e"),
            b'.' | b'_' | b':' => escaped.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            byte => write!(escaped, "\\x{byte:02x}").expect("a text takes everything"),
        }
    }
    escaped
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let code = rest.strip_prefix("\\x").and_then(|tail| u8::from_str_radix(tail.get(..2)?, 16).ok());
        if let Some(byte) = code {
            bytes.push(byte);
            rest = &rest[4..];
            continue;
        }
        let mut buffer = [0; 4];
        let shown = if first == '-' { '/' } else { first };
        bytes.extend_from_slice(shown.encode_utf8(&mut buffer).as_bytes());
        rest = &rest[first.len_utf8()..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_read_back_what_was_written() {
        let unit = MountUnit { what: "/dev/disk/by-uuid/x".into(), kind: "ext4".into(), options: "defaults".into() };
        let text = unit.print("data-1");
        assert!(text.contains("Where=/mnt/pve/data-1\n"));
        assert_eq!(MountUnit::parse(&text), unit);
        assert_eq!(MountUnit::parse("What=x\n[Unit]\nWhat=y\n"), MountUnit::default());
    }

    #[test]
    fn names_are_escaped_as_systemd_does() {
        assert_eq!(name_for("data-1"), "mnt-pve-data\\x2d1");
        assert_eq!(name_for("a.b_c"), "mnt-pve-a.b_c");
        assert_eq!(storage_of("mnt-pve-data\\x2d1.mount").as_deref(), Some("data-1"));
        assert_eq!(storage_of("mnt-pve-.mount"), None);
        assert_eq!(storage_of("home.mount"), None);
        for name in ["x", "data-1", "a.b", "q:r"] {
            assert_eq!(storage_of(&format!("{}.mount", name_for(name))).as_deref(), Some(name));
        }
    }
}

//! What is mounted where, as the kernel says in `/proc/self/mounts`. Reading it never touches a mounted file system, so a
//! dead server cannot make it hang.

use std::fs;
use std::path::{Path, PathBuf};

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The device, or what the file system calls its source.
    pub source: String,
    /// The directory.
    pub target: PathBuf,
    /// The file system's type.
    pub kind: String,
}

/// All mounts of this process's name space, in the order in which they were made.
pub fn all() -> Vec<Mount> {
    parse(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

/// The last mount on a directory, which hides those before it.
pub fn at(target: &Path) -> Option<Mount> {
    all().into_iter().rfind(|mount| mount.target == target)
}

fn parse(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').map(unescape);
            Some(Mount { source: fields.next()?, target: fields.next()?.into(), kind: fields.next()? })
        })
        .collect()
}

/// The kernel writes blanks, tabs, line breaks, `#` and backslashes as octal numbers. (getmntent(3))
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(start) = rest.find('\\') {
        text.push_str(&rest[..start]);
        let digits = rest.get(start + 1..start + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &rest[start + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[start + 1..];
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unescaped() {
        let mounts =
            parse("nas:/a\\040b /mnt/pve/nas nfs4 rw 0 0\n/dev/sda1 / ext4 rw 0 0\nodd\\x /o\\134 x rw 0 0\nshort\n");
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[0].source.as_str(), mounts[0].kind.as_str()), ("nas:/a b", "nfs4"));
        assert_eq!((mounts[2].source.as_str(), mounts[2].target.as_path()), ("odd\\x", Path::new("/o\\")));
        assert_eq!(at(Path::new("/proc")).map(|mount| mount.kind), Some("proc".into()));
    }
}

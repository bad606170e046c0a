//! What storages are made of (pve-storage PVE/Storage/Plugin.pm and PVE/Storage/ZFSPoolPlugin.pm,
//! pve-guest-common PVE/Mapping/Dir.pm, qemu-server PVE/QemuServer.pm).

use super::ids::{alnum, framed, made_of};
use super::{Checked, ensure, is_word, net};

pub(super) fn content(text: &str) -> Checked {
    ensure(is_word("pve-storage-content", text), || format!("invalid content type '{text}'"))
}

pub(super) fn image_format(text: &str) -> Checked {
    ensure(matches!(text, "raw" | "qcow2" | "vmdk" | "subvol"), || format!("invalid format '{text}'"))
}

pub(super) fn mount_options(text: &str) -> Checked {
    ensure(made_of(text, |c| !c.is_whitespace()), || format!("invalid options '{text}'"))
}

/// A slash and one allowed character; what follows is not looked at.
fn is_path(text: &str, forbidden: &str) -> bool {
    text.strip_prefix('/').and_then(|rest| rest.chars().next()).is_some_and(|c| !forbidden.contains(c))
}

pub(super) fn path(text: &str) -> Checked {
    ensure(is_path(text, ";()"), || "value does not look like a valid absolute path".to_owned())
}

pub(super) fn path_in_property_string(text: &str) -> Checked {
    ensure(is_path(text, ";,=()"), || {
        "Value does not look like a valid absolute path. These symbols are currently not allowed in path: ;,=()"
            .to_owned()
    })
}

pub(super) fn server(text: &str) -> Checked {
    ensure(net::is_host(text), || "value does not look like a valid server name or IP address".to_owned())
}

pub(super) fn portal(text: &str) -> Checked {
    ensure(net::is_host_and_port(text), || "value does not look like a valid portal address".to_owned())
}

pub(super) fn volume_group(text: &str) -> Checked {
    let good = text.len() >= 2 && framed(text, alnum, |c| alnum(c) || matches!(c, '-' | '_' | '.'), alnum);
    ensure(good, || format!("lvm name '{text}' contains illegal characters"))
}

pub(super) fn volume_id(text: &str) -> Checked {
    let inner = |c: char| alnum(c) || matches!(c, '-' | '_' | '.');
    let good = text.split_once(':').is_some_and(|(storage, volume)| {
        storage.len() >= 2
            && framed(storage, |c| c.is_ascii_alphabetic(), inner, alnum)
            && !volume.is_empty()
            && !volume.contains('\n')
    });
    ensure(good, || format!("unable to parse volume ID '{text}'"))
}

pub(super) fn volume_id_or_path(text: &str) -> Checked {
    if text.starts_with('/') { Ok(()) } else { volume_id(text) }
}

pub(super) fn volume_id_or_drive_path(text: &str) -> Checked {
    if matches!(text, "none" | "cdrom") { Ok(()) } else { volume_id_or_path(text) }
}

/// `CONTENT=PATH` with a relative path that has no two dots in a row.
pub(super) fn directory_override(text: &str) -> Checked {
    let invalid = || format!("invalid override '{text}'");
    let Some((kind, path)) = text.split_once('=') else {
        return Err(invalid());
    };
    ensure(made_of(kind, |c| c.is_ascii_lowercase()), invalid)?;
    let good = !path.is_empty() && !path.contains("..") && !path.ends_with('.');
    ensure(good, invalid)?;
    content(kind)?;
    let short = path.chars().count() < 1023 && path.split('/').all(|part| part.chars().count() < 255);
    ensure(short, invalid)
}

pub(super) fn zfs_block_size(text: &str) -> Checked {
    if text.is_empty() {
        return Ok(());
    }
    let (number, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1024),
        Some((at, 'm' | 'M')) => (&text[..at], 1024 * 1024),
        _ => (text, 1),
    };
    ensure(made_of(number, |c| c.is_ascii_digit()) && !number.starts_with('0'), || {
        format!(
            "invalid ZFS blocksize format '{text}'. Use a positive number (no leading zeros) with an optional 'k' or \
             'm' suffix."
        )
    })?;
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let good = bytes.is_some_and(|bytes| (512..=16 * 1024 * 1024).contains(&bytes) && bytes.is_power_of_two());
    ensure(good, || {
        format!(
            "value '{text}' is not a valid ZFS blocksize. Must be a power of 2 between 512B and 16MiB (e.g., 4k, 8k, \
             16k, 64k, 1m)."
        )
    })
}

//! What we say we are: the version that clients and scripts test. It stands for the interface, so it moves with the
//! contract and with nothing else. (PVE: pve-manager PVE/pvecfg.pm)

use crate::{Call, Reply, Result};
use serde_json::json;

/// Dotted integers only: clients split it at the dots and convert each part.
pub const VERSION: &str = "9.2.11";
/// The first two numbers; some clients read it as a decimal number.
pub const RELEASE: &str = "9.2";
/// Sixteen hexadecimal digits that stand for the source; clients only look at the shape.
pub const REPOID: &str = "fe770715e0920011";

/// `pve-manager/VERSION/REPOID`, as `pveversion` and the node's status show it.
pub fn text() -> String {
    format!("pve-manager/{VERSION}/{REPOID}")
}

/// `GET /version` and `GET /nodes/{node}/version`.
pub fn get(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!({ "version": VERSION, "release": RELEASE, "repoid": REPOID })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_what_clients_parse() {
        assert!(VERSION.split('.').all(|part| part.parse::<u8>().is_ok()));
        assert!(VERSION.starts_with(RELEASE) && RELEASE.parse::<f64>().is_ok());
        assert!(REPOID.len() == 16 && REPOID.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

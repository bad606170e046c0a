//! `/etc/default/pveproxy`: the settings of the front server, of which those of access hold for the SPICE proxy as well.
//!
//! Facts: pve-http-server PVE/APIServer/Utils.pm (`read_proxy_config`). There a shell reads the file; here assignments with
//! or without quotes are read and nothing is run.

use super::addresses::{AccessRule, AddressSet};
use engine::{Context, Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// The settings, all optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// ALLOW_FROM, DENY_FROM, POLICY.
    pub access: AccessRule,
    /// LISTEN_IP.
    pub listen_ip: Option<String>,
    /// CIPHERS: TLS 1.2 and older.
    pub ciphers: Option<String>,
    /// CIPHERSUITES: TLS 1.3.
    pub ciphersuites: Option<String>,
    /// DHPARAMS.
    pub dhparams: Option<PathBuf>,
    /// TLS_KEY_FILE.
    pub tls_key_file: Option<PathBuf>,
    /// HONOR_CIPHER_ORDER.
    pub honor_cipher_order: Option<bool>,
    /// COMPRESSION.
    pub compression: Option<bool>,
    /// DISABLE_TLS_1_2.
    pub disable_tls_1_2: bool,
    /// DISABLE_TLS_1_3.
    pub disable_tls_1_3: bool,
    /// PROXY_REAL_IP_HEADER, in lower case.
    pub real_ip_header: Option<String>,
    /// PROXY_REAL_IP_ALLOW_FROM.
    pub real_ip_allow_from: Option<AddressSet>,
    /// MAX_WORKERS.
    pub max_workers: Option<usize>,
}

impl Settings {
    /// The node's settings.
    ///
    /// # Errors
    /// A file that cannot be read, or an assignment that makes no sense; the text names the file.
    pub fn of_node(ctx: &Context) -> Result<Self> {
        let file = ctx.root.path("/etc/default/pveproxy");
        Self::parse(&engine::file::read_or_empty(&file)?)
            .map_err(|error| Error::new(format!("{}: {error}", file.display())))
    }

    /// Reads the settings from the file's text.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let values = assignments(text);
        let get = |name: &str| values.get(name).filter(|value| !value.is_empty());
        let flag = |name: &str| match get(name).map(String::as_str) {
            None => Ok(None),
            Some("0") => Ok(Some(false)),
            Some("1") => Ok(Some(true)),
            Some(other) => Err(format!("{name}: unknown value '{other}' - use 0 or 1")),
        };
        let addresses = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => text.parse::<AddressSet>().map(Some).map_err(|error| format!("{name}: {error}")),
        };
        Ok(Settings {
            access: AccessRule {
                allow: addresses("ALLOW_FROM")?.unwrap_or_default(),
                deny: addresses("DENY_FROM")?.unwrap_or_default(),
                allow_by_default: match get("POLICY").map(String::as_str) {
                    Some("allow") => true,
                    None | Some("deny") => false,
                    Some(other) => return Err(format!("unknown policy '{other}'")),
                },
            },
            listen_ip: get("LISTEN_IP").cloned(),
            ciphers: get("CIPHERS").cloned(),
            ciphersuites: get("CIPHERSUITES").cloned(),
            dhparams: get("DHPARAMS").map(PathBuf::from),
            tls_key_file: get("TLS_KEY_FILE").map(PathBuf::from),
            honor_cipher_order: flag("HONOR_CIPHER_ORDER")?,
            compression: flag("COMPRESSION")?,
            disable_tls_1_2: flag("DISABLE_TLS_1_2")?.unwrap_or(false),
            disable_tls_1_3: flag("DISABLE_TLS_1_3")?.unwrap_or(false),
            real_ip_header: get("PROXY_REAL_IP_HEADER").map(|name| name.to_ascii_lowercase()),
            real_ip_allow_from: addresses("PROXY_REAL_IP_ALLOW_FROM")?,
            max_workers: get("MAX_WORKERS").and_then(|text| text.parse().ok()).filter(|count| (1..128).contains(count)),
        })
    }
}

/// `NAME=value` lines of a shell file; the last assignment of a name counts.
fn assignments(text: &str) -> HashMap<String, String> {
    let mut values = HashMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        if let Some((name, value)) = line.split_once('=')
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            values.insert(name.to_owned(), unquote(value));
        }
    }
    values
}

/// The first word of a shell text, without its quotes.
fn unquote(text: &str) -> String {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.extend(chars.next()),
            (c, None) if c.is_whitespace() || c == ';' => break,
            (c, _) => word.push(c),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read() {
        let settings = Settings::parse(
            "# comment\nALLOW_FROM=\"10.0.0.1-10.0.0.5,192.168.0.0/22\"\nDENY_FROM=all # rest\nPOLICY='allow'\n\
             export LISTEN_IP=::1\nCOMPRESSION=0\nDISABLE_TLS_1_2=1\nPROXY_REAL_IP_HEADER=X-Forwarded-For\nMAX_WORKERS=2\n\
             nonsense\nTLS_KEY_FILE=/a\\ b\n",
        )
        .unwrap();
        assert!(settings.access.admits("10.0.0.3".parse().unwrap()));
        assert!(!settings.access.admits("8.8.8.8".parse().unwrap()));
        assert_eq!(settings.listen_ip.as_deref(), Some("::1"));
        assert_eq!(settings.compression, Some(false));
        assert!(settings.disable_tls_1_2 && !settings.disable_tls_1_3);
        assert_eq!(settings.real_ip_header.as_deref(), Some("x-forwarded-for"));
        assert_eq!(settings.max_workers, Some(2));
        assert_eq!(settings.tls_key_file, Some("/a b".into()));
    }

    #[test]
    fn nothing_is_fine_nonsense_is_not() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert_eq!(Settings::parse("MAX_WORKERS=200").unwrap().max_workers, None);
        for text in ["POLICY=perhaps", "COMPRESSION=yes", "ALLOW_FROM=x"] {
            assert!(Settings::parse(text).is_err(), "{text}");
        }
    }
}

//! The named formats of texts: 97 simple ones, their list and optional forms, and property strings.
//! Owns which name means which check; the checks themselves are grouped by what the texts name.
//! Nothing here looks at the machine: names that only a host knows are checked for their shape alone.

mod calendar;
mod firewall;
mod guest;
pub(crate) mod ids;
pub mod net;
mod pem;
mod sdn;
pub mod size;
mod storage;

use crate::property_string;
use crate::table::{self, SIMPLE_FORMATS};
use serde::Deserialize;

/// Result of a check: the text behind `invalid format - `, without its line break.
pub(crate) type Checked = Result<(), String>;

/// Says yes, or fails with a text.
pub(crate) fn ensure(good: bool, text: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { Err(text()) }
}

/// Checks a text against a format: a simple one, `X-list`, `X-opt`, or a property string.
pub fn check(format: &str, text: &str) -> Result<(), String> {
    check_at(format, text, "").map_err(|reason| reason.trim_end_matches('\n').to_owned())
}

/// As [`check`], for the property at `path`; the reason ends with a line break, as it stands in the `errors` map.
pub(crate) fn check_at(format: &str, text: &str, path: &str) -> Result<(), String> {
    if let Some(found) = property_string::format(format) {
        return property_string::check_at(found, format, text, path);
    }
    check_simple(format, text).map_err(|reason| format!("{reason}\n"))
}

fn check_simple(format: &str, text: &str) -> Checked {
    if let Some(base) = format.strip_suffix("-list") {
        return split_list(text).into_iter().try_for_each(|element| check_one(base, element));
    }
    match format.strip_suffix("-opt") {
        Some(_) if text.is_empty() || text == "0" => Ok(()),
        Some(base) => check_one(base, text),
        None => check_one(format, text),
    }
}

/// Splits a list: at NUL if there is one, else at any run of commas, semicolons and white space.
pub fn split_list(text: &str) -> Vec<&str> {
    if text.contains('\0') {
        return text.trim_end_matches('\0').split('\0').collect();
    }
    text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()).filter(|part| !part.is_empty()).collect()
}

/// The names of all simple formats.
pub fn simple_formats() -> impl Iterator<Item = &'static str> {
    SIMPLE_FORMATS.iter().map(|(name, _, _)| *name)
}

/// The names of all property string formats.
pub fn property_string_formats() -> impl Iterator<Item = &'static str> {
    table::PROPERTY_STRINGS.iter().map(|(name, _, _)| *name)
}

/// What the tables say about a simple format.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SimpleFormat {
    /// Pattern for the whole text, where there is one.
    pub pattern: Option<String>,
    /// Allowed words, where they are few.
    #[serde(rename = "enum")]
    pub words: Option<Vec<String>>,
    /// What a pattern cannot say.
    pub rule: Option<String>,
    enum_icmp: Vec<String>,
    enum_icmpv6: Vec<String>,
}

/// Looks up a simple format.
pub fn simple_format(name: &str) -> Option<SimpleFormat> {
    table::record(&SIMPLE_FORMATS, name)
}

/// One of the words that the tables list for a format.
fn is_word(format: &str, text: &str) -> bool {
    simple_format(format).and_then(|format| format.words).is_some_and(|words| words.iter().any(|word| word == text))
}

fn check_one(format: &str, text: &str) -> Checked {
    match format {
        "string" | "regex" => Ok(()),
        "CIDR" => net::cidr(text),
        "CIDRv4" => net::cidr_v4(text),
        "CIDRv6" => net::cidr_v6(text),
        "FullRangeCIDR" => net::full_range_cidr(text),
        "FullRangeCIDRv4" => net::full_range_cidr_v4(text),
        "FullRangeCIDRv6" => net::full_range_cidr_v6(text),
        "IPorCIDR" => firewall::ip_or_cidr(text),
        "IPorCIDRorAlias" => firewall::ip_or_cidr_or_alias(text),
        "acme-plugin-id" => ids::plugin_id("ACME plugin", text),
        "address" => net::address(text),
        "bridge-pair" => ids::pair(text, ids::bridge_id),
        "disk-size" => size::check(text),
        "dns-name" => net::dns_name(text),
        "email" => ids::email(text),
        "email-or-username" => ids::email_or_username(text),
        "graphite-path" => net::graphite_path(text),
        "ip" => net::ip(text),
        "ipv4" => net::ipv4(text),
        "ipv4mask" => net::ipv4_mask(text),
        "ipv6" => net::ipv6(text),
        "ldap-simple-attr" => ids::ldap_attribute(text),
        "lxc-ip-with-ll-iface" => net::ip_with_link_local_interface(text),
        "mac-addr" => net::mac_address(text),
        "mac-prefix" => net::mac_prefix(text),
        "pem-certificate" => pem::certificate(text),
        "pem-certificate-chain" => pem::certificate_chain(text),
        "pem-string" => pem::any(text),
        "pve-acme-alias" => net::acme_alias(text),
        "pve-acme-domain" => net::acme_domain(text),
        "pve-bridge-id" => ids::bridge_id(text),
        "pve-calendar-event" => calendar::event(text),
        "pve-command-batch" => guest::command_batch(text),
        "pve-configid" => ids::config_id(text),
        "pve-cpuset" => guest::cpuset(text),
        "pve-ct-timezone" => guest::container_timezone(text),
        "pve-day-of-week" => guest::day_of_week(text),
        "pve-dir-override" => storage::directory_override(text),
        "pve-fw-addr-spec" => firewall::addresses(text),
        "pve-fw-comment-spec" => firewall::comment(text),
        "pve-fw-conntrack-helper" => firewall::conntrack_helpers(text),
        "pve-fw-dport-spec" => firewall::ports(text, true),
        "pve-fw-icmp-type-spec" => firewall::icmp_type(text),
        "pve-fw-protocol-spec" => firewall::protocol(text),
        "pve-fw-sport-spec" => firewall::ports(text, false),
        "pve-groupid" => ids::group_id(text),
        "pve-ha-node" => ids::ha_node(text),
        "pve-ha-resource-id" => ids::ha_resource(text),
        "pve-ha-resource-or-vm-id" => ids::ha_resource_or_vm(text),
        "pve-hotplug-features" => guest::hotplug_features(text),
        "pve-iface" => net::interface(text),
        "pve-ipv4-config" => net::ipv4_config(text),
        "pve-ipv6-config" => net::ipv6_config(text),
        "pve-lxc-dev-string" => guest::container_device(text),
        "pve-lxc-mp-string" => guest::container_mount_point(text),
        "pve-node" => ids::node(text),
        "pve-phys-bits" => guest::phys_bits(text),
        "pve-poolid" => ids::pool_id(text),
        "pve-priv" => ids::privilege(text),
        "pve-qm-bootdev" => guest::boot_device(text),
        "pve-qm-bootdisk" => guest::boot_disk(text),
        "pve-realm" => ids::realm(text),
        "pve-replication-job-id" => ids::replication_job(text),
        "pve-roleid" => ids::role_id(text),
        "pve-sdn-bgp-rt" => sdn::route_target(text),
        "pve-sdn-fabric-id" => sdn::fabric_id(text),
        "pve-sdn-isis-net" => sdn::isis_net(text),
        "pve-sdn-prefix-list-id" => sdn::prefix_list_id(text),
        "pve-sdn-route-map-id" => sdn::route_map_id(text),
        "pve-sdn-subnet-id" => sdn::subnet_id(text),
        "pve-sdn-vlanrange" => sdn::tag_ranges(text, 4096),
        "pve-sdn-vxlanrange" => sdn::tag_ranges(text, 16_777_216),
        "pve-sdn-wireguard-iface-name" => sdn::wireguard_interface(text),
        "pve-startup-order" => guest::startup_order(text),
        "pve-storage-content" => storage::content(text),
        "pve-storage-format" => storage::image_format(text),
        "pve-storage-id" => ids::plugin_id("storage", text),
        "pve-storage-options" => storage::mount_options(text),
        "pve-storage-path" => storage::path(text),
        "pve-storage-path-in-property-string" => storage::path_in_property_string(text),
        "pve-storage-portal-dns" => storage::portal(text),
        "pve-storage-server" => storage::server(text),
        "pve-storage-vgname" => storage::volume_group(text),
        "pve-storage-zfs-blocksize" => storage::zfs_block_size(text),
        "pve-tag" => ids::tag(text),
        "pve-task-status-type" => guest::task_status(text),
        "pve-tfa-secret" => ids::tfa_secret(text),
        "pve-tokenid" => ids::token_id(text),
        "pve-userid" => ids::user_id(text),
        "pve-vlan-id-or-range" => net::vlan_or_range(text),
        "pve-vmid" => ids::vmid(text),
        "pve-volume-id" => storage::volume_id(text),
        "pve-volume-id-or-absolute-path" => storage::volume_id_or_path(text),
        "pve-volume-id-or-qm-path" => storage::volume_id_or_drive_path(text),
        "storage-pair" => ids::pair(text, |id| ids::plugin_id("storage", id)),
        "timezone" => guest::timezone(text),
        "urlencoded" => ids::urlencoded(text),
        other => Err(format!("undefined format '{other}'")),
    }
}

#[cfg(test)]
mod tests;

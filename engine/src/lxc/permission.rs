//! Which right each option of a container needs. (PVE: LXC.pm, check_ct_modify_config_perm and check_bridge_access)

use super::interface::Interface;
use super::volume::{self, MountPoint, Source};
use crate::config::guest::Part;
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Vmid, access, guest};
use contract::property_string;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Whose options are changed.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The container.
    pub vmid: Vmid,
    /// The pool that a new container joins.
    pub pool: Option<&'a str>,
    /// Its present options; none for a new container.
    pub old: Option<&'a Part>,
    /// Whether it is or will be unprivileged.
    pub unprivileged: bool,
}

/// Refuses changes that the caller may not make.
pub fn check_options(ctx: &Context, target: Target, set: &BTreeMap<String, String>, delete: &[String]) -> Result<()> {
    if ctx.caller.is_root() {
        return Ok(());
    }
    for (key, value) in set {
        check_option(ctx, target, key, Some(value))?;
    }
    delete.iter().try_for_each(|key| check_option(ctx, target, key, None))
}

fn check_option(ctx: &Context, target: Target, key: &str, value: Option<&str>) -> Result<()> {
    let vm = |privilege: &str| check_vm(ctx, target, privilege);
    match key {
        "cores" | "cpuunits" | "cpulimit" => vm("VM.Config.CPU"),
        "memory" | "swap" => vm("VM.Config.Memory"),
        "nameserver" | "searchdomain" | "hostname" => vm("VM.Config.Network"),
        "features" => check_features(ctx, target, value),
        "hookscript" => refuse("changing the hookscript is only allowed for root@pam"),
        "tags" => {
            vm("VM.Config.Options")?;
            let old = target.old.and_then(|old| old.get(key)).unwrap_or_default();
            guest::tags::check_change(ctx, old, value.unwrap_or_default())
        }
        _ if volume::is_mount_key(key) => {
            vm("VM.Config.Disk")?;
            value.map_or(Ok(()), |value| check_mount(ctx, target.vmid, &MountPoint::parse(key, value)?))
        }
        _ if numbered(key, "dev") => refuse("configuring device passthrough is only allowed for root@pam"),
        _ if numbered(key, "net") => {
            vm("VM.Config.Network")?;
            let old = target.old.and_then(|old| old.get(key));
            old.into_iter().chain(value).try_for_each(|text| check_bridge(ctx, &Interface::parse(0, text)?))
        }
        _ => vm("VM.Config.Options"),
    }
}

fn numbered(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn refuse(text: &str) -> Result<()> {
    Err(Error::Forbidden(format!("Permission check failed ({text})")))
}

/// A right on the container, or on the pool that it joins.
fn check_vm(ctx: &Context, target: Target, privilege: &str) -> Result<()> {
    if target.pool.is_some_and(|pool| access::has(ctx, &format!("/pool/{pool}"), &[privilege])) {
        return Ok(());
    }
    access::check(ctx, &format!("/vms/{}", target.vmid), &[privilege])
}

fn check_mount(ctx: &Context, vmid: Vmid, mount: &MountPoint) -> Result<()> {
    match mount.source() {
        Source::Bind => refuse("mount point type bind is only allowed for root@pam"),
        Source::Device => refuse("mount point type device is only allowed for root@pam"),
        Source::Volume => match mount.wants_new_volume() {
            Some((storage, _)) => access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"]),
            None => {
                let id: VolumeId = mount.volume().parse().map_err(Error::new)?;
                storage::check_volume_access(ctx, Some(vmid), &id)
            }
        },
    }
}

fn check_bridge(ctx: &Context, net: &Interface) -> Result<()> {
    let Some(bridge) = net.get("bridge") else { return Ok(()) };
    let tag = net.number("tag").map(|tag| tag.to_string());
    access::check_bridge(ctx, bridge, tag.as_deref(), net.get("trunks"))
}

/// `nesting` of an unprivileged container may be changed with VM.Allocate; everything else is for root.
fn check_features(ctx: &Context, target: Target, value: Option<&str>) -> Result<()> {
    if !target.unprivileged {
        return refuse("changing feature flags for privileged container is only allowed for root@pam");
    }
    let parse = |text: Option<&str>| -> Map<String, Value> {
        text.and_then(|text| property_string::parse("~lxc-features", text).ok()).unwrap_or_default()
    };
    let (old, new) = (parse(target.old.and_then(|old| old.get("features"))), parse(value));
    let changed = |key: &String| old.get(key) != new.get(key);
    if old.keys().chain(new.keys()).any(|key| key != "nesting" && changed(key)) {
        return refuse("changing feature flags (except nesting) is only allowed for root@pam");
    }
    if changed(&"nesting".to_owned()) { check_vm(ctx, target, "VM.Allocate") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;

    #[test]
    fn only_root_may_reach_into_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path()).with_caller(Caller::verified("user@pve"));
        let target = Target { vmid: "100".parse().unwrap(), pool: None, old: None, unprivileged: true };
        let text = |key: &str, value: &str| {
            let set = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            check_options(&ctx, target, &set, &[]).unwrap_err().to_string()
        };
        assert_eq!(text("cores", "2"), "Permission check failed (/vms/100, VM.Config.CPU)");
        assert_eq!(
            text("hookscript", "local:snippets/a"),
            "Permission check failed (changing the hookscript is only allowed for root@pam)"
        );
        assert!(text("dev0", "/dev/kvm").contains("only allowed for root@pam"));
        assert!(text("features", "fuse=1").contains("except nesting"));
        assert_eq!(text("features", "nesting=1"), "Permission check failed (/vms/100, VM.Allocate)");
        let root = Context::for_test(directory.path());
        let set = BTreeMap::from([("mp0".to_owned(), "/etc,mp=/x".to_owned())]);
        check_options(&root, target, &set, &[]).unwrap();
    }
}

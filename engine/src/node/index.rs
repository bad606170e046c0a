//! Directories of the interface: methods that list the fixed names below their path.
//!
//! The contract knows the names, so one handler serves all of them. Methods that list things which exist only at run
//! time (nodes, guests, storages) are not bound here.

use crate::registry::{Binding, get};
use crate::{Call, Reply, Result};
use serde_json::{Value, json};

/// All directories with fixed names whose areas have nothing to add.
pub const METHODS: &[Binding] = &[
    get("/", list),
    get("/access", list),
    get("/access/openid", list),
    get("/cluster", list),
    get("/cluster/acme", list),
    get("/cluster/backup-info", list),
    get("/cluster/bulk-action", list),
    get("/cluster/bulk-action/guest", list),
    get("/cluster/ceph", list),
    get("/cluster/config", list),
    get("/cluster/firewall", list),
    get("/cluster/ha", list),
    get("/cluster/ha/status", list),
    get("/cluster/jobs", list),
    get("/cluster/mapping", list),
    get("/cluster/metrics", list),
    get("/cluster/notifications", list),
    get("/cluster/notifications/endpoints", list),
    get("/cluster/qemu", list),
    get("/cluster/sdn", list),
    get("/nodes/{node}", list),
    get("/nodes/{node}/apt", list),
    get("/nodes/{node}/capabilities", list),
    get("/nodes/{node}/capabilities/qemu", list),
    get("/nodes/{node}/ceph", list),
    get("/nodes/{node}/certificates", list),
    get("/nodes/{node}/certificates/acme", list),
    get("/nodes/{node}/disks", list),
    get("/nodes/{node}/firewall", list),
    get("/nodes/{node}/hardware", list),
    get("/nodes/{node}/hardware/pci/{pci-id-or-mapping}", list),
    get("/nodes/{node}/lxc/{vmid}", list),
    get("/nodes/{node}/lxc/{vmid}/firewall", list),
    get("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}", list),
    get("/nodes/{node}/lxc/{vmid}/status", list),
    get("/nodes/{node}/qemu/{vmid}", list),
    get("/nodes/{node}/qemu/{vmid}/agent", list),
    get("/nodes/{node}/qemu/{vmid}/firewall", list),
    get("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}", list),
    get("/nodes/{node}/qemu/{vmid}/status", list),
    get("/nodes/{node}/replication/{id}", list),
    get("/nodes/{node}/scan", list),
    get("/nodes/{node}/sdn", list),
    get("/nodes/{node}/services/{service}", list),
    get("/nodes/{node}/storage/{storage}", list),
    get("/nodes/{node}/tasks/{upid}", list),
];

/// One row for each child, named by the member that the contract's link declares.
fn list(call: &Call) -> Result<Reply> {
    let member = call.method.child_member().unwrap_or("name");
    let children = contract::children(call.method.template).unwrap_or_default();
    let rows: Vec<Value> =
        children.iter().filter(|child| !child.variable).map(|child| json!({ member: child.name })).collect();
    Ok(Reply::from(Value::Array(rows)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Verb;

    #[test]
    fn every_directory_has_only_fixed_children_and_a_link() {
        for row in METHODS {
            let method = contract::method(Verb::Get, row.template).unwrap_or_else(|| panic!("{}", row.template));
            assert!(method.child_member().is_some(), "{}", row.template);
            let children = contract::children(row.template).unwrap();
            assert!(!children.is_empty() && children.iter().all(|child| !child.variable), "{}", row.template);
        }
    }
}

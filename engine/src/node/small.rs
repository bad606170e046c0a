//! Small answers about the node: traffic of guests, the subscription that there is not, replication jobs that there are
//! not on a node alone.

use crate::{Call, Reply, Result, access, file, live::counters};
use openssl::hash::{MessageDigest, hash};
use serde_json::{Value, json};

/// `GET /nodes/{node}/netstat`: numbers are text, as in PVE. (PVE: pve-manager PVE/API2/Nodes.pm, netstat)
pub fn netstat(_call: &Call) -> Result<Reply> {
    let rows = counters::read().into_iter().map(|counter| {
        json!({
            "vmid": counter.vmid.to_string(),
            "dev": format!("net{}", counter.device),
            "in": counter.received.to_string(),
            "out": counter.sent.to_string(),
        })
    });
    Ok(Reply::from(Value::Array(rows.collect())))
}

/// `GET /nodes/{node}/subscription`. (PVE: pve-manager PVE/API2/Subscription.pm, get)
pub fn subscription(call: &Call) -> Result<Reply> {
    let mut answer = json!({ "status": "notfound", "message": "There is no subscription key" });
    if access::has(call.ctx, &format!("/nodes/{}", call.ctx.node), &["Sys.Audit"]) {
        let id = file::read_or_empty(&call.ctx.root.path("/etc/machine-id"))?;
        let digest = hash(MessageDigest::md5(), id.trim().as_bytes()).map(|sum| sum.to_vec()).unwrap_or_default();
        answer["serverid"] = json!(digest.iter().map(|byte| format!("{byte:02X}")).collect::<String>());
        answer["url"] = json!("https://www.proxmox.com/en/proxmox-virtual-environment/pricing");
    }
    Ok(Reply::from(answer))
}

/// `GET /nodes/{node}/replication` and `GET /cluster/replication`: a job needs a second node, so there is none.
pub fn no_replication(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!([])))
}

//! Small answers about the node: traffic of guests, the subscription that there is not, replication jobs that there are
//! not on a node alone.

use crate::{Call, Error, Reply, Result, access, error::ResultExt, file, live::counters};
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

/// What a node of PVE's keeps its key in.
const SUBSCRIPTION: &str = "/etc/subscription";

/// `POST /nodes/{node}/subscription`: without a key there is nothing to check, and we can check none.
pub fn check_subscription(call: &Call) -> Result<Reply> {
    if call.ctx.root.path(SUBSCRIPTION).exists() {
        return Err(Error::NotImplemented("subscription keys are not supported".into()));
    }
    Ok(Reply::null())
}

/// `DELETE /nodes/{node}/subscription`: removes the key that a node of PVE's may have left.
pub fn remove_subscription(call: &Call) -> Result<Reply> {
    let key = call.ctx.root.path(SUBSCRIPTION);
    file::remove_if_there(&key).context(|| "cannot delete subscription key")?;
    Ok(Reply::null())
}

/// `GET /nodes/{node}/replication` and `GET /cluster/replication`: a job needs a second node, so there is none.
pub fn no_replication(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!([])))
}

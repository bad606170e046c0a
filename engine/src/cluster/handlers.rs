//! `/cluster`: the methods bound here.

use super::{backup_info, ha, log, nextid, options, resources, status};
use crate::registry::{Binding, get, put};
use crate::{Call, Reply, Result};
use serde_json::json;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/cluster/backup-info/not-backed-up", backup_info::not_backed_up),
    get("/cluster/config/qdevice", no_quorum_device),
    get("/cluster/ha/groups", ha::groups),
    get("/cluster/ha/resources", ha::resources),
    get("/cluster/ha/resources/{sid}", ha::resource),
    get("/cluster/ha/rules", ha::rules),
    get("/cluster/ha/status/current", ha::status),
    get("/cluster/log", log::get),
    get("/cluster/nextid", nextid::get),
    get("/cluster/options", options::get),
    put("/cluster/options", options::put),
    get("/cluster/resources", resources::get),
    get("/cluster/status", status::get),
];

/// A node on its own has no quorum device.
fn no_quorum_device(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!({})))
}

//! `/cluster`: the methods bound here.

use super::{backup_info, log, nextid, options, resources, status};
use crate::registry::{Binding, get, put};
use crate::{Call, Reply, Result};
use serde_json::json;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/cluster/backup-info/not-backed-up", backup_info::not_backed_up),
    get("/cluster/config/qdevice", no_quorum_device),
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

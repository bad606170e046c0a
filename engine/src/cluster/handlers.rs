//! `/cluster`: the methods bound here.

use super::{backup_info, ha, log, metrics, nextid, options, resources, status};
use crate::registry::{Binding, get, put};
use crate::{Call, Error, Reply, Result};
use serde_json::json;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/cluster/backup-info/not-backed-up", backup_info::not_backed_up),
    get("/cluster/config/apiversion", join_version),
    get("/cluster/config/join", no_cluster_to_join),
    get("/cluster/config/nodes", no_cluster_nodes),
    get("/cluster/config/qdevice", no_quorum_device),
    get("/cluster/config/totem", no_totem),
    get("/cluster/ha/groups", ha::groups),
    get("/cluster/ha/resources", ha::resources),
    get("/cluster/ha/resources/{sid}", ha::resource),
    get("/cluster/ha/rules", ha::rules),
    get("/cluster/ha/status/current", ha::status),
    get("/cluster/log", log::get),
    get("/cluster/metrics/export", metrics::export),
    get("/cluster/nextid", nextid::get),
    get("/cluster/options", options::get),
    put("/cluster/options", options::put),
    get("/cluster/resources", resources::get),
    get("/cluster/status", status::get),
];

/// The version of the way in which nodes join. (PVE: pve-cluster PVE/Cluster/Setup.pm, JOIN_API_VERSION)
fn join_version(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!(1)))
}

/// A node on its own is no cluster that others could join. (PVE: pve-cluster PVE/API2/ClusterConfig.pm, join_info)
fn no_cluster_to_join(_call: &Call) -> Result<Reply> {
    Err(Error::MissingDependency("node is not in a cluster, no join info available!".into()))
}

/// A node on its own is not among the nodes of a cluster.
fn no_cluster_nodes(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!([])))
}

/// A node on its own has no settings of the cluster's messages.
fn no_totem(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!({})))
}

/// A node on its own has no quorum device.
fn no_quorum_device(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!({})))
}

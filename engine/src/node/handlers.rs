//! `/version` and `/nodes`: the methods of the node itself.

use super::{
    bulk, custom_certificate, dns, execute, graphs, guests, journal, options, overview, power, report, services, small,
    time, version, wake,
};
use crate::registry::{Binding, delete, get, post, put};

pub use super::apt::METHODS as PACKAGES;
pub use super::disks::METHODS as DISKS;
pub use super::index::METHODS as DIRECTORIES;
pub use super::scan::METHODS as SCANS;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/cluster/replication", small::no_replication),
    get("/version", version::get),
    get("/nodes", overview::list),
    get("/nodes/{node}/certificates/info", custom_certificate::info),
    post("/nodes/{node}/certificates/custom", custom_certificate::upload),
    delete("/nodes/{node}/certificates/custom", custom_certificate::remove),
    get("/nodes/{node}/config", options::get),
    put("/nodes/{node}/config", options::put),
    get("/nodes/{node}/dns", dns::get),
    put("/nodes/{node}/dns", dns::put),
    post("/nodes/{node}/execute", execute::execute),
    get("/nodes/{node}/hosts", dns::get_hosts),
    post("/nodes/{node}/hosts", dns::post_hosts),
    get("/nodes/{node}/journal", journal::journal),
    get("/nodes/{node}/lxc", guests::containers),
    get("/nodes/{node}/lxc/{vmid}/rrddata", graphs::of_container),
    get("/nodes/{node}/netstat", small::netstat),
    get("/nodes/{node}/qemu", guests::virtual_machines),
    get("/nodes/{node}/qemu/{vmid}/rrddata", graphs::of_machine),
    get("/nodes/{node}/replication", small::no_replication),
    get("/nodes/{node}/report", report::get),
    post("/cluster/bulk-action/guest/shutdown", bulk::bulk_shutdown),
    post("/cluster/bulk-action/guest/start", bulk::bulk_start),
    post("/cluster/bulk-action/guest/suspend", bulk::bulk_suspend),
    post("/nodes/{node}/startall", bulk::start_all),
    get("/nodes/{node}/rrd", graphs::picture_of_node),
    get("/nodes/{node}/rrddata", graphs::of_node),
    get("/nodes/{node}/lxc/{vmid}/rrd", graphs::picture_of_container),
    get("/nodes/{node}/qemu/{vmid}/rrd", graphs::picture_of_machine),
    get("/nodes/{node}/storage/{storage}/rrd", graphs::picture_of_storage),
    get("/nodes/{node}/services", services::list),
    post("/nodes/{node}/services/{service}/reload", services::reload),
    post("/nodes/{node}/services/{service}/restart", services::restart),
    post("/nodes/{node}/services/{service}/start", services::start),
    get("/nodes/{node}/services/{service}/state", services::state),
    post("/nodes/{node}/services/{service}/stop", services::stop),
    get("/nodes/{node}/status", overview::status),
    post("/nodes/{node}/status", power::post),
    post("/nodes/{node}/stopall", bulk::stop_all),
    get("/nodes/{node}/storage/{storage}/rrddata", graphs::of_storage),
    post("/nodes/{node}/suspendall", bulk::suspend_all),
    delete("/nodes/{node}/subscription", small::remove_subscription),
    get("/nodes/{node}/subscription", small::subscription),
    post("/nodes/{node}/subscription", small::check_subscription),
    get("/nodes/{node}/syslog", journal::syslog),
    get("/nodes/{node}/time", time::get),
    put("/nodes/{node}/time", time::put),
    get("/nodes/{node}/version", version::get),
    post("/nodes/{node}/wakeonlan", wake::wake),
];

//! The methods below `/nodes/{node}/qemu` and `/nodes/{node}/capabilities/qemu` that are built, each bound to its
//! handler.

pub mod agent;
pub mod cloudinit;
mod config;
mod console;
pub mod copies;
mod power;
pub mod snapshot;

use super::{capabilities, cpu_models};
use crate::registry::{Binding, delete, get, post, put};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/cluster/qemu/cpu-flags", capabilities::all_flags),
    get("/cluster/qemu/custom-cpu-models", cpu_models::list),
    post("/cluster/qemu/custom-cpu-models", cpu_models::create),
    delete("/cluster/qemu/custom-cpu-models/{cputype}", cpu_models::remove),
    get("/cluster/qemu/custom-cpu-models/{cputype}", cpu_models::one),
    put("/cluster/qemu/custom-cpu-models/{cputype}", cpu_models::update),
    get("/nodes/{node}/capabilities/qemu/cpu", capabilities::models),
    get("/nodes/{node}/capabilities/qemu/cpu-flags", capabilities::flags),
    get("/nodes/{node}/capabilities/qemu/machines", capabilities::machines),
    get("/nodes/{node}/capabilities/qemu/migration", capabilities::migration),
    post("/nodes/{node}/qemu", config::create),
    delete("/nodes/{node}/qemu/{vmid}", config::destroy),
    get("/nodes/{node}/qemu/{vmid}/config", config::get),
    post("/nodes/{node}/qemu/{vmid}/config", config::update_task),
    put("/nodes/{node}/qemu/{vmid}/config", config::update_now),
    post("/nodes/{node}/qemu/{vmid}/monitor", power::monitor),
    get("/nodes/{node}/qemu/{vmid}/pending", config::pending),
    put("/nodes/{node}/qemu/{vmid}/resize", config::resize),
    put("/nodes/{node}/qemu/{vmid}/sendkey", power::send_key),
    post("/nodes/{node}/qemu/{vmid}/spiceproxy", console::spice),
    get("/nodes/{node}/qemu/{vmid}/status/current", power::current),
    post("/nodes/{node}/qemu/{vmid}/status/reboot", power::reboot),
    post("/nodes/{node}/qemu/{vmid}/status/reset", power::reset),
    post("/nodes/{node}/qemu/{vmid}/status/resume", power::resume),
    post("/nodes/{node}/qemu/{vmid}/status/shutdown", power::shutdown),
    post("/nodes/{node}/qemu/{vmid}/status/start", power::start),
    post("/nodes/{node}/qemu/{vmid}/status/stop", power::stop),
    post("/nodes/{node}/qemu/{vmid}/status/suspend", power::suspend),
    post("/nodes/{node}/qemu/{vmid}/termproxy", console::terminal),
    put("/nodes/{node}/qemu/{vmid}/unlink", config::unlink),
    post("/nodes/{node}/qemu/{vmid}/vncproxy", console::picture),
    get("/nodes/{node}/qemu/{vmid}/vncwebsocket", console::web_socket),
];

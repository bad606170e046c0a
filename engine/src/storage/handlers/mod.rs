//! `/storage` and `/nodes/{node}/storage`: the methods of storages and volumes.

mod appliance;
mod config;
mod content;
mod copy;
mod download;
mod import;
mod prune;
mod status;
mod upload;

use crate::registry::{Binding, delete, get, post, put};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/storage", config::list),
    post("/storage", config::create),
    get("/storage/{storage}", config::read),
    put("/storage/{storage}", config::update),
    delete("/storage/{storage}", config::remove),
    get("/nodes/{node}/storage", status::list),
    get("/nodes/{node}/storage/{storage}/status", status::read),
    get("/nodes/{node}/storage/{storage}/content", content::list),
    post("/nodes/{node}/storage/{storage}/content", content::allocate),
    get("/nodes/{node}/storage/{storage}/content/{volume}", content::read),
    put("/nodes/{node}/storage/{storage}/content/{volume}", content::update),
    delete("/nodes/{node}/storage/{storage}/content/{volume}", content::remove),
    post("/nodes/{node}/storage/{storage}/content/{volume}", copy::copy),
    get("/nodes/{node}/storage/{storage}/import-metadata", import::metadata),
    get("/nodes/{node}/storage/{storage}/identity", import::identity),
    get("/nodes/{node}/storage/{storage}/prunebackups", prune::preview),
    delete("/nodes/{node}/storage/{storage}/prunebackups", prune::run),
    post("/nodes/{node}/storage/{storage}/upload", upload::upload),
    post("/nodes/{node}/storage/{storage}/download-url", download::download),
    post("/nodes/{node}/storage/{storage}/oci-registry-pull", appliance::pull),
    get("/nodes/{node}/query-oci-repo-tags", appliance::repository_tags),
    get("/nodes/{node}/query-url-metadata", download::metadata),
    get("/nodes/{node}/aplinfo", appliance::list),
    post("/nodes/{node}/aplinfo", appliance::download),
];

//! Who may do what: users, groups, roles, tokens, pools, the access tree; and how a client shows who it is.
//!
//! ```text
//! password ── login ──> ticket, csrf ─┐
//! token ──────────────────────────────┴─> caller ── check_method ──> handler ── check ──> …
//! ```
//! Owns `user.cfg`, `domains.cfg`, the keys of tickets, and the secrets below `priv`. Does not know HTTP: reading cookies and
//! headers is the front server's work. Secrets are never printed, logged or put into an error.

mod acl;
mod bridge;
mod cache;
pub mod crypt;
pub mod csrf;
pub mod handlers;
mod identity;
pub mod keys;
mod login;
mod method;
pub mod pam;
mod path;
mod permission;
mod privilege;
mod realm;
mod role;
mod second_factor;
mod shadow;
mod signed;
pub mod spice_ticket;
mod store;
pub mod ticket;
pub mod token;
mod user_config;
mod view;
pub mod vnc_ticket;

pub use bridge::{check_bridge, sees_bridge};
pub use crypt::hash as hash_password;
pub use identity::{TokenId, UserId};
pub use method::check_method;
pub use privilege::{Privilege, PrivilegeSet};
pub use user_config::UserConfig;
pub use view::View;

use crate::{Context, Result, Vmid};

/// Fails unless the caller has all these privileges on a path, with 403 `Permission check failed (PATH, PRIVILEGE)`.
pub fn check(ctx: &Context, path: &str, privileges: &[&str]) -> Result<()> {
    missing(ctx, path, privileges, false)?.map_or(Ok(()), |missing| Err(missing.error()))
}

/// Fails unless the caller has one of these privileges on a path, with 403 `Permission check failed (PATH, A|B)`.
pub fn check_any(ctx: &Context, path: &str, privileges: &[&str]) -> Result<()> {
    missing(ctx, path, privileges, true)?.map_or(Ok(()), |missing| Err(missing.error()))
}

/// Fails unless the caller may change the entries of a path. (PVE: PVE/RPCEnvironment.pm, check_perm_modify)
pub fn check_modify(ctx: &Context, path: &str) -> Result<()> {
    check_any(ctx, path, &method::modifying_privileges(path))
}

/// Whether the caller has all these privileges on a path. When the files cannot be read, nobody has any.
pub fn has(ctx: &Context, path: &str, privileges: &[&str]) -> bool {
    missing(ctx, path, privileges, false).is_ok_and(|missing| missing.is_none())
}

/// Whether the caller has one of these privileges on a path. When the files cannot be read, nobody has any.
pub fn has_any(ctx: &Context, path: &str, privileges: &[&str]) -> bool {
    missing(ctx, path, privileges, true).is_ok_and(|missing| missing.is_none())
}

fn missing(ctx: &Context, path: &str, privileges: &[&str], any: bool) -> Result<Option<method::Missing>> {
    if ctx.caller.is_root() {
        return Ok(None);
    }
    let config = store::load(ctx)?;
    let path = path::normalize(path).unwrap_or_default();
    let rights = permission::rights(&config, ctx.caller.id(), &path);
    Ok(method::missing(rights, &path, privileges, any))
}

/// The users, groups, roles, pools and entries as they are now.
pub fn config(ctx: &Context) -> Result<std::sync::Arc<UserConfig>> {
    store::load(ctx)
}

/// Removes all second factors of a user, who can then log in by password alone.
pub fn remove_second_factors(ctx: &Context, user: &UserId) -> Result<()> {
    second_factor::forget(ctx, user)?;
    store::update(ctx, "removing second factors failed", |config| {
        config.user_mut(user)?.keys.clear();
        Ok(())
    })
}

/// The pool that a guest is in.
pub fn vm_pool(ctx: &Context, vmid: Vmid) -> Option<String> {
    store::load(ctx).ok()?.pool_of(vmid).map(str::to_owned)
}

/// Puts a new guest into a pool. A pool that does not exist is left alone, as PVE does: it was there when the caller's
/// rights were checked.
pub fn pool_add_guest(ctx: &Context, pool: &str, vmid: Vmid) -> Result<()> {
    store::update(ctx, &format!("can't add VM {vmid} to pool '{pool}'"), |config| {
        if config.pools.contains_key(pool) {
            config.set_pool(vmid, Some(pool));
        }
        Ok(())
    })
}

/// Takes a guest out of its pool; its entries in the access tree stay.
pub fn pool_remove_guest(ctx: &Context, vmid: Vmid) -> Result<()> {
    store::update(ctx, &format!("pool cleanup for VM {vmid} failed"), |config| {
        config.set_pool(vmid, None);
        Ok(())
    })
}

/// Forgets a guest that is gone: its pool and its entries in the access tree.
pub fn remove_guest(ctx: &Context, vmid: Vmid) -> Result<()> {
    store::update(ctx, &format!("access permissions cleanup for VM {vmid} failed"), |config| {
        config.acl.remove_path(&format!("/vms/{vmid}"));
        config.set_pool(vmid, None);
        Ok(())
    })
}

/// Forgets a storage that is gone: its pools and its entries in the access tree.
pub fn remove_storage(ctx: &Context, storage: &str) -> Result<()> {
    store::update(ctx, &format!("access permissions cleanup for storage {storage} failed"), |config| {
        config.acl.remove_path(&format!("/storage/{storage}"));
        for pool in config.pools.values_mut() {
            pool.storages.remove(storage);
        }
        Ok(())
    })
}

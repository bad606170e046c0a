//! `priv/tfa.cfg`: second factors. We cannot check any, so a user who has one cannot log in by password; nobody gets in
//! with less than what was asked of him before. (PVE: pve-access-control PVE/AccessControl.pm, parse_priv_tfa_config)

use super::identity::UserId;
use super::keys;
use crate::{Context, Result, file};
use serde_json::Value;
use std::path::PathBuf;

fn path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("priv/tfa.cfg")
}

/// Whether a user has second factors, or the file is one that we cannot read.
pub fn is_configured(ctx: &Context, user: &UserId) -> Result<bool> {
    let text = file::read_or_empty(&path(ctx))?;
    if text.trim().is_empty() {
        return Ok(false);
    }
    let Ok(config) = serde_json::from_str::<Value>(&text) else { return Ok(true) };
    let Some(entries) = config.get("users").and_then(|users| users.get(user.as_str())) else { return Ok(false) };
    let is_empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        other => other.is_null(),
    };
    Ok(!entries.as_object().is_some_and(|kinds| kinds.values().all(is_empty)))
}

/// Forgets the second factors of a user who is gone.
pub fn forget(ctx: &Context, user: &UserId) -> Result<()> {
    if !path(ctx).exists() {
        return Ok(());
    }
    file::update(ctx, &path(ctx), keys::PRIVATE_MODE, |text| {
        let Ok(mut config) = serde_json::from_str::<Value>(text) else { return Ok(text.to_owned()) };
        let users = config.get_mut("users").and_then(Value::as_object_mut);
        match users.and_then(|users| users.remove(user.as_str())) {
            Some(_) => Ok(config.to_string()),
            None => Ok(text.to_owned()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_second_factor_is_known_and_doubt_means_yes() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let user: UserId = "joe@pve".parse().unwrap();
        assert!(!is_configured(&ctx, &user).unwrap());
        std::fs::create_dir_all(ctx.root.etc_pve("priv")).unwrap();
        for (text, expected) in [
            ("", false),
            (r#"{"users":{"joe@pve":{"totp":[{"entry":"x"}]}}}"#, true),
            (r#"{"users":{"joe@pve":{"recovery":{"secret":"x"}}}}"#, true),
            (r#"{"users":{"joe@pve":{"totp":[]}}}"#, false),
            (r#"{"users":{"ann@pve":{"totp":[1]}}}"#, false),
            ("joe@pve:oath:x:", true),
        ] {
            std::fs::write(path(&ctx), text).unwrap();
            assert_eq!(is_configured(&ctx, &user).unwrap(), expected, "{text}");
        }
        std::fs::write(path(&ctx), r#"{"users":{"ann@pve":{"totp":[1]},"joe@pve":{"totp":[1]}}}"#).unwrap();
        forget(&ctx, &user).unwrap();
        assert_eq!(std::fs::read_to_string(path(&ctx)).unwrap(), r#"{"users":{"ann@pve":{"totp":[1]}}}"#);
    }
}

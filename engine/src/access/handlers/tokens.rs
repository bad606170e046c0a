//! API tokens of users. (PVE: pve-access-control PVE/API2/User.pm)

use super::super::acl::Member;
use super::super::identity::{TokenId, UserId};
use super::super::user_config::{Token, User};
use super::super::{config, store, token};
use super::put_text;
use crate::{Call, Error, Reply, Result};
use serde_json::{Map, Value, json};

fn describe(token: &Token) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("expire".into(), json!(token.expire));
    row.insert("privsep".into(), json!(u8::from(token.separate)));
    put_text(&mut row, "comment", &token.comment);
    row
}

fn row((name, token): (&String, &Token)) -> Value {
    let mut row = describe(token);
    row.insert("tokenid".into(), json!(name));
    Value::Object(row)
}

/// A user's tokens as a list; null without any, as PVE has it.
pub fn list_or_null(user: &User) -> Value {
    if user.tokens.is_empty() { Value::Null } else { user.tokens.iter().map(row).collect() }
}

/// A user's tokens by name; null without any, as PVE has it.
pub fn map_or_null(user: &User) -> Value {
    let by_name = || user.tokens.iter().map(|(name, token)| (name.clone(), Value::Object(describe(token)))).collect();
    if user.tokens.is_empty() { Value::Null } else { Value::Object(by_name()) }
}

fn id(call: &Call) -> Result<TokenId> {
    let (user, name): (UserId, String) = (call.param("userid")?, call.param("tokenid")?);
    let text = format!("{user}!{name}");
    text.parse().map_err(|_| Error::parameter("tokenid", format!("value '{text}' does not look like a valid token ID")))
}

/// `GET /access/users/{userid}/token`.
pub fn index(call: &Call) -> Result<Reply> {
    let config = config(call.ctx)?;
    Ok(config.user(&call.param("userid")?)?.tokens.iter().map(row).collect::<Value>().into())
}

/// `GET /access/users/{userid}/token/{tokenid}`.
pub fn read(call: &Call) -> Result<Reply> {
    Ok(Value::Object(describe(config(call.ctx)?.token(&id(call)?)?)).into())
}

/// `POST /access/users/{userid}/token/{tokenid}`: makes a token and tells its secret, this one time.
pub fn create(call: &Call) -> Result<Reply> {
    let id = id(call)?;
    if config(call.ctx)?.user(&id.user)?.tokens.contains_key(&id.name) {
        return Err(Error::parameter("tokenid", "Token already exists."));
    }
    let new = Token {
        expire: call.opt("expire")?.unwrap_or(0),
        separate: call.opt("privsep")?.unwrap_or(true),
        comment: call.text("comment").unwrap_or_default(),
    };
    let mut secret = None;
    let made = store::update(call.ctx, "generating token failed", |config| {
        let tokens = &mut config.user_mut(&id.user)?.tokens;
        if tokens.contains_key(&id.name) {
            return Err(Error::new("Token already exists."));
        }
        tokens.insert(id.name.clone(), new.clone());
        secret = Some(token::generate(call.ctx, &id)?);
        Ok(())
    });
    if let Err(error) = made {
        let left = if secret.is_some() { token::forget(call.ctx, |token| *token == id).err() } else { None };
        return Err(error.with_cleanup_failures(left.as_slice()));
    }
    let mut info = describe(&new);
    if !call.params.contains_key("expire") {
        info.remove("expire");
    }
    Ok(json!({"full-tokenid": id.to_string(), "info": info, "value": secret}).into())
}

/// `PUT /access/users/{userid}/token/{tokenid}`: changes a token; with `regenerate` its secret, too.
pub fn update(call: &Call) -> Result<Reply> {
    let id = id(call)?;
    let deleted: Vec<String> = call.opt("delete")?.unwrap_or_default();
    if let Some(unknown) = deleted.iter().find(|name| *name != "comment") {
        return Err(Error::parameter("delete", format!("unknown option '{unknown}'")));
    }
    config(call.ctx)?.token(&id)?;
    let mut answer = store::update(call.ctx, "updating token info failed", |config| {
        let token = config.token_mut(&id)?;
        if let Some(separate) = call.opt("privsep")? {
            token.separate = separate;
        }
        if let Some(expire) = call.opt("expire")? {
            token.expire = expire;
        }
        if let Some(comment) = call.text("comment") {
            token.comment = comment;
        }
        if !deleted.is_empty() {
            token.comment.clear();
        }
        Ok(describe(token))
    })?;
    if call.flag("regenerate") {
        let secret = token::generate(call.ctx, &id).map_err(|error| error.context("updating token info failed"))?;
        answer.insert("value".into(), json!(secret));
        answer.insert("full-tokenid".into(), json!(id.to_string()));
    }
    Ok(Value::Object(answer).into())
}

/// `DELETE /access/users/{userid}/token/{tokenid}`: with its secret and its entries.
pub fn delete(call: &Call) -> Result<Reply> {
    let id = id(call)?;
    config(call.ctx)?.token(&id)?;
    store::update(call.ctx, "deleting token failed", |config| {
        config.token(&id)?;
        // Without its secret the token is dead, even if the rest could not be written.
        token::forget(call.ctx, |token| *token == id)?;
        config.user_mut(&id.user)?.tokens.remove(&id.name);
        config.acl.remove_members(&|member| matches!(member, Member::Token(token) if *token == id));
        Ok(())
    })?;
    Ok(Reply::null())
}

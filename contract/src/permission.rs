//! Who may call a method: the prefix expressions of the interface as types
//! (pve-access-control PVE/RPCEnvironment.pm, `check_api2_permissions` and `exec_api2_perm_check`).
//! Owns reading and writing of the expressions; evaluating them is the engine's work.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Who may call a method. A method without one is for `root@pam` only.
#[derive(Debug, Clone, PartialEq)]
pub enum Permission {
    /// Everybody, without login.
    World,
    /// Every user; handlers filter what they show.
    AllUsers,
    /// Every user. The check is declared too but never reached, because the user rule is looked at first.
    AllUsersWithIdleCheck(Check),
    /// Users who pass the check.
    Check(Check),
}

/// A permission expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// All parts hold.
    And(Vec<Check>),
    /// One part holds.
    Or(Vec<Check>),
    /// Privileges on a path.
    Perm {
        /// Path with `{parameter}` placeholders.
        path: String,
        /// The privileges.
        privileges: Vec<String>,
        /// One of them is enough.
        any: bool,
        /// Fails unless this parameter is given.
        require_param: Option<String>,
    },
    /// The right to change permissions on a path.
    PermModify {
        /// Path with `{parameter}` placeholders.
        path: String,
    },
    /// About the user named by parameter `userid`.
    UseridParam(UseridParam),
    /// Privileges on one of the groups of the user named by parameter `userid`.
    UseridGroup {
        /// The privileges, one of which is enough.
        privileges: Vec<String>,
        /// Also looks at parameter `groups`.
        groups_param: Option<GroupsParam>,
    },
}

/// What is asked of the user named by parameter `userid`.
#[derive(Debug, Clone, PartialEq)]
pub enum UseridParam {
    /// It is the caller.
    Self_,
    /// The caller has this privilege on the user's realm.
    RealmPrivilege(String),
}

/// How parameter `groups` takes part in a group check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupsParam {
    /// A user is made: its groups are those of the parameter.
    Create,
    /// A user is changed: old and new groups are looked at.
    Update,
}

impl Check {
    fn read(value: &Value) -> Result<Check, String> {
        let list = value.as_array().ok_or("not a list")?;
        let operator = list.first().and_then(Value::as_str).ok_or("no operator")?;
        let rest = &list[1..];
        let text = |at: usize| rest.get(at).and_then(Value::as_str).map(str::to_owned).ok_or("text expected");
        let texts = |at: usize| -> Result<Vec<String>, String> {
            let list = rest.get(at).and_then(Value::as_array).ok_or("list expected")?;
            list.iter().map(|p| p.as_str().map(str::to_owned).ok_or("text expected".to_owned())).collect()
        };
        let options = |at: usize, known: &[&str]| -> Result<Map<String, Value>, String> {
            let options = rest.get(at).map_or(Ok(Map::new()), |o| o.as_object().cloned().ok_or("options expected"))?;
            match options.keys().find(|key| !known.contains(&key.as_str())) {
                Some(key) => Err(format!("unknown option {key}")),
                None => Ok(options),
            }
        };
        Ok(match operator {
            "and" => Check::And(rest.iter().map(Check::read).collect::<Result<_, _>>()?),
            "or" => Check::Or(rest.iter().map(Check::read).collect::<Result<_, _>>()?),
            "perm" => {
                let options = options(2, &["any", "require_param"])?;
                Check::Perm {
                    path: text(0)?,
                    privileges: texts(1)?,
                    any: options.get("any").and_then(Value::as_bool).unwrap_or(false),
                    require_param: options.get("require_param").and_then(Value::as_str).map(str::to_owned),
                }
            }
            "perm-modify" => Check::PermModify { path: text(0)? },
            "userid-param" => Check::UseridParam(match text(0)?.as_str() {
                "self" => UseridParam::Self_,
                privilege => UseridParam::RealmPrivilege(privilege.to_owned()),
            }),
            "userid-group" => Check::UseridGroup {
                privileges: texts(0)?,
                groups_param: match options(1, &["groups_param"])?.get("groups_param").and_then(Value::as_str) {
                    None => None,
                    Some("create") => Some(GroupsParam::Create),
                    Some("update") => Some(GroupsParam::Update),
                    Some(other) => return Err(format!("unknown groups_param {other}")),
                },
            },
            other => return Err(format!("unknown operator {other}")),
        })
    }

    fn write(&self) -> Value {
        let list = |operator: &str, parts: &[Check]| {
            let mut list = vec![json!(operator)];
            list.extend(parts.iter().map(Check::write));
            Value::Array(list)
        };
        match self {
            Check::And(parts) => list("and", parts),
            Check::Or(parts) => list("or", parts),
            Check::Perm { path, privileges, any, require_param } => {
                let mut options = Map::new();
                if *any {
                    options.insert("any".into(), json!(true));
                }
                if let Some(name) = require_param {
                    options.insert("require_param".into(), json!(name));
                }
                with_options(vec![json!("perm"), json!(path), json!(privileges)], options)
            }
            Check::PermModify { path } => json!(["perm-modify", path]),
            Check::UseridParam(UseridParam::Self_) => json!(["userid-param", "self"]),
            Check::UseridParam(UseridParam::RealmPrivilege(privilege)) => {
                json!(["userid-param", privilege])
            }
            Check::UseridGroup { privileges, groups_param } => {
                let mut options = Map::new();
                if let Some(param) = groups_param {
                    let name = match param {
                        GroupsParam::Create => "create",
                        GroupsParam::Update => "update",
                    };
                    options.insert("groups_param".into(), json!(name));
                }
                with_options(vec![json!("userid-group"), json!(privileges)], options)
            }
        }
    }
}

fn with_options(mut list: Vec<Value>, options: Map<String, Value>) -> Value {
    if !options.is_empty() {
        list.push(Value::Object(options));
    }
    Value::Array(list)
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            user: Option<String>,
            check: Option<Value>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let check = raw.check.as_ref().map(Check::read).transpose().map_err(serde::de::Error::custom)?;
        match (raw.user.as_deref(), check) {
            (Some("world"), None) => Ok(Permission::World),
            (Some("all"), None) => Ok(Permission::AllUsers),
            (Some("all"), Some(check)) => Ok(Permission::AllUsersWithIdleCheck(check)),
            (None, Some(check)) => Ok(Permission::Check(check)),
            _ => Err(serde::de::Error::custom("permissions name neither a known user rule nor a check")),
        }
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Permission::World => json!({"user": "world"}),
            Permission::AllUsers => json!({"user": "all"}),
            Permission::AllUsersWithIdleCheck(check) => {
                json!({"user": "all", "check": check.write()})
            }
            Permission::Check(check) => json!({"check": check.write()}),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_round_trip() {
        for text in [
            r#"{"user":"world"}"#,
            r#"{"check":["and",["userid-param","Realm.AllocateUser"],["userid-param","self"]]}"#,
            r#"{"check":["perm","/vms/{vmid}",["VM.Audit"]]}"#,
            r#"{"check":["or",["perm-modify","{path}"],["userid-group",["User.Modify"],{"groups_param":"create"}]]}"#,
            r#"{"check":["perm","/pool/{pool}",["VM.Allocate","Pool.Audit"],{"any":true,"require_param":"pool"}]}"#,
        ] {
            let permission: Permission = serde_json::from_str(text).unwrap();
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_value(&permission).unwrap(), expected);
        }
    }

    #[test]
    fn unknown_expressions_are_refused() {
        for text in [
            "{}",
            r#"{"user":"some"}"#,
            r#"{"check":["perhaps"]}"#,
            r#"{"check":["perm","/",["Sys.Audit"],{"some":true}]}"#,
            r#"{"check":[]}"#,
        ] {
            assert!(serde_json::from_str::<Permission>(text).is_err(), "{text}");
        }
    }
}

//! `/etc/pve/virtual-guest/cpu-models.conf`: CPU models of the administrator's own making, and the methods below
//! `/cluster/qemu`. (PVE: qemu-server CPUConfig.pm; pve-manager API2/Cluster/Qemu/CustomCPUModels.pm)

use crate::config::SectionConfig;
use crate::config::section::Section;
use crate::types::split_list;
use crate::{Call, Context, Error, Reply, Result, access, file};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The file's place below `/etc/pve`.
const FILE: &str = "virtual-guest/cpu-models.conf";

/// What a model can set, as the file writes it: sorted.
const KEYS: [&str; 7] = ["flags", "guest-phys-bits", "hidden", "hv-vendor-id", "level", "phys-bits", "reported-model"];

/// Whoever has one of these sees a model.
pub const VISIBLE: [&str; 3] = ["Mapping.Modify", "Mapping.Use", "Mapping.Audit"];

fn load(ctx: &Context) -> Result<(SectionConfig, String)> {
    let text = file::read_or_empty(&ctx.root.etc_pve(FILE))?;
    Ok((SectionConfig::parse(&text), file::digest(&text)))
}

/// Values of all models by name.
pub fn values(ctx: &Context) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let (config, _) = load(ctx)?;
    let models = config.sections.into_iter().filter(|(_, section)| section.kind == "cpu-model");
    Ok(models.map(|(name, section)| (name, section.values.into_iter().collect())).collect())
}

/// The name without `custom-`, which clients may leave out.
fn name_of(call: &Call) -> Result<String> {
    let name: String = call.param("cputype")?;
    let name = name.strip_prefix("custom-").unwrap_or(&name).to_owned();
    contract::format::check("pve-configid", &name).map_err(|text| Error::parameter("cputype", text)).map(|()| name)
}

fn row(name: &str, section: &Section, digest: &str) -> Value {
    let mut row = Map::new();
    row.insert("cputype".into(), format!("custom-{name}").into());
    row.insert("digest".into(), digest.into());
    for (key, value) in &section.values {
        let number = matches!(key.as_str(), "hidden" | "guest-phys-bits" | "level");
        let value = match value.parse::<u64>() {
            Ok(value) if number => value.into(),
            _ => value.as_str().into(),
        };
        row.insert(key.clone(), value);
    }
    Value::Object(row)
}

/// `GET /cluster/qemu/custom-cpu-models`.
pub fn list(call: &Call) -> Result<Reply> {
    let (config, digest) = load(call.ctx)?;
    let mut names: Vec<(&String, &Section)> = config.sections.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let visible = names.into_iter().filter(|(name, section)| {
        section.kind == "cpu-model" && access::has_any(call.ctx, &format!("/mapping/cpu/{name}"), &VISIBLE)
    });
    Ok(Reply::from(Value::Array(visible.map(|(name, section)| row(name, section, &digest)).collect())))
}

/// `GET /cluster/qemu/custom-cpu-models/{cputype}`.
pub fn one(call: &Call) -> Result<Reply> {
    let name: String = call.param("cputype")?;
    let name = name.strip_prefix("custom-").unwrap_or(&name);
    let (config, digest) = load(call.ctx)?;
    match config.sections.get(name) {
        Some(section) => Ok(Reply::from(row(name, section, &digest))),
        None => Err(Error::new(format!("Custom cputype '{name}' not found"))),
    }
}

fn change(call: &Call, digest: Option<&str>, change: impl FnOnce(&mut SectionConfig) -> Result<()>) -> Result<Reply> {
    let path = call.ctx.root.etc_pve(FILE);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    file::update(call.ctx, &path, 0o640, |text| {
        file::assert_digest(&file::digest(text), digest)?;
        let mut config = SectionConfig::parse(text);
        change(&mut config)?;
        for section in config.sections.values_mut() {
            section.values.sort_keys();
        }
        Ok(config.print())
    })?;
    Ok(Reply::null())
}

fn fill(call: &Call, section: &mut Section) {
    for key in KEYS {
        if let Some(value) = call.params.get(key) {
            section.values.insert(key.to_owned(), crate::call::config_text(value));
        }
    }
}

/// `POST /cluster/qemu/custom-cpu-models`.
pub fn create(call: &Call) -> Result<Reply> {
    let name = name_of(call)?;
    let mut section = Section::new("cpu-model");
    fill(call, &mut section);
    section.values.entry("reported-model".into()).or_insert_with(|| "kvm64".into());
    change(call, None, |config| {
        if config.sections.contains_key(&name) {
            return Err(Error::new(format!("custom CPU model '{name}' already exists")));
        }
        config.sections.insert(name, section);
        Ok(())
    })
}

/// `PUT /cluster/qemu/custom-cpu-models/{cputype}`.
pub fn update(call: &Call) -> Result<Reply> {
    let name = name_of(call)?;
    let removed = split_list(&call.text("delete").unwrap_or_default());
    if let Some(fixed) = removed.iter().find(|key| matches!(key.as_str(), "cputype" | "reported-model")) {
        return Err(Error::new(format!("cannot delete '{fixed}'")));
    }
    change(call, call.text("digest").as_deref(), |config| {
        let missing = || Error::new(format!("custom CPU model '{name}' does not exist"));
        let section = config.sections.get_mut(&name).ok_or_else(missing)?;
        for key in &removed {
            if !KEYS.contains(&key.as_str()) {
                return Err(Error::new(format!("no such option '{key}'")));
            }
            if call.params.contains_key(key) {
                return Err(Error::new(format!("cannot set and delete property '{key}' at the same time!")));
            }
            section.values.shift_remove(key);
        }
        fill(call, section);
        Ok(())
    })
}

/// `DELETE /cluster/qemu/custom-cpu-models/{cputype}`.
pub fn remove(call: &Call) -> Result<Reply> {
    let name: String = call.param("cputype")?;
    let name = name.strip_prefix("custom-").unwrap_or(&name);
    change(call, None, |config| match config.sections.shift_remove(name) {
        Some(_) => Ok(()),
        None => Err(Error::new(format!("custom CPU model '{name}' does not exist"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(ctx: &Context, verb: contract::Verb, name: Option<&str>, params: Value) -> Result<Value> {
        let template = match verb {
            contract::Verb::Post => "/cluster/qemu/custom-cpu-models",
            _ if name.is_none() => "/cluster/qemu/custom-cpu-models",
            _ => "/cluster/qemu/custom-cpu-models/{cputype}",
        };
        let Value::Object(mut params) = params else { panic!("parameters are an object") };
        if let Some(name) = name {
            params.insert("cputype".into(), name.into());
        }
        crate::registry::run(ctx, verb, template, params).map(|reply| reply.data)
    }

    #[test]
    fn models_are_made_changed_listed_and_removed() {
        use contract::Verb::{Delete, Get, Post, Put};
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let model =
            json!({"reported-model": "Skylake-Server", "flags": "+aes;-pcid", "phys-bits": "host", "hidden": 1});
        run(&ctx, Post, Some("custom-mine"), model.clone()).unwrap();
        let text = std::fs::read_to_string(ctx.root.etc_pve(FILE)).unwrap();
        assert_eq!(
            text,
            "cpu-model: mine\n\tflags +aes;-pcid\n\thidden 1\n\tphys-bits host\n\treported-model Skylake-Server\n\n"
        );
        let twice = run(&ctx, Post, Some("mine"), model).unwrap_err();
        assert_eq!(twice.message(), "custom CPU model 'mine' already exists");
        let shown = run(&ctx, Get, Some("custom-mine"), json!({})).unwrap();
        assert_eq!((&shown["cputype"], &shown["hidden"]), (&"custom-mine".into(), &1.into()));
        let stale = run(&ctx, Put, Some("mine"), json!({"level": 30, "digest": "0".repeat(40)})).unwrap_err();
        assert!(stale.message().starts_with("detected modified configuration"), "{stale}");
        run(&ctx, Put, Some("mine"), json!({"level": 30, "delete": "flags,hidden", "digest": shown["digest"]}))
            .unwrap();
        let listed = run(&ctx, Get, None, json!({})).unwrap();
        assert_eq!((&listed[0]["level"], &listed[0]["flags"]), (&30.into(), &Value::Null));
        let fixed = run(&ctx, Put, Some("mine"), json!({"delete": "reported-model"})).unwrap_err();
        assert_eq!(fixed.message(), "cannot delete 'reported-model'");
        let joe = ctx.clone().with_caller(crate::Caller::verified("joe@pve"));
        assert_eq!(run(&joe, Get, None, json!({})).unwrap(), json!([]));
        run(&ctx, Delete, Some("mine"), json!({})).unwrap();
        let gone = run(&ctx, Delete, Some("mine"), json!({})).unwrap_err();
        assert_eq!(gone.message(), "custom CPU model 'mine' does not exist");
    }

    #[test]
    fn the_keys_are_those_of_the_contract() {
        let declared = contract::section_config_schema::file(FILE).unwrap();
        let kind = declared.types.get("cpu-model").unwrap();
        for key in KEYS {
            assert!(kind.options.contains_key(key), "{key}");
        }
    }
}

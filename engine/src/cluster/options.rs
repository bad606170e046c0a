//! `datacenter.cfg`: options of all nodes, a flat file in which some values are property strings.
//!
//! Other areas read single options through [`DatacenterOptions`]. Keys that we do not know stay in the file.
//! (PVE: pve-cluster PVE/DataCenterConfig.pm; pve-guest-common PVE/GuestHelpers.pm, get_allowed_tags)

use crate::config::flat::FlatConfig;
use crate::{Call, Context, Error, Reply, Result, access, bail, file, live};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The file below `/etc/pve`.
const FILE: &str = "datacenter.cfg";
/// The prefix of generated hardware addresses when none is set.
const MAC_PREFIX: &str = "BC:24:11";
/// Options whose value is a property string, with the format.
const PROPERTY_STRINGS: &[(&str, &str)] = &[
    ("crs", "~dc-crs"),
    ("ha", "~dc-ha"),
    ("migration", "~dc-migration"),
    ("next-id", "~dc-next-id"),
    ("notify", "~dc-notify"),
    ("replication", "~dc-migration"),
    ("tag-style", "~dc-tag-style"),
    ("u2f", "~dc-u2f"),
    ("user-tag-access", "~dc-user-tag-access"),
    ("webauthn", "~dc-webauthn"),
];

/// The file as last read.
pub struct DatacenterOptions {
    config: FlatConfig,
}

impl DatacenterOptions {
    /// Reads the file; an absent one has no options.
    pub fn load(ctx: &Context) -> Result<Self> {
        let text = file::read_or_empty(&ctx.root.etc_pve(FILE))?;
        Ok(DatacenterOptions { config: FlatConfig::parse(&text) })
    }

    /// The text of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.config.values.get(name).map(String::as_str)
    }

    /// A key of an option that is a property string; `None` also when the option cannot be read.
    pub fn key(&self, name: &str, key: &str) -> Option<Value> {
        let (_, format) = PROPERTY_STRINGS.iter().find(|(option, _)| *option == name)?;
        contract::property_string::parse(format, self.get(name)?).ok()?.remove(key)
    }

    /// The prefix of generated hardware addresses.
    pub fn mac_prefix(&self) -> &str {
        self.get("mac_prefix").unwrap_or(MAC_PREFIX)
    }

    /// Bounds of automatic guest numbers, the upper one exclusive.
    pub fn next_id_bounds(&self) -> (u32, u32) {
        let bound = |key: &str, default: u32| {
            let value = self.key("next-id", key).map(|value| crate::call::config_text(&value));
            value.and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        (bound("lower", 100), bound("upper", 1_000_000))
    }

    /// How tags are ordered, spelt and shown.
    pub fn tag_style(&self) -> Value {
        self.get("tag-style").map_or(Value::Null, |text| option_value("tag-style", text))
    }

    /// Which tags users may use.
    pub fn user_tag_access(&self) -> Value {
        self.get("user-tag-access").map_or(Value::Null, |text| option_value("user-tag-access", text))
    }

    /// Tags that only privileged users may set.
    pub fn registered_tags(&self) -> Vec<String> {
        self.get("registered-tags").map(crate::types::split_list).unwrap_or_default()
    }

    /// The answer of the interface.
    fn wire(&self) -> Map<String, Value> {
        let mut options = Map::new();
        for (name, text) in &self.config.values {
            options.insert(name.clone(), option_value(name, text));
        }
        options.insert("description".into(), json!(self.config.description.as_deref().unwrap_or_default()));
        options.insert("mac_prefix".into(), json!(self.mac_prefix()));
        options
    }
}

/// An option as the interface shows it: property strings as objects, lists of tags as lists, numbers as numbers.
fn option_value(name: &str, text: &str) -> Value {
    let list = |text: &str| Value::Array(crate::types::split_list(text).into_iter().map(Value::String).collect());
    let format = PROPERTY_STRINGS.iter().find(|(option, _)| *option == name);
    if let Some((_, format)) = format
        && let Ok(mut keys) = contract::property_string::parse(format, text)
    {
        keys.values_mut().for_each(boolean_as_number);
        if let Some(Value::String(tags)) = keys.get("user-allow-list") {
            let tags = list(tags);
            keys.insert("user-allow-list".into(), tags);
        }
        return Value::Object(keys);
    }
    match name {
        "registered-tags" => list(text),
        "max_workers" | "migration_unsecure" => {
            text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
        }
        "console" if text == "applet" => json!("html5"),
        _ => json!(text),
    }
}

/// The interface has 1 and 0 for booleans.
fn boolean_as_number(value: &mut Value) {
    if let Value::Bool(flag) = value {
        *value = json!(u8::from(*flag));
    }
}

/// `GET /cluster/options`; without Sys.Audit only what a user interface needs.
pub fn get(call: &Call) -> Result<Reply> {
    let options = DatacenterOptions::load(call.ctx)?;
    let mut answer = options.wire();
    if !access::has(call.ctx, "/", &["Sys.Audit"]) {
        answer.retain(|name, _| matches!(name.as_str(), "console" | "tag-style"));
    }
    answer.insert("allowed-tags".into(), json!(allowed_tags(call.ctx, &options)?));
    Ok(Reply::from(Value::Object(answer)))
}

/// Tags that the caller may use. In mode `free` any other tag is allowed as well; the list is for completion.
fn allowed_tags(ctx: &Context, options: &DatacenterOptions) -> Result<BTreeSet<String>> {
    let access = options.user_tag_access();
    let mode = access["user-allow"].as_str().unwrap_or("free");
    let mut tags = BTreeSet::new();
    if matches!(mode, "free" | "existing") {
        let view = access::View::of(ctx)?;
        for row in live::guests(ctx)?.iter().filter(|row| row.is_visible_to(&view)) {
            tags.extend(row.facts.tags.iter().flat_map(|tags| crate::types::split_list(tags)));
        }
    }
    if mode != "none"
        && let Some(list) = access["user-allow-list"].as_array()
    {
        tags.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
    }
    if access::has(ctx, "/", &["Sys.Modify"]) {
        tags.extend(options.registered_tags());
    }
    Ok(tags)
}

/// `PUT /cluster/options`.
pub fn put(call: &Call) -> Result<Reply> {
    let delete: Vec<String> = call.opt("delete")?.unwrap_or_default();
    file::update(call.ctx, &call.ctx.root.etc_pve(FILE), 0o640, |text| {
        let mut config = FlatConfig::parse(text);
        for name in call.params.keys().filter(|name| *name != "delete") {
            let value = call.text(name).unwrap_or_default();
            set(&mut config, name, value)?;
        }
        for name in &delete {
            match name.as_str() {
                "description" => config.description = None,
                name => drop(config.values.remove(name)),
            }
        }
        normalize(&mut config)?;
        Ok(config.print())
    })?;
    Ok(Reply::null())
}

fn set(config: &mut FlatConfig, name: &str, value: String) -> Result<()> {
    if name == "description" {
        config.description = (!value.is_empty()).then_some(value);
        return Ok(());
    }
    if value.contains('\n') {
        return Err(Error::parameter(name, "detected invalid newline inside property"));
    }
    config.values.insert(name.to_owned(), value);
    Ok(())
}

/// Old options take the form of the new ones; defaults are not written.
fn normalize(config: &mut FlatConfig) -> Result<()> {
    if !config.values.contains_key("migration")
        && let Some(unsecure) = config.values.remove("migration_unsecure")
    {
        let kind = if unsecure == "1" { "insecure" } else { "secure" };
        config.values.insert("migration".into(), format!("type={kind}"));
    }
    if let Some(console) = config.values.get_mut("console").filter(|console| *console == "applet") {
        *console = "html5".into();
    }
    if config.values.get("mac_prefix").is_some_and(|prefix| prefix.eq_ignore_ascii_case(MAC_PREFIX)) {
        config.values.remove("mac_prefix");
    }
    if config.values.get("crs").is_some_and(String::is_empty) {
        config.values.remove("crs");
    }
    let options = DatacenterOptions { config: std::mem::take(config) };
    let (lower, upper) = options.next_id_bounds();
    if lower > upper {
        bail!("lower ({lower}) <= upper ({upper}) boundary rule broken");
    }
    *config = options.config;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use contract::Verb;

    fn ask(ctx: &Context, verb: Verb, params: Value) -> Result<Value> {
        let Value::Object(params) = params else { panic!("parameters are an object") };
        registry::run(ctx, verb, "/cluster/options", params).map(|reply| reply.data)
    }

    #[test]
    fn options_read_back_as_the_interface_shows_them_and_unknown_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let path = ctx.root.etc_pve(FILE);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "of-tomorrow: x\nkeyboard: de\n").unwrap();
        let params = json!({
            "migration": "type=insecure", "next-id": "lower=200,upper=300", "max_workers": 3,
            "registered-tags": "b;a", "description": "two\nlines", "mac_prefix": "BC:24:11", "delete": "keyboard",
        });
        assert_eq!(ask(&ctx, Verb::Put, params).unwrap(), Value::Null);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("of-tomorrow: x\n") && !text.contains("keyboard") && !text.contains("mac_prefix"),
            "{text}"
        );
        let options = ask(&ctx, Verb::Get, json!({})).unwrap();
        assert_eq!(options["migration"], json!({ "type": "insecure" }));
        assert_eq!(options["max_workers"], 3);
        assert_eq!(options["registered-tags"], json!(["b", "a"]));
        assert_eq!(options["allowed-tags"], json!(["a", "b"]));
        assert_eq!(options["description"], "two\nlines\n");
        assert_eq!(options["mac_prefix"], "BC:24:11");
        assert_eq!(DatacenterOptions::load(&ctx).unwrap().next_id_bounds(), (200, 300));
    }

    #[test]
    fn bounds_the_wrong_way_round_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let error = ask(&ctx, Verb::Put, json!({ "next-id": "lower=300,upper=200" })).unwrap_err();
        assert!(error.to_string().contains("boundary rule broken"), "{error}");
        assert!(!ctx.root.etc_pve(FILE).exists());
    }
}

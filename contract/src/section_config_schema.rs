//! Which section types the configuration files of the cluster have, and their options
//! (pve-common PVE/SectionConfig.pm and its plugins). Owns the data; reading and writing such files is done elsewhere.

use crate::schema::Schema;
use crate::table::{self, SECTION_CONFIGS};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// What a section type says about an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionRule {
    /// Must be set, and cannot be deleted.
    pub required: bool,
    /// Can be set on creation only.
    pub fixed: bool,
}

impl<'de> Deserialize<'de> for OptionRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut rule = OptionRule { required: false, fixed: false };
        for word in text.split(' ') {
            match word {
                "required" => rule.required = true,
                "optional" => {}
                "fixed" => rule.fixed = true,
                other => {
                    return Err(serde::de::Error::custom(format!("unknown option rule {other}")));
                }
            }
        }
        Ok(rule)
    }
}

/// A type of section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionType {
    /// Options of this type; those that all types share stand in [`SectionConfig::common_options`].
    #[serde(default)]
    pub options: BTreeMap<String, OptionRule>,
    /// Schemas that hold for this type only.
    #[serde(default)]
    pub isolated: BTreeMap<String, Schema>,
    /// Storages: content types that it can hold.
    #[serde(default)]
    pub content: Vec<String>,
    /// Storages: content types if none are set.
    #[serde(default)]
    pub content_default: Vec<String>,
    /// Storages: image formats.
    #[serde(default)]
    pub format: Vec<String>,
    /// Storages: image format if none is set.
    #[serde(default)]
    pub format_default: Option<String>,
    /// Options that are kept apart from the file because they are secret.
    #[serde(default)]
    pub sensitive: Vec<String>,
    /// Storages: volumes exist already and are picked.
    #[serde(default)]
    pub select_existing: bool,
}

/// A configuration file made of sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionConfig {
    /// Section types by name.
    pub types: BTreeMap<String, SectionType>,
    /// Options that all types have.
    #[serde(default)]
    pub common_options: BTreeMap<String, OptionRule>,
    /// Types have schemas of their own for some options.
    #[serde(default)]
    pub isolated_properties: bool,
    /// Schemas of the options.
    pub properties: BTreeMap<String, Schema>,
}

impl SectionConfig {
    /// The rule for an option of a type.
    pub fn rule(&self, kind: &str, option: &str) -> Option<OptionRule> {
        let own = self.types.get(kind)?.options.get(option);
        own.or_else(|| self.common_options.get(option)).copied()
    }

    /// The schema of an option of a type.
    pub fn schema(&self, kind: &str, option: &str) -> Option<&Schema> {
        self.types.get(kind)?.isolated.get(option).or_else(|| self.properties.get(option))
    }
}

/// The names of the files, relative to the root of the cluster file system.
pub fn files() -> impl ExactSizeIterator<Item = &'static str> {
    SECTION_CONFIGS.iter().map(|(name, _, _)| *name)
}

/// The sections of a file, such as `storage.cfg`.
pub fn file(name: &str) -> Option<&'static SectionConfig> {
    static CACHE: [OnceLock<SectionConfig>; SECTION_CONFIGS.len()] = [const { OnceLock::new() }; SECTION_CONFIGS.len()];
    let row = table::position(&SECTION_CONFIGS, name)?;
    Some(CACHE[row].get_or_init(|| {
        let (name, start, end) = SECTION_CONFIGS[row];
        table::decode(name, start, end)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_decodes_and_its_options_have_schemas() {
        assert_eq!(files().len(), 19);
        for name in files() {
            let config = file(name).expect("listed");
            for (kind, section) in &config.types {
                for option in section.options.keys().chain(config.common_options.keys()) {
                    assert!(config.schema(kind, option).is_some(), "{name} {kind} {option}");
                    assert!(config.rule(kind, option).is_some());
                }
            }
        }
        let storage = file("storage.cfg").unwrap();
        assert_eq!(storage.rule("dir", "path"), Some(OptionRule { required: true, fixed: true }));
        assert_eq!(storage.rule("dir", "pool"), None);
    }
}

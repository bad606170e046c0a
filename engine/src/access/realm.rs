//! `domains.cfg`: the realms that users can belong to. `pam` and `pve` are always there.
//! (PVE: pve-access-control PVE/Auth/Plugin.pm)

use crate::config::SectionConfig;
use crate::config::section::Section;
use crate::config::text::{decode, encode};
use crate::{Context, Error, Result, file};
use std::path::PathBuf;

/// The realms and the state of the file they come from.
pub struct Realms {
    config: SectionConfig,
    /// SHA-1 of the file's text.
    pub digest: String,
}

/// Built-in realms with the comments that they have by default.
const BUILT_IN: [(&str, &str); 2] =
    [("pam", "Linux PAM standard authentication"), ("pve", "Proxmox VE authentication server")];

fn path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("domains.cfg")
}

/// The present realms.
pub fn load(ctx: &Context) -> Result<Realms> {
    Ok(Realms::parse(&file::read_or_empty(&path(ctx))?))
}

/// Changes the realms under the file's lock. When `change` fails, nothing is written and its error gets `failure` in
/// front.
pub fn update(ctx: &Context, failure: &str, change: impl FnOnce(&mut Realms) -> Result<()>) -> Result<()> {
    super::keys::ensure_directories(ctx)?;
    file::update(ctx, &path(ctx), super::keys::SHARED_MODE, |text| {
        let mut realms = Realms::parse(text);
        change(&mut realms).map_err(|error| error.context(failure))?;
        Ok(realms.config.print())
    })
}

impl Realms {
    fn parse(text: &str) -> Self {
        let mut config = SectionConfig::parse(text);
        for (name, comment) in BUILT_IN {
            let section = config.sections.entry(name.to_owned()).or_insert_with(|| Section::new(name));
            section.kind = name.to_owned();
            if section.get("comment").is_none_or(str::is_empty) {
                section.values.insert("comment".into(), encode(comment));
            }
        }
        // Only one realm can be the default; the first one is.
        let mut has_default = false;
        for section in config.sections.values_mut() {
            if section.flag("default") && std::mem::replace(&mut has_default, true) {
                section.values.shift_remove("default");
            }
        }
        Realms { config, digest: file::digest(text) }
    }

    /// Names of realms with their sections, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.config.sections.iter().map(|(name, section)| (name.as_str(), section))
    }

    /// A realm's section.
    pub fn get(&self, realm: &str) -> Option<&Section> {
        self.config.sections.get(realm)
    }

    /// A realm's type.
    ///
    /// # Errors
    /// `auth domain 'NAME' does not exist`.
    pub fn kind(&self, realm: &str) -> Result<&str> {
        let section = self.get(realm).ok_or_else(|| Error::new(format!("auth domain '{realm}' does not exist")))?;
        Ok(&section.kind)
    }

    /// The text that people see beside a realm's name.
    pub fn comment(section: &Section) -> Option<String> {
        section.get("comment").map(decode)
    }

    /// Sets or clears a value of a realm that exists.
    pub fn set(&mut self, realm: &str, key: &str, value: Option<&str>) {
        let Some(section) = self.config.sections.get_mut(realm) else { return };
        match value {
            Some(value) if key == "comment" => drop(section.values.insert(key.into(), encode(value))),
            Some(value) => drop(section.values.insert(key.into(), value.into())),
            None => drop(section.values.shift_remove(key)),
        }
    }

    /// Makes a realm the one that log-in masks choose.
    pub fn set_default(&mut self, realm: &str) {
        for (name, section) in &mut self.config.sections {
            section.values.shift_remove("default");
            if name == realm {
                section.values.insert("default".into(), "1".into());
            }
        }
    }

    /// Removes a realm; a built-in one comes back as it was in the beginning.
    pub fn remove(&mut self, realm: &str) {
        self.config.sections.shift_remove(realm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_realms_are_always_there_and_foreign_ones_stay() {
        let realms = Realms::parse(
            "ldap: corp\n\tserver1 ldap.example\n\tdefault 1\n\npve: pve\n\tcomment our%3A own\n\tdefault 1\n\n",
        );
        assert_eq!(realms.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["corp", "pve", "pam"]);
        assert_eq!(Realms::comment(realms.get("pve").unwrap()).as_deref(), Some("our: own"));
        assert!(realms.get("corp").unwrap().flag("default") && !realms.get("pve").unwrap().flag("default"));
        assert_eq!(realms.kind("corp").unwrap(), "ldap");
        assert_eq!(realms.kind("none").unwrap_err().message(), "auth domain 'none' does not exist");
    }

    #[test]
    fn changes_are_written_as_sections() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        update(&ctx, "x", |realms| {
            realms.set("pve", "comment", Some("a:b"));
            realms.set_default("pve");
            Ok(())
        })
        .unwrap();
        let text = std::fs::read_to_string(path(&ctx)).unwrap();
        assert_eq!(
            text,
            "pam: pam\n\tcomment Linux PAM standard authentication\n\npve: pve\n\tcomment a%3Ab\n\tdefault 1\n\n"
        );
        let error = update(&ctx, "update auth server failed", |_| Err(Error::new("no"))).unwrap_err();
        assert_eq!(error.message(), "update auth server failed: no");
    }
}

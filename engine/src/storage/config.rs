//! `storage.cfg`: which storages there are. (PVE: pve-storage PVE/Storage/Plugin.pm, parse_config and decode_value;
//! pve-common PVE/SectionConfig.pm)
//!
//! Reading never fails because of what stands in the file: unknown types and keys are kept, bad lines are reported.
//! A file without a section `local` has the embedded one: a directory below the node's root that holds everything,
//! so that guests can be created on a fresh node. Whatever is written in the file is taken as written.

use super::content::Content;
use super::kind::{self, Kind};
use super::volume::Format;
use crate::config::section::{Section, SectionConfig};
use crate::types::split_list;
use crate::{Context, Error, Result, file};
use indexmap::IndexMap;
use std::path::{Path, PathBuf};

/// Content of the embedded storage `local`.
const EMBEDDED_CONTENT: &str = "iso,vztmpl,backup,import,images,rootdir,snippets";

/// The file's place below `/etc/pve`.
pub const FILE: &str = "storage.cfg";

/// All storages, in the order of the file.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    entries: IndexMap<String, Entry>,
    /// SHA-1 of the file's text.
    pub digest: String,
    problems: Vec<String>,
    text: String,
}

/// What is configured about one storage.
#[derive(Debug, Clone)]
pub struct Entry {
    section: Section,
}

impl StorageConfig {
    /// The storages of a node.
    pub fn load(ctx: &Context) -> Result<Self> {
        Ok(Self::parse(ctx, file::read_or_empty(&ctx.root.etc_pve(FILE))?))
    }

    /// The storages in a file's text.
    pub fn parse(ctx: &Context, text: String) -> Self {
        let sections = SectionConfig::parse(&text);
        let mut problems: Vec<String> =
            sections.problems.iter().map(|(line, _)| format!("unable to parse '{FILE}', line {line}")).collect();
        let mut entries: IndexMap<String, Entry> =
            sections.sections.into_iter().map(|(id, section)| (id, Entry { section })).collect();
        entries.retain(|id, _| {
            let good = super::volume::is_storage_id(id);
            if !good {
                problems
                    .push(format!("file {FILE} (skip section '{id}'): storage ID '{id}' contains illegal characters"));
            }
            good
        });
        complete_local(ctx, &mut entries);
        for (id, entry) in &entries {
            problems.extend(entry.problems().into_iter().map(|text| format!("file {FILE} (section '{id}') - {text}")));
        }
        StorageConfig { entries, digest: file::digest(&text), problems, text }
    }

    /// Ids and entries in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(id, entry)| (id.as_str(), entry))
    }

    /// The entry of a storage.
    pub fn entry(&self, id: &str) -> Result<&Entry> {
        self.get(id).ok_or_else(|| Error::new(format!("storage '{id}' does not exist")))
    }

    /// The entry of a storage, if there is one.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// What could not be understood, one line each.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Adds or replaces a storage.
    pub fn set(&mut self, id: &str, entry: Entry) {
        self.entries.insert(id.to_owned(), entry);
    }

    /// Removes a storage; the others keep their order.
    pub fn remove(&mut self, id: &str) {
        self.entries.shift_remove(id);
    }

    /// The file's text after changes: sections in order, options as PVE orders them, then keys that we do not know.
    pub fn print(&self) -> String {
        let mut sections = SectionConfig::parse(&self.text);
        let mut old = std::mem::take(&mut sections.sections);
        for (id, entry) in &self.entries {
            // The old section goes first because it holds the comments.
            let mut section = old.shift_remove(id).unwrap_or_default();
            section.kind = entry.section.kind.clone();
            section.values = entry.ordered_values();
            sections.sections.insert(id.clone(), section);
        }
        sections.print()
    }
}

/// `local` exists always, has a path, and is on all nodes.
fn complete_local(ctx: &Context, entries: &mut IndexMap<String, Entry>) {
    let path = ctx.root.path("/var/lib/vz").to_string_lossy().into_owned();
    match entries.get_mut("local") {
        Some(local) => {
            local.section.values.shift_remove("nodes");
            if local.kind() == "dir" && local.get("path").is_none() {
                local.set("path", path);
            }
        }
        None => {
            let mut local = Entry::new("dir");
            local.set("path", path);
            local.set("content", EMBEDDED_CONTENT);
            local.set("prune-backups", "keep-all=1");
            entries.shift_insert(0, "local".to_owned(), local);
        }
    }
}

impl Entry {
    /// An empty entry of a type.
    pub fn new(kind: &str) -> Self {
        Entry { section: Section::new(kind) }
    }

    /// The type as the file names it.
    pub fn kind(&self) -> &str {
        &self.section.kind
    }

    /// The row of the type, if we know it.
    pub fn known_kind(&self) -> Option<&'static Kind> {
        Kind::named(self.kind())
    }

    /// A value as the file has it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.section.get(key)
    }

    /// Sets a value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.section.values.insert(key.to_owned(), value.into());
    }

    /// Removes a value.
    pub fn unset(&mut self, key: &str) {
        self.section.values.shift_remove(key);
    }

    /// Keys and values as the file has them.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.section.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// A boolean, if it is set and readable.
    pub fn flag(&self, key: &str) -> Option<bool> {
        contract::parse_boolean(self.get(key)?)
    }

    /// Nobody may use it now.
    pub fn is_disabled(&self) -> bool {
        self.flag("disable").unwrap_or(false)
    }

    /// The same content on all nodes that have it.
    pub fn is_shared(&self) -> bool {
        self.known_kind().is_some_and(|kind| kind.always_shared) || self.flag("shared").unwrap_or(false)
    }

    /// The nodes that have it; `None` for all.
    pub fn nodes(&self) -> Option<Vec<String>> {
        let nodes = split_list(self.get("nodes")?);
        if nodes.is_empty() { None } else { Some(nodes) }
    }

    /// Whether a node has it.
    pub fn is_on_node(&self, node: &str) -> bool {
        self.nodes().is_none_or(|nodes| nodes.iter().any(|name| name == node))
    }

    /// The content types that it may hold: as configured, without those that the type cannot hold.
    pub fn contents(&self) -> Vec<Content> {
        let Some(kind) = self.known_kind() else {
            return split_list(self.get("content").unwrap_or_default()).iter().filter_map(|c| c.parse().ok()).collect();
        };
        let Some(configured) = self.get("content") else {
            return kind.default_contents().collect();
        };
        let possible: Vec<Content> = kind.contents().collect();
        let mut contents = Vec::new();
        for content in split_list(configured).iter().filter_map(|name| name.parse::<Content>().ok()) {
            if possible.contains(&content) && !contents.contains(&content) {
                contents.push(content);
            }
        }
        contents
    }

    /// Whether it may hold a content type.
    pub fn has_content(&self, content: Content) -> bool {
        self.contents().contains(&content)
    }

    /// The content types as a list in a text; `none` if there are none.
    pub fn content_text(&self) -> String {
        let names: Vec<&str> = self.contents().iter().map(|content| content.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(",") }
    }

    /// The formats that images may have.
    pub fn formats(&self) -> Vec<Format> {
        let mut formats = self.known_kind().map(Kind::formats).unwrap_or_default();
        // An image on a logical volume is part of a chain, or it is none. (PVE: LVMPlugin.pm, get_formats)
        if self.kind() == "lvm" && !self.flag("snapshot-as-volume-chain").unwrap_or(false) {
            formats.retain(|format| *format == Format::Raw);
        }
        formats
    }

    /// The format of new images.
    pub fn default_format(&self) -> Format {
        let configured = self.get("format").and_then(|name| name.parse().ok());
        let formats = self.formats();
        let of_chain = (self.kind() == "lvm" && formats.contains(&Format::Qcow2)).then_some(Format::Qcow2);
        configured
            .filter(|format| formats.contains(format))
            .or(of_chain)
            .or_else(|| self.known_kind().map(Kind::default_format))
            .unwrap_or(Format::Raw)
    }

    /// The directory of a file based storage.
    pub fn path(&self) -> Result<&Path> {
        self.get("path").map(Path::new).ok_or_else(|| Error::new("storage definition has no path"))
    }

    /// The directory of a content type.
    pub fn content_directory(&self, content: Content) -> Result<PathBuf> {
        let overrides = split_list(self.get("content-dirs").unwrap_or_default());
        let own = overrides.iter().find_map(|item| item.strip_prefix(content.name())?.strip_prefix('='));
        let relative = own.unwrap_or_else(|| content.default_directory());
        // An override that climbs up is refused when it is set; a hand-written one must not work either.
        let climbs = Path::new(relative).components().any(|part| part == std::path::Component::ParentDir);
        if relative.is_empty() || climbs {
            return Err(Error::new(format!("unknown vtype '{content}'")));
        }
        Ok(self.path()?.join(relative.trim_start_matches('/')))
    }

    /// What PVE would warn about when it reads the section.
    fn problems(&self) -> Vec<String> {
        let Some(kind) = self.known_kind() else {
            return vec![format!("unsupported type '{}'", self.kind())];
        };
        let rules = &kind.declared().options;
        let unknown = self.values().filter(|(key, _)| !rules.contains_key(*key));
        let mut problems: Vec<String> =
            unknown.map(|(key, _)| format!("unable to parse value of '{key}': unexpected property '{key}'")).collect();
        let missing = rules.iter().filter(|(key, rule)| rule.required && self.get(key).is_none());
        problems.extend(missing.map(|(key, _)| format!("missing value for required option '{key}'")));
        problems
    }

    /// `disable`, required options by name, the others by name, then what we do not know in the order of the file.
    fn ordered_values(&self) -> IndexMap<String, String> {
        let mut rest = self.section.values.clone();
        let mut ordered = IndexMap::new();
        let mut take = |key: &str, rest: &mut IndexMap<String, String>| {
            if let Some(value) = rest.shift_remove(key) {
                ordered.insert(key.to_owned(), value);
            }
        };
        if !self.is_disabled() {
            rest.shift_remove("disable");
        }
        take("disable", &mut rest);
        if let Some(kind) = self.known_kind() {
            let rules = &kind.declared().options;
            for required in [true, false] {
                for (key, _) in rules.iter().filter(|(_, rule)| rule.required == required) {
                    take(key, &mut rest);
                }
            }
        }
        ordered.extend(rest);
        ordered
    }
}

/// The schema of an option of a type.
pub fn option_schema(kind: &str, key: &str) -> Option<&'static contract::Schema> {
    kind::schema().schema(kind, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> StorageConfig {
        StorageConfig::parse(&Context::for_test(Path::new("/srv/node")), text.to_owned())
    }

    #[test]
    fn an_empty_file_has_the_embedded_storage() {
        let config = parse("");
        let local = config.entry("local").unwrap();
        assert_eq!(local.kind(), "dir");
        assert_eq!(local.path().unwrap(), Path::new("/srv/node/var/lib/vz"));
        assert!(local.has_content(Content::Images) && local.has_content(Content::Import));
        assert_eq!(config.digest, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(config.entry("x").unwrap_err().message(), "storage 'x' does not exist");
    }

    #[test]
    fn what_is_written_is_taken_as_written() {
        let config =
            parse("dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n\tnodes a,b\n\ndir: bb\n\tpath /b\n");
        let local = config.entry("local").unwrap();
        assert_eq!(local.path().unwrap(), Path::new("/var/lib/vz"));
        assert_eq!(local.content_text(), "iso,vztmpl,backup");
        assert_eq!(local.nodes(), None);
        assert_eq!(config.entry("bb").unwrap().content_text(), "images,rootdir");
    }

    #[test]
    fn unknown_types_and_keys_survive_a_change() {
        let text = "# mine\nfancy: xx\n\tb 1\n\ta 2\n\ndir: data\n\tpath /data\n\tfuture thing\n\tcontent images\n\tdisable\n\n\
                    garbage\n\nnfs: nas\n\texport /x\n\tpath /mnt/pve/nas\n\tserver 10.0.0.1\n\tcontent iso\n\n";
        let mut config = parse(text);
        assert_eq!(config.problems().len(), 3, "{:?}", config.problems());
        assert!(config.entry("data").unwrap().is_disabled());
        assert!(config.entry("nas").unwrap().is_shared());
        let mut entry = Entry::new("dir");
        entry.set("content", "none");
        entry.set("path", "/new");
        config.set("new", entry);
        let printed = config.print();
        let again = parse(&printed);
        assert_eq!(
            printed,
            "dir: local\n\tpath /srv/node/var/lib/vz\n\tcontent iso,vztmpl,backup,import,images,rootdir,snippets\n\
             \tprune-backups keep-all=1\n\n\
             # mine\nfancy: xx\n\tb 1\n\ta 2\n\ndir: data\n\tdisable\n\tpath /data\n\tcontent images\n\tfuture thing\n\n\
             nfs: nas\n\texport /x\n\tpath /mnt/pve/nas\n\tserver 10.0.0.1\n\tcontent iso\n\n\
             dir: new\n\tpath /new\n\tcontent none\n\n"
        );
        assert_eq!(again.print(), printed);
    }

    #[test]
    fn content_directories_can_be_moved_but_not_out() {
        let config =
            parse("dir: aa\n\tpath /a\n\tcontent-dirs iso=my/isos,backup=../../etc\n\tcontent iso,foo,backup\n");
        let entry = config.entry("aa").unwrap();
        assert_eq!(entry.content_directory(Content::Iso).unwrap(), Path::new("/a/my/isos"));
        assert_eq!(entry.content_directory(Content::Vztmpl).unwrap(), Path::new("/a/template/cache"));
        assert!(entry.content_directory(Content::Backup).is_err());
        assert!(entry.content_directory(Content::None).is_err());
        assert_eq!(entry.content_text(), "iso,backup");
    }
}

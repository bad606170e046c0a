//! Reading and printing a guest's configuration file, see [`super::guest`] for its shape.
//!
//! Owns the grammar: sections, lines, descriptions, the order of printing. What a value may be is said by a [`Check`]
//! that the caller brings; without one values are taken as they stand, which is enough for lists.
//! (PVE: qemu-server PVE/QemuServer.pm, parse_vm_config and write_vm_config; pve-container PVE/LXC/Config.pm,
//! parse_pct_config and write_pct_config)

use super::guest::{GuestConfig, GuestKind, Part, Problem};
use super::text::{decode, encode};

/// The part of a file that a line is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// Before the first header.
    Current,
    /// Changes that wait.
    Pending,
    /// `[special:NAME]`.
    Special(String),
    /// A snapshot's.
    Snapshot(String),
    /// Behind a header that is none.
    Unknown,
}

/// Says what a line `KEY: VALUE` of a section is worth: the key and value that hold, or what is wrong with it. A wrong value
/// is passed over in a VM's file, and kept in a container's.
pub type Check<'a> = &'a dyn Fn(&Section, &str, &str) -> Result<(String, String), String>;

/// Raw lines of containers that are the variables of init's environment, and stand before the others.
const VARIABLE: &str = "lxc.environment.runtime";

impl GuestConfig {
    /// Reads a file's text without a look at the values; never fails, see `problems`.
    pub fn parse(kind: GuestKind, text: &str) -> Self {
        Self::parse_with(kind, text, &|_, key, value| Ok((key.to_owned(), value.to_owned())))
    }

    /// Reads a file's text; never fails, see `problems`.
    pub fn parse_with(kind: GuestKind, text: &str, check: Check) -> Self {
        let mut config = GuestConfig { digest: crate::file::digest(text), ..GuestConfig::new(kind) };
        let mut section = Section::Current;
        let mut seen_pending = false;
        for (index, line) in text.split('\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let mut report = |text: String| config.problems.push(Problem { line: index + 1, text });
            if let Some(found) = header(kind, line) {
                let vm = kind == GuestKind::Qemu;
                let duplicate = match &found {
                    Section::Pending if seen_pending => Some("section: pending".to_owned()),
                    Section::Special(name) if config.special.contains_key(name) => {
                        Some(format!("special section: {name}"))
                    }
                    Section::Snapshot(name) if config.snapshots.contains_key(name) => {
                        Some(format!("snapshot section: {name}"))
                    }
                    _ => None,
                };
                if let Some(name) = duplicate.filter(|_| vm) {
                    report(format!("duplicate {name}"));
                }
                if found == Section::Unknown {
                    let name = line.trim_ascii_end().trim_matches(['[', ']']);
                    report(format!("skipping unknown section: '{name}'"));
                    config.unknown_sections.push(line.to_owned());
                }
                seen_pending |= found == Section::Pending;
                config.begin(&found);
                section = found;
                continue;
            }
            if section == Section::Unknown {
                config.unknown_sections.push(line.to_owned());
                continue;
            }
            if let Err(text) = config.read_line(&section, line, check) {
                config.problems.push(Problem { line: index + 1, text });
            }
        }
        if kind == GuestKind::Qemu {
            config.trim_descriptions();
        }
        // Only a section of its own can be in the middle of something.
        config.current.options.remove("snapstate");
        config
    }

    /// A section begins anew when its header comes again.
    fn begin(&mut self, section: &Section) {
        match section {
            Section::Pending => self.pending = Default::default(),
            Section::Special(name) => drop(self.special.insert(name.clone(), Part::default())),
            Section::Snapshot(name) => drop(self.snapshots.insert(name.clone(), Part::default())),
            Section::Current | Section::Unknown => {}
        }
    }

    fn part_mut(&mut self, section: &Section) -> &mut Part {
        match section {
            Section::Current | Section::Unknown => &mut self.current,
            Section::Pending => &mut self.pending.part,
            Section::Special(name) => self.special.entry(name.clone()).or_default(),
            Section::Snapshot(name) => self.snapshots.entry(name.clone()).or_default(),
        }
    }

    /// Reads a line into its part; one that does not count is kept there as it is.
    fn read_line(&mut self, section: &Section, line: &str, check: Check) -> Result<(), String> {
        let kind = self.kind;
        if let Some(list) = value_behind(line, "delete:") {
            if *section == Section::Pending {
                self.pending.delete = parse_delete(list).collect();
                return Ok(());
            }
            self.part_mut(section).unreadable.push(line.to_owned());
            return Err(format!("property 'delete' is only allowed in [{}]", kind.pending_header()));
        }
        let part = self.part_mut(section);
        match part.read_line(kind, line) {
            Line::Done => Ok(()),
            Line::Option(key, value) => match check(section, key, value) {
                Ok((key, value)) => {
                    part.options.insert(key, value);
                    Ok(())
                }
                Err(reason) => {
                    match kind {
                        GuestKind::Qemu => part.unreadable.push(line.to_owned()),
                        GuestKind::Lxc => part.set(key, value),
                    }
                    Err(format!("unable to parse value of '{key}' - {reason}"))
                }
            },
            Line::Unreadable => {
                part.unreadable.push(line.to_owned());
                Err(format!("unable to parse config: {line}"))
            }
        }
    }

    /// PVE cuts off what is blank at the end of a VM's description, but not of a container's.
    fn trim_descriptions(&mut self) {
        let others = self.special.values_mut().chain(self.snapshots.values_mut());
        for part in [&mut self.current, &mut self.pending.part].into_iter().chain(others) {
            if let Some(description) = &mut part.description {
                description.truncate(description.trim_end().len());
            }
        }
    }

    /// The file's text.
    pub fn print(&self) -> String {
        let mut text = String::new();
        self.current.write(&mut text);
        if !self.pending.is_empty() {
            text += &format!("\n[{}]\n", self.kind.pending_header());
            let mut part = self.pending.part.clone();
            // PVE sorts the list of keys to delete in among the others.
            if !self.pending.delete.is_empty() {
                let mark = |forced: &bool| if *forced { "!" } else { "" };
                let keys = self.pending.delete.iter().map(|(key, forced)| format!("{}{key}", mark(forced)));
                part.set("delete", keys.collect::<Vec<_>>().join(","));
            }
            // A description that is to be emptied is a change as well.
            if part.description.as_deref() == Some("") && self.kind == GuestKind::Qemu {
                text += "#\n";
            }
            part.write(&mut text);
        }
        for (name, part) in &self.special {
            text += &format!("\n[special:{name}]\n");
            part.write(&mut text);
        }
        for (name, part) in &self.snapshots {
            text += &format!("\n[{name}]\n");
            part.write(&mut text);
        }
        for line in &self.unknown_sections {
            let gap = if line.starts_with('[') { "\n" } else { "" };
            text += &format!("{gap}{line}\n");
        }
        text
    }
}

/// The section that a line begins, if it is a header.
fn header(kind: GuestKind, line: &str) -> Option<Section> {
    let name = line.trim_ascii_end().strip_prefix('[')?.strip_suffix(']')?;
    if name.eq_ignore_ascii_case(kind.pending_header()) {
        return Some(Section::Pending);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_name) {
        return Some(Section::Snapshot(name.to_owned()));
    }
    match (kind, name.strip_prefix("special:")) {
        (GuestKind::Qemu, Some(name @ ("cloudinit" | "fleecing"))) => Some(Section::Special(name.to_owned())),
        (GuestKind::Qemu, _) if !name.contains(']') => Some(Section::Unknown),
        _ => None,
    }
}

/// What stands behind the start of a line, blanks apart; none if that is nothing.
fn value_behind<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start).map(str::trim_ascii).filter(|value| !value.is_empty())
}

/// `a,!b` → a plain, b forced.
fn parse_delete(list: &str) -> impl Iterator<Item = (String, bool)> {
    crate::types::split_list(list).into_iter().map(|key| match key.strip_prefix('!') {
        Some(key) => (key.to_owned(), true),
        None => (key, false),
    })
}

/// What a line turned out to be.
enum Line<'a> {
    /// It has found its place.
    Done,
    /// A key and its value.
    Option(&'a str, &'a str),
    /// Nothing that is known.
    Unreadable,
}

impl Part {
    fn read_line<'a>(&mut self, kind: GuestKind, line: &'a str) -> Line<'a> {
        if let Some(comment) = line.strip_prefix('#') {
            let description = self.description.get_or_insert_default();
            description.push_str(&decode(comment));
            description.push('\n');
            return Line::Done;
        }
        if kind == GuestKind::Lxc
            && let Some((key, value)) = raw_line(line)
        {
            self.raw.push((key.to_owned(), value.to_owned()));
            return Line::Done;
        }
        if kind == GuestKind::Lxc
            && let Some(value) = value_behind(line, "env:")
        {
            self.raw.retain(|(key, _)| key != VARIABLE);
            self.raw.extend(value.split('\0').map(|variable| (VARIABLE.to_owned(), variable.to_owned())));
            return Line::Done;
        }
        if let Some(value) = value_behind(line, "description:") {
            self.description.get_or_insert_default().push_str(&decode(value));
            return Line::Done;
        }
        if let Some((_, state)) = line.split_once("snapstate:")
            && let state @ ("prepare" | "delete") = state.trim_ascii()
        {
            self.set("snapstate", state);
            return Line::Done;
        }
        let Some((key, value)) = line.split_once(':') else { return Line::Unreadable };
        let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_key = |c: char| c.is_ascii_lowercase() || c == '_' || c == '-' && kind == GuestKind::Qemu;
        if !stem.starts_with(|c: char| c.is_ascii_lowercase()) || !stem.chars().all(is_key) {
            return Line::Unreadable;
        }
        match (value.trim_ascii(), value.len()) {
            ("", 0) => Line::Unreadable,
            // Of nothing but blanks one remains.
            ("", length) => Line::Option(key, &value[length - 1..]),
            (value, _) => Line::Option(key, value),
        }
    }

    fn write(&self, text: &mut String) {
        let description =
            self.description.as_deref().map(|text| text.trim_end_matches('\n')).filter(|text| !text.is_empty());
        for line in description.into_iter().flat_map(|description| description.split('\n')) {
            *text += &format!("#{}\n", encode(line));
        }
        for (key, value) in &self.options {
            *text += &format!("{key}: {value}\n");
        }
        let (variables, others): (Vec<_>, Vec<_>) = self.raw.iter().partition(|(key, _)| key == VARIABLE);
        for (key, value) in variables.into_iter().chain(others) {
            *text += &format!("{key}: {value}\n");
        }
        // What has got a value meanwhile is not kept a second time.
        let is_set = |line: &str| line.split_once(':').is_some_and(|(key, _)| self.options.contains_key(key));
        for line in self.unreadable.iter().filter(|line| !is_set(line)) {
            *text += &format!("{line}\n");
        }
    }
}

/// `lxc.KEY: VALUE` or `lxc.KEY = VALUE`.
fn raw_line(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("lxc.")?;
    let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    let length = rest.find(|c| !is_key(c)).filter(|length| *length > 0)?;
    let (key, rest) = line.split_at("lxc.".len() + length);
    let value = rest.strip_prefix(':').or_else(|| rest.trim_ascii_start().strip_prefix('='))?;
    Some((key, value.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const VM: &str = "#web%3A one\n#two\nboot: order=scsi0\ncores: 2\nscsi0: local:100/vm-100-disk-0.raw,size=4G\n\n\
        [PENDING]\nballoon: 0\ndelete: onboot,!unused0\nmemory: 1024\n\n[special:cloudinit]\nciuser: debian\n\n[before]\ncores: 1\n\
        snaptime: 1700000000\n";

    fn vm(text: &str) -> GuestConfig {
        GuestConfig::parse(GuestKind::Qemu, text)
    }

    fn problems(config: &GuestConfig) -> Vec<(usize, &str)> {
        config.problems.iter().map(|problem| (problem.line, problem.text.as_str())).collect()
    }

    #[test]
    fn printing_inverts_parsing() {
        let config = vm(VM);
        assert_eq!(config.current.description.as_deref(), Some("web: one\ntwo"));
        assert_eq!(config.pending.delete, BTreeMap::from([("onboot".into(), false), ("unused0".into(), true)]));
        assert_eq!(config.snapshots["before"].get("cores"), Some("1"));
        assert_eq!(config.current.indexed("scsi").next(), Some((0, "local:100/vm-100-disk-0.raw,size=4G")));
        assert!(config.problems.is_empty());
        assert_eq!(config.print(), VM);
    }

    #[test]
    fn raw_keys_of_containers_keep_their_order_behind_the_environment() {
        let text = "arch: amd64\nlxc.mount.entry: /a b none bind\nlxc.environment.runtime: A=1\nlxc.apparmor.profile = unconfined\n!!\n";
        let config = GuestConfig::parse(GuestKind::Lxc, text);
        assert_eq!(config.current.raw[2], ("lxc.apparmor.profile".into(), "unconfined".into()));
        assert_eq!(problems(&config), [(5, "unable to parse config: !!")]);
        let printed = "arch: amd64\nlxc.environment.runtime: A=1\nlxc.mount.entry: /a b none bind\n\
            lxc.apparmor.profile: unconfined\n!!\n";
        assert_eq!(config.print(), printed);
    }

    #[test]
    fn headers_and_lines_are_taken_as_pve_takes_them() {
        let config = vm(
            "cores: 1\r\n Cores: 2\nname x\nsnapstate: delete\n[pending] \ndelete: a;b  !c\n[Two_x]\nsnapstate: prepare\n",
        );
        assert_eq!(config.current.options, BTreeMap::from([("cores".into(), "1".into())]));
        assert_eq!(problems(&config).len(), 2);
        assert_eq!(config.pending.delete.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(config.snapshots["Two_x"].get("snapstate"), Some("prepare"));
    }

    #[test]
    fn a_section_that_comes_twice_begins_anew() {
        let config = vm("[PENDING]\ncores: 1\n[aa]\ncores: 1\n[PENDING]\nmemory: 16\n[aa]\nname: b\n");
        assert_eq!(config.pending.part.options, BTreeMap::from([("memory".into(), "16".into())]));
        assert_eq!(config.snapshots["aa"].options, BTreeMap::from([("name".into(), "b".into())]));
        assert_eq!(problems(&config), [(5, "duplicate section: pending"), (7, "duplicate snapshot section: aa")]);
    }

    #[test]
    fn unknown_sections_and_lines_do_not_count_and_stay() {
        let text = "cores: 1\n=\n\n[a]\ncores: 7\n\n[special:other]\nx\n";
        let config = vm(text);
        assert_eq!((config.current.options.len(), config.snapshots.len(), config.special.len()), (1, 0, 0));
        assert_eq!(problems(&config)[1], (4, "skipping unknown section: 'a'"));
        assert_eq!(config.print(), text);
    }

    #[test]
    fn what_has_a_value_again_is_not_kept_twice() {
        let check: Check = &|_, key, value| match value {
            "bad" => Err("no".into()),
            _ => Ok((key.into(), value.into())),
        };
        let mut config = GuestConfig::parse_with(GuestKind::Qemu, "name: a\nname: bad\nvga: bad\n", check);
        assert_eq!(problems(&config)[0], (2, "unable to parse value of 'name' - no"));
        assert_eq!(config.print(), "name: a\nvga: bad\n");
        config.current.set("vga", "std");
        assert_eq!(config.print(), "name: a\nvga: std\n");
        let container = GuestConfig::parse_with(GuestKind::Lxc, "hostname: bad\n", check);
        assert_eq!((container.current.get("hostname"), container.problems.len()), (Some("bad"), 1));
    }

    #[test]
    fn descriptions_keep_their_lines() {
        let config = vm("#\n#a  \n#b\r\n# \ndescription: c%0Ad \n[PENDING]\n#\n");
        assert_eq!(config.current.description.as_deref(), Some("\na  \nb\r\n \nc\nd"));
        assert_eq!(config.pending.part.description.as_deref(), Some(""));
        assert_eq!(config.print(), "#\n#a  \n#b%0D\n# \n#c\n#d\n\n[PENDING]\n#\n");
    }
}

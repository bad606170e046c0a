//! `/etc/network/interfaces` by its meaning: sections with options, sourced files included, every line with its place.
//!
//! This is the grammar of ifupdown: a backslash joins lines, `source` takes patterns, `source-directory` takes plain names.
//! Unlike [`super::interfaces`], which edits one file as PVE does, a line that makes no sense is an error with its line.

use crate::{Context, Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How deep files may source files.
const DEPTH: usize = 8;

/// One section `iface NAME FAMILY METHOD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza {
    /// The interface.
    pub name: String,
    /// `inet`, `inet6`, or empty.
    pub family: String,
    /// `static`, `dhcp`, `manual`, `auto`, `loopback`, or empty.
    pub method: String,
    /// Options in their order, with names as ifupdown2 writes them (dashes).
    pub options: Vec<(String, String)>,
    /// Where it begins, for messages: `/etc/network/interfaces:7`.
    pub place: String,
}

/// All sections of all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sections {
    /// In the order of the files.
    pub stanzas: Vec<Stanza>,
    /// Interfaces that are brought up with the node.
    pub auto: BTreeSet<String>,
}

impl Sections {
    /// Where the first interface that a message names has its section.
    pub fn place_of(&self, message: &str) -> Option<String> {
        let words = message.split([' ', '\'']).filter(|word| !word.is_empty());
        words.filter_map(|word| self.stanzas.iter().find(|stanza| stanza.name == word)).map(|s| s.place.clone()).next()
    }
}

/// Reads `text` as the content of `file`, and what it sources.
pub fn read(ctx: &Context, file: &Path, text: &str) -> Result<Sections> {
    let mut sections = Sections::default();
    read_into(ctx, file, text, 0, &mut sections)?;
    Ok(sections)
}

fn read_into(ctx: &Context, file: &Path, text: &str, depth: usize, into: &mut Sections) -> Result<()> {
    let mut current: Option<usize> = None;
    for (number, line) in joined_lines(text) {
        let place = format!("{}:{number}", file.display());
        let wrong = |what: &str| Error::new(format!("{place}: {what}"));
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let rest = rest.trim();
        match word {
            "auto" => into.auto.extend(rest.split_whitespace().map(str::to_owned)),
            "iface" => {
                into.stanzas.push(head(rest, &place).ok_or_else(|| wrong(&format!("unable to read 'iface {rest}'")))?);
                current = Some(into.stanzas.len() - 1);
            }
            "mapping" => current = None,
            "source" | "source-directory" => {
                current = None;
                if depth >= DEPTH {
                    return Err(wrong("files source each other too deeply"));
                }
                for sourced in sourced_files(ctx, file, word, rest) {
                    let text = crate::file::read_or_empty(&sourced)?;
                    read_into(ctx, &sourced, &text, depth + 1, into)?;
                }
            }
            "script" | "map" if current.is_none() => {}
            word if word.starts_with("allow-") || word.starts_with("no-") && current.is_none() => {
                if matches!(word, "allow-auto" | "allow-hotplug" | "allow-ovs") {
                    into.auto.extend(rest.split_whitespace().map(str::to_owned));
                }
                current = None;
            }
            word => match current {
                Some(index) if !rest.is_empty() => {
                    into.stanzas[index].options.push((word.replace('_', "-"), rest.to_owned()));
                }
                Some(_) => return Err(wrong(&format!("option '{word}' has no value"))),
                None => return Err(wrong(&format!("unable to read '{line}': it belongs to no interface"))),
            },
        }
    }
    Ok(())
}

/// Lines without comments and blanks, with their numbers; a backslash at the end joins the next line.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        if open.is_none() && line.trim_start().starts_with('#') {
            continue;
        }
        let (number, mut joined) = open.take().unwrap_or((index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(part) => {
                joined.push_str(part);
                open = Some((number, joined));
            }
            None => {
                joined.push_str(line);
                lines.push((number, joined.trim().to_owned()));
            }
        }
    }
    lines.extend(open.map(|(number, joined)| (number, joined.trim().to_owned())));
    lines.retain(|(_, line)| !line.is_empty());
    lines
}

fn head(rest: &str, place: &str) -> Option<Stanza> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (name, family, method) = match words[..] {
        [name] => (name, "", ""),
        [name, family @ ("inet" | "inet6"), method] => (name, family, method),
        _ => return None,
    };
    let known = ["", "static", "dhcp", "manual", "auto", "loopback"];
    known.contains(&method).then(|| Stanza {
        name: name.into(),
        family: family.into(),
        method: method.into(),
        place: place.into(),
        ..Stanza::default()
    })
}

/// The files that a line names, in the order of their names. Absolute names are below the node's root.
fn sourced_files(ctx: &Context, file: &Path, word: &str, pattern: &str) -> Vec<PathBuf> {
    let pattern = if pattern.starts_with('/') {
        ctx.root.path(pattern)
    } else {
        file.parent().unwrap_or(Path::new("/")).join(pattern)
    };
    let (directory, name) = match word {
        "source-directory" => (pattern.clone(), None),
        _ => (
            pattern.parent().unwrap_or(Path::new("/")).to_path_buf(),
            pattern.file_name().map(|n| n.to_string_lossy().into_owned()),
        ),
    };
    let entries = std::fs::read_dir(&directory).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let is_plain = |found: &str| found.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    names.retain(|found| match &name {
        Some(name) => !found.starts_with('.') && matches_pattern(name, found),
        None => is_plain(found),
    });
    names.into_iter().map(|name| directory.join(name)).filter(|path| path.is_file()).collect()
}

/// `*` and `?` of a shell's pattern.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), first) => {
            matches_pattern(&pattern[1..], name)
                || first.is_some_and(|c| matches_pattern(pattern, &name[c.len_utf8()..]))
        }
        (Some('?'), Some(c)) => matches_pattern(&pattern[1..], &name[c.len_utf8()..]),
        (Some(wanted), Some(c)) if wanted == c => matches_pattern(&pattern[c.len_utf8()..], &name[c.len_utf8()..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(text: &str, extra: &[(&str, &str)]) -> Result<Sections> {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let directory = ctx.root.path("/etc/network/interfaces.d");
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in extra {
            std::fs::write(directory.join(name), text).unwrap();
        }
        read(&ctx, &ctx.root.path("/etc/network/interfaces"), text)
    }

    #[test]
    fn sourced_files_count() {
        let text = "auto lan\niface lan inet static\n\taddress 10.0.0.1/24\n  bridge_ports \\\n  eth0 eth1\n\
                    source /etc/network/interfaces.d/*.cfg\nsource-directory interfaces.d\n";
        let extra = [("b.cfg", "auto b\niface b inet manual\n"), ("plain", "iface c inet6 auto\n"), ("x~", "junk\n")];
        let found = sections(text, &extra).unwrap();
        let names: Vec<&str> = found.stanzas.iter().map(|stanza| stanza.name.as_str()).collect();
        assert_eq!(names, ["lan", "b", "c"]);
        assert_eq!(found.stanzas[0].options[1], ("bridge-ports".to_owned(), "eth0 eth1".to_owned()));
        assert_eq!(found.auto.len(), 2);
    }

    #[test]
    fn nonsense_is_named_with_its_line() {
        let text = |text: &str| sections(text, &[]).unwrap_err().message().to_owned();
        assert!(
            text("auto lo\niface lan inet statik\n").ends_with("interfaces:2: unable to read 'iface lan inet statik'")
        );
        assert!(text("iface lan inet manual\n\tmtu\n").ends_with("interfaces:2: option 'mtu' has no value"));
        assert!(text("addres 10.0.0.1\n").contains("interfaces:1: unable to read 'addres 10.0.0.1'"));
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        assert!(matches_pattern("*", "a") && matches_pattern("a*.cfg", "ab.cfg") && matches_pattern("?x", "äx"));
        assert!(!matches_pattern("a*.cfg", "b.cfg") && !matches_pattern("", "a"));
    }
}

//! What `dpkg-query` and `apt-cache` say of packages. Their answers are read as text; nothing is changed.

use crate::tool::{QUESTION, Tool};
use crate::{Context, Result};
use std::collections::{BTreeSet, HashMap};

/// How many names one command gets. apt may have to read all its lists anew for each command, so there should be few.
const CHUNK: usize = 4000;

/// A package that dpkg knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The name, with the architecture where it is not the machine's own.
    pub name: String,
    /// The version that is unpacked.
    pub version: String,
    /// What somebody wants of it: `i` is installed, `h` is held.
    pub wanted: char,
    /// Where it has got to: `i` is installed, `c` has only settings left.
    pub state: char,
}

/// What apt would install of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The version.
    pub version: String,
    /// Who made it, as the archive says.
    pub origin: Option<String>,
}

/// What an archive tells of one version of a package.
pub type Record = HashMap<String, String>;

/// All packages that dpkg knows.
pub fn installed(ctx: &Context) -> Result<Vec<Installed>> {
    let format = "${binary:Package}\\t${Version}\\t${db:Status-Abbrev}\\n";
    let tool = Tool::new("dpkg-query").args(["--show", "--showformat", format]);
    let text = tool.within(QUESTION).read(ctx)?;
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let (name, version, state) = (fields.next()?, fields.next()?, fields.next()?);
        let mut states = state.chars();
        let (wanted, state) = (states.next()?, states.next()?);
        Some(Installed { name: name.to_owned(), version: version.to_owned(), wanted, state })
    };
    Ok(text.lines().filter_map(line).collect())
}

/// From each line that names a package file to the origin that its release states.
pub struct Origins(HashMap<String, String>);

/// Where packages can come from.
pub fn known_origins(ctx: &Context) -> Result<Origins> {
    Ok(Origins(origins(&Tool::new("apt-cache").arg("policy").within(QUESTION).read(ctx)?)))
}

/// What apt would install, by name as asked, without the machine's own architecture.
pub fn candidates(ctx: &Context, names: &[String], origins: &Origins) -> Result<HashMap<String, Candidate>> {
    let mut found = HashMap::new();
    for names in names.chunks(CHUNK) {
        let tool = Tool::new("apt-cache").args(["policy", "--"]).args(names.iter().cloned());
        found.extend(policies(&tool.within(QUESTION).read(ctx)?, &origins.0));
    }
    Ok(found)
}

fn origins(text: &str) -> HashMap<String, String> {
    let mut origins = HashMap::new();
    let mut source = "";
    for line in text.lines() {
        let line = line.trim();
        if let Some(release) = line.strip_prefix("release ") {
            if let Some(origin) = release.split(',').find_map(|part| part.strip_prefix("o=")) {
                origins.insert(source.to_owned(), origin.to_owned());
            }
        } else if let Some((_, name)) = line.split_once(' ').filter(|(priority, _)| priority.parse::<i32>().is_ok()) {
            source = name;
        }
    }
    origins
}

fn policies(text: &str, origins: &HashMap<String, String>) -> HashMap<String, Candidate> {
    let mut found: HashMap<String, Candidate> = HashMap::new();
    let mut current: Option<(String, Candidate)> = None;
    let mut is_candidate = false;
    for line in text.lines().chain(["end:"]) {
        if !line.starts_with(' ') {
            found.extend(current.take().filter(|(_, candidate)| !candidate.version.is_empty()));
            is_candidate = false;
            current = line.strip_suffix(':').map(|name| (name.to_owned(), Candidate::default()));
            continue;
        }
        let Some((_, candidate)) = &mut current else { continue };
        if let Some(version) = line.strip_prefix("  Candidate: ") {
            candidate.version = if version == "(none)" { String::new() } else { version.to_owned() };
        } else if let Some(source) = line.strip_prefix("        ") {
            let name = source.trim_start().split_once(' ').map_or("", |(_, name)| name);
            if is_candidate && candidate.origin.is_none() {
                candidate.origin = origins.get(name).cloned();
            }
        } else {
            let version = line.trim_start_matches([' ', '*']).split(' ').next();
            is_candidate = version == Some(candidate.version.as_str());
        }
    }
    found
}

/// What the archives tell of `(name, version)` pairs, by name; what they do not know is left out.
pub fn records(ctx: &Context, wanted: &[(String, String)]) -> Result<HashMap<String, Record>> {
    let mut found = HashMap::new();
    for wanted in wanted.chunks(CHUNK) {
        let names = wanted.iter().map(|(name, version)| format!("{name}={version}"));
        let tool = Tool::new("apt-cache").args(["show", "--no-all-versions", "--"]).args(names);
        // One that is unknown is no reason to lose the others.
        for record in split_records(&tool.within(QUESTION).end(ctx)?.stdout) {
            if let Some(name) = record.get("Package").cloned() {
                found.entry(name).or_insert(record);
            }
        }
    }
    Ok(found)
}

/// Each record begins with its package; blank lines between them may be missing.
fn split_records(text: &str) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        if line.starts_with("Package:") {
            records.push(Record::new());
            last = None;
        }
        let Some(record) = records.last_mut() else { continue };
        if line.starts_with([' ', '\t']) {
            if let Some(value) = last.as_ref().and_then(|key| record.get_mut(key)) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            record.insert(key.to_owned(), value.trim().to_owned());
            last = Some(key.to_owned());
        }
    }
    records
}

/// Packages that an upgrade would add. Nothing when apt cannot say.
pub fn additions(ctx: &Context) -> BTreeSet<String> {
    let tool = Tool::new("apt-get").args(["--simulate", "--quiet", "dist-upgrade"]);
    let ended = tool.within(QUESTION).end(ctx).unwrap_or_default();
    let line = |line: &str| {
        // With the version that is installed in brackets it would be an upgrade.
        let (name, _) = line.strip_prefix("Inst ")?.split_once(" (")?;
        (!name.contains(' ')).then(|| name.to_owned())
    };
    ended.stdout.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_that_of_the_candidate() {
        let files = "Package files:\n 100 /var/lib/dpkg/status\n     release a=now\n \
            500 http://deb/debian bookworm/main amd64 Packages\n     release v=12,o=Debian,a=stable,c=main\n     \
            origin deb\nPinned packages:\n";
        let origins = origins(files);
        let text = "bash:\n  Installed: 5.2-1\n  Candidate: 5.2-2\n  Version table:\n     5.2-2 500\n        \
            500 http://deb/debian bookworm/main amd64 Packages\n *** 5.2-1 100\n        100 /var/lib/dpkg/status\n\
            gone:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\nown:i386:\n  Installed: 1\n  \
            Candidate: 1\n  Version table:\n *** 1 100\n        100 /var/lib/dpkg/status\n";
        let found = policies(text, &origins);
        assert_eq!(found.len(), 2);
        assert_eq!(found["bash"], Candidate { version: "5.2-2".into(), origin: Some("Debian".into()) });
        assert_eq!(found["own:i386"], Candidate { version: "1".into(), origin: None });
    }

    #[test]
    fn records_keep_the_lines_of_a_description() {
        let text =
            "Package: bash\nVersion: 1\nDescription-en: a shell\n first\n .\n second\nPackage: zip\nVersion: 2\n";
        let records = split_records(text);
        assert_eq!(records[0]["Description-en"], "a shell\n first\n .\n second");
        assert_eq!((records[0]["Package"].as_str(), records[1]["Version"].as_str()), ("bash", "2"));
    }
}

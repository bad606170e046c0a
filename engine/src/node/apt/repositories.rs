//! `/nodes/{node}/apt/repositories`: where the node's packages come from, in apt's files of both forms.
//! (PVE: pve-manager PVE/API2/APT.pm; the members are those of the contract)
//!
//! An entry is switched by changing its own lines; everything else in the file stays as it is.

use crate::{Call, Context, Reply, Result, bail, file};
use openssl::sha::sha256;
use serde_json::{Value, json};

/// The directory of apt's settings.
const APT: &str = "/etc/apt";

/// Repositories of PVE's that user interfaces offer: handle, name, component, and a part of its address.
const STANDARD: [(&str, &str, &str, &str); 6] = [
    ("enterprise", "Enterprise", "pve-enterprise", "/debian/pve"),
    ("no-subscription", "No-Subscription", "pve-no-subscription", "/debian/pve"),
    ("test", "Test", "pve-test", "/debian/pve"),
    ("ceph-squid-enterprise", "Ceph Squid Enterprise", "enterprise", "/debian/ceph-squid"),
    ("ceph-squid-no-subscription", "Ceph Squid No-Subscription", "no-subscription", "/debian/ceph-squid"),
    ("ceph-squid-test", "Ceph Squid Test", "test", "/debian/ceph-squid"),
];

/// One file.
struct Sources {
    /// Its place on the node, as clients name it.
    path: String,
    text: String,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One line for each entry.
    List,
    /// Paragraphs of fields.
    Fields,
}

/// One entry.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    types: Vec<String>,
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    options: Vec<(String, Vec<String>)>,
    comment: String,
    enabled: bool,
    /// Its first line and the one after its last, from 0.
    lines: (usize, usize),
}

/// `GET`.
pub fn list(call: &Call) -> Result<Reply> {
    let (mut files, mut infos, mut errors, mut entries) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let sources = load(call.ctx)?;
    for one in &sources {
        match one.entries() {
            Ok(found) => {
                for (index, entry) in found.iter().enumerate() {
                    let message = entry.origin();
                    infos.push(json!({ "path": one.path, "index": index, "kind": "origin", "message": message }));
                }
                files.push(json!({
                    "path": one.path,
                    "file-type": one.form.name(),
                    "repositories": found.iter().map(|entry| entry.describe(one.form)).collect::<Value>(),
                    "digest": sha256(one.text.as_bytes()).to_vec(),
                }));
                entries.extend(found);
            }
            Err(error) => errors.push(json!({ "path": one.path, "error": error.message() })),
        }
    }
    let standard = STANDARD.iter().map(|(handle, name, component, address)| {
        let is_it = |entry: &&Entry| {
            let of_proxmox = |uri: &String| uri.contains("proxmox.com") && uri.trim_end_matches('/').ends_with(address);
            entry.uris.iter().any(of_proxmox) && entry.components.iter().any(|own| own == component)
        };
        let mut row = json!({ "handle": handle, "name": name });
        if let Some(enabled) = entries.iter().filter(is_it).map(|entry| u8::from(entry.enabled)).max() {
            row["status"] = json!(enabled);
        }
        row
    });
    Ok(Reply::from(json!({
        "files": files, "infos": infos, "errors": errors, "digest": digest(&sources),
        "standard-repos": standard.collect::<Value>(),
    })))
}

/// `POST`: switches an entry on or off.
pub fn change(call: &Call) -> Result<Reply> {
    let (path, index): (String, usize) = (call.param("path")?, call.param("index")?);
    let sources = load(call.ctx)?;
    file::assert_digest(&digest(&sources), call.text("digest").as_deref())?;
    let Some(one) = sources.into_iter().find(|one| one.path == path) else { bail!("invalid path - {path}") };
    let entries = one.entries()?;
    let Some(entry) = entries.get(index) else { bail!("invalid index - {index}") };
    let Some(enabled) = call.opt::<bool>("enabled")?.filter(|enabled| *enabled != entry.enabled) else {
        return Ok(Reply::null());
    };
    file::update(call.ctx, &call.ctx.root.path(&one.path), 0o644, |text| {
        if text != one.text {
            bail!("detected modified configuration - file changed by other user? Try again.");
        }
        Ok(one.switched(entry, enabled))
    })?;
    Ok(Reply::null())
}

/// All files that apt reads.
fn load(ctx: &Context) -> Result<Vec<Sources>> {
    let directory = format!("{APT}/sources.list.d");
    let names = std::fs::read_dir(ctx.root.path(&directory)).into_iter().flatten();
    let mut paths: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        // apt passes over names with other characters.
        .filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
        .map(|name| format!("{directory}/{name}"))
        .collect();
    paths.push(format!("{APT}/sources.list"));
    paths.sort();
    let form = |path: &str| match path.rsplit_once('.')?.1 {
        "list" => Some(Form::List),
        "sources" => Some(Form::Fields),
        _ => None,
    };
    let known = paths.into_iter().filter_map(|path| Some((form(&path)?, path)));
    let known = known.filter(|(_, path)| ctx.root.path(path).is_file());
    known.map(|(form, path)| Ok(Sources { text: file::read_or_empty(&ctx.root.path(&path))?, path, form })).collect()
}

fn digest(sources: &[Sources]) -> String {
    let all: Vec<u8> = sources.iter().flat_map(|one| sha256(one.text.as_bytes())).collect();
    crate::types::hex(&sha256(&all))
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::List => "list",
            Form::Fields => "sources",
        }
    }
}

impl Entry {
    fn describe(&self, form: Form) -> Value {
        let options = self.options.iter().map(|(key, values)| json!({ "Key": key, "Values": values }));
        json!({
            "Types": self.types, "URIs": self.uris, "Suites": self.suites, "Components": self.components,
            "Options": options.collect::<Value>(), "Comment": self.comment, "FileType": form.name(),
            "Enabled": u8::from(self.enabled),
        })
    }

    fn origin(&self) -> &'static str {
        let is_of = |domain: &str| self.uris.iter().any(|uri| uri.contains(domain));
        match () {
            () if is_of("debian.org/") => "Debian",
            () if is_of("proxmox.com/") => "Proxmox",
            () => "Other",
        }
    }
}

impl Sources {
    fn entries(&self) -> Result<Vec<Entry>> {
        match self.form {
            Form::List => lines(&self.text),
            Form::Fields => paragraphs(&self.text),
        }
    }

    /// The text with an entry switched.
    fn switched(&self, entry: &Entry, enabled: bool) -> String {
        let (first, end) = entry.lines;
        let mut text = String::new();
        let mut said = false;
        for (number, line) in self.text.lines().enumerate() {
            let is_own = (first..end).contains(&number);
            let is_switch = field(line).is_some_and(|(key, _)| key.eq_ignore_ascii_case("Enabled"));
            match self.form {
                Form::List if is_own && enabled => text += line.trim_start().trim_start_matches(['#', ' ', '\t']),
                Form::List if is_own => text += &format!("# {line}"),
                Form::Fields if is_own && is_switch => {
                    text += &format!("Enabled: {enabled}");
                    said = true;
                }
                _ => text += line,
            }
            text.push('\n');
            if self.form == Form::Fields && number + 1 == end && !said {
                text += &format!("Enabled: {enabled}\n");
            }
        }
        text
    }
}

/// Entries of one line; one that is commented out is switched off.
fn lines(text: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut comment = String::new();
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        let (is_off, plain) = match trimmed.strip_prefix('#') {
            Some(rest) => (true, rest.trim_start_matches(['#', ' ', '\t'])),
            None => (false, trimmed),
        };
        if plain.is_empty() {
            continue;
        }
        match line_entry(plain) {
            Some(entry) => entries.push(Entry {
                comment: std::mem::take(&mut comment) + &entry.comment,
                enabled: !is_off,
                lines: (number, number + 1),
                ..entry
            }),
            None if is_off => comment += &format!("{}\n", &trimmed[1..]),
            None => bail!("malformed entry in line {}", number + 1),
        }
    }
    Ok(entries)
}

/// `deb [key=value key=value,value] URI suite component …`
fn line_entry(line: &str) -> Option<Entry> {
    let (line, comment) = line.split_once('#').unwrap_or((line, ""));
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    if !matches!(kind, "deb" | "deb-src") {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let option = |option: &str| {
        let (key, values) = option.split_once('=')?;
        Some((key.to_owned(), values.split(',').map(str::to_owned).collect()))
    };
    let options: Option<Vec<_>> = options.split_whitespace().map(option).collect();
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next().filter(|uri| uri.contains(':'))?, words.next()?);
    Some(Entry {
        types: vec![kind.to_owned()],
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
        options: options?,
        comment: comment.trim_end().to_owned(),
        ..Entry::default()
    })
}

/// Entries of paragraphs, each `Key: values` with lines that go on.
fn paragraphs(text: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut entry = Entry::default();
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for (number, line) in text.lines().chain([""]).enumerate() {
        if line.trim().is_empty() {
            if !fields.is_empty() {
                entry.lines.1 = number;
                entry.take(std::mem::take(&mut fields))?;
                entries.push(std::mem::take(&mut entry));
            }
        } else if let Some(comment) = line.strip_prefix('#') {
            entry.comment += &format!("{comment}\n");
        } else if let Some((key, values)) = field(line) {
            if fields.is_empty() {
                entry.lines.0 = number;
            }
            fields.push((key.to_owned(), values.split_whitespace().map(str::to_owned).collect()));
        } else if let Some((_, values)) = fields.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
            values.extend(line.split_whitespace().map(str::to_owned));
        } else {
            bail!("malformed entry in line {}", number + 1);
        }
    }
    Ok(entries)
}

/// The beginning of a field.
fn field(line: &str) -> Option<(&str, &str)> {
    line.split_once(':').filter(|(key, _)| !key.is_empty() && !key.contains([' ', '\t', '#']))
}

impl Entry {
    /// Takes the fields over; an entry without types, addresses or suites is none.
    fn take(&mut self, fields: Vec<(String, Vec<String>)>) -> Result<()> {
        self.enabled = true;
        for (key, values) in fields {
            match key.to_ascii_lowercase().as_str() {
                "types" => self.types = values,
                "uris" => self.uris = values,
                "suites" => self.suites = values,
                "components" => self.components = values,
                "enabled" => {
                    let off = ["no", "false", "without", "off", "disable", "0"];
                    self.enabled = !values.first().is_some_and(|value| off.contains(&value.to_lowercase().as_str()));
                }
                _ => self.options.push((key, values)),
            }
        }
        for (name, values) in [("Types", &self.types), ("URIs", &self.uris), ("Suites", &self.suites)] {
            if values.is_empty() {
                bail!("missing field '{name}' in the entry that begins in line {}", self.lines.0 + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use contract::Verb;

    const LIST: &str = "# main\ndeb [arch=amd64,arm64 trusted=yes] http://deb.debian.org/debian bookworm main contrib # note\n\
        #deb http://download.proxmox.com/debian/pve bookworm pve-no-subscription\n";
    const FIELDS: &str = "# security\nTypes: deb deb-src\nURIs: http://security.debian.org/debian-security\n\
        Suites: bookworm-security\n bookworm-more\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\n\
        URIs: https://other.example/x\nSuites: ./\nEnabled: no\n";

    fn ask(ctx: &Context, verb: Verb, params: Value) -> Result<Value> {
        let Value::Object(mut params) = params else { panic!("parameters are an object") };
        params.insert("node".into(), json!("pve1"));
        registry::run(ctx, verb, "/nodes/{node}/apt/repositories", params).map(|reply| reply.data)
    }

    fn node() -> (tempfile::TempDir, Context) {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        std::fs::create_dir_all(ctx.root.path("/etc/apt/sources.list.d")).unwrap();
        std::fs::write(ctx.root.path("/etc/apt/sources.list"), LIST).unwrap();
        std::fs::write(ctx.root.path("/etc/apt/sources.list.d/more.sources"), FIELDS).unwrap();
        std::fs::write(ctx.root.path("/etc/apt/sources.list.d/old.list.save"), "nonsense").unwrap();
        (directory, ctx)
    }

    #[test]
    fn files_of_both_forms_are_read() {
        let (_directory, ctx) = node();
        std::fs::write(ctx.root.path("/etc/apt/sources.list.d/bad.list"), "\nnonsense\n").unwrap();
        let answer = ask(&ctx, Verb::Get, json!({})).unwrap();
        let files = answer["files"].as_array().unwrap();
        assert_eq!(
            files.iter().map(|f| f["path"].as_str().unwrap()).collect::<Vec<_>>(),
            ["/etc/apt/sources.list", "/etc/apt/sources.list.d/more.sources"]
        );
        assert_eq!(files[0]["digest"].as_array().unwrap().len(), 32);
        assert_eq!(
            files[0]["repositories"][0],
            json!({"Types": ["deb"], "URIs": ["http://deb.debian.org/debian"], "Suites": ["bookworm"],
                "Components": ["main", "contrib"], "Comment": " main\n note", "FileType": "list", "Enabled": 1,
                "Options": [{"Key": "arch", "Values": ["amd64", "arm64"]}, {"Key": "trusted", "Values": ["yes"]}]})
        );
        assert_eq!(files[0]["repositories"][1]["Enabled"], 0);
        let fields = &files[1]["repositories"];
        assert_eq!(fields[0]["Types"], json!(["deb", "deb-src"]));
        assert_eq!(fields[0]["Suites"], json!(["bookworm-security", "bookworm-more"]));
        assert_eq!(fields[0]["Options"], json!([{"Key": "Signed-By", "Values": ["/k.gpg"]}]));
        assert_eq!(fields[1]["Enabled"], 0);
        let origins = answer["infos"].as_array().unwrap().iter().map(|info| info["message"].as_str().unwrap());
        assert_eq!(origins.collect::<Vec<_>>(), ["Debian", "Proxmox", "Debian", "Other"]);
        let bad = json!([{"path": "/etc/apt/sources.list.d/bad.list", "error": "malformed entry in line 2"}]);
        assert_eq!(answer["errors"], bad);
        let standard = answer["standard-repos"].as_array().unwrap();
        assert_eq!((standard[0].get("status"), &standard[1]["status"]), (None, &json!(0)));
    }

    #[test]
    fn switching_changes_the_own_lines_only() {
        let (_directory, ctx) = node();
        let read = |name: &str| std::fs::read_to_string(ctx.root.path(name)).unwrap();
        let switch = |path: &str, index: usize, enabled: bool| {
            ask(&ctx, Verb::Post, json!({"path": path, "index": index, "enabled": enabled}))
        };
        let (list, fields) = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/more.sources");
        switch(list, 1, true).unwrap();
        assert_eq!(read(list), LIST.replace("#deb", "deb"));
        switch(list, 1, false).unwrap();
        assert_eq!(read(list), LIST.replace("#deb", "# deb"));
        switch(fields, 0, false).unwrap();
        switch(fields, 1, true).unwrap();
        let expected = FIELDS.replace("/k.gpg\n", "/k.gpg\nEnabled: false\n").replace("Enabled: no", "Enabled: true");
        assert_eq!(read(fields), expected);
        assert_eq!(switch("/etc/shadow", 0, true).unwrap_err().message(), "invalid path - /etc/shadow");
        assert_eq!(switch(list, 7, true).unwrap_err().message(), "invalid index - 7");
        let stale = json!({"path": list, "index": 0, "enabled": false, "digest": "0".repeat(64)});
        assert!(ask(&ctx, Verb::Post, stale).unwrap_err().message().starts_with("detected modified configuration"));
    }
}

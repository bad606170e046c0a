//! Images of application containers: the OCI image layout in a tar archive.
//!
//! ```text
//! index.json ── manifest ── configuration ── entrypoint, environment, user, … as options of the container
//!                        └─ layers, bottom up ── files beneath the container's root
//! ```
//! Everything in an image is its author's wish: digests are verified, paths are resolved within the root, and values with
//! control characters are refused because they become lines of configuration files.
//! (OCI image specification; PVE: LXC/Create.pm, restore_oci_archive)

use super::idmap::IdMap;
use super::layer;
use super::rootfs::RootDirectory;
use crate::config::guest::Part;
use crate::{Error, Result, Task, bail, error::ResultExt};
use openssl::sha::Sha256;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Documents of an image are never longer.
const LONGEST_DOCUMENT: u64 = 4 * 1024 * 1024;
/// An index that points to an index that points to … is no honest one.
const DEEPEST_INDEX: usize = 4;

/// An opened image archive: where each of its files lies.
pub struct Archive {
    file: File,
    places: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Opens an archive if it holds an image layout; other archives are none.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        if path.extension().is_none_or(|end| end != "tar") {
            return Ok(None);
        }
        let what = || format!("unable to read '{}'", path.display());
        let mut archive = tar::Archive::new(File::open(path).context(what)?);
        let mut places = HashMap::new();
        for entry in archive.entries_with_seek().context(what)? {
            let entry = entry.context(what)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            // The layout's mark comes early; an archive of a whole system need not be read to its end.
            if places.len() > 16 && !places.contains_key("oci-layout") && !places.contains_key("index.json") {
                let known = places.keys().any(|name: &String| name.starts_with("blobs/"));
                if !known {
                    return Ok(None);
                }
            }
            places.insert(name, (entry.raw_file_position(), entry.size()));
        }
        let is_image = places.contains_key("oci-layout") && places.contains_key("index.json");
        Ok(is_image.then_some(Archive { file: File::open(path).context(what)?, places }))
    }

    fn part(&self, name: &str) -> Result<impl Read + use<>> {
        let (offset, size) =
            self.places.get(name).ok_or_else(|| Error::new(format!("OCI archive has no file '{name}'")))?;
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(*offset))?;
        Ok(file.take(*size))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.part(name)?.take(LONGEST_DOCUMENT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LONGEST_DOCUMENT {
            bail!("OCI document '{name}' is too long");
        }
        Ok(bytes)
    }

    fn json(&self, name: &str) -> Result<Value> {
        let bytes = self.document(name)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::new(format!("OCI document '{name}': {error}")))
    }

    /// The file that a descriptor means, after its digest was verified.
    fn verified(&self, descriptor: &Value) -> Result<String> {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let hash = digest.strip_prefix("sha256:").filter(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let hash = hash.ok_or_else(|| Error::new(format!("unsupported OCI digest '{}'", digest.escape_debug())))?;
        let name = format!("blobs/sha256/{hash}");
        let (mut reader, mut sum, mut buffer) = (self.part(&name)?, Sha256::new(), vec![0; 1 << 16]);
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                count => sum.update(&buffer[..count]),
            }
        }
        let found = crate::types::hex(&sum.finish());
        if found != hash.to_ascii_lowercase() {
            bail!("OCI blob '{digest}' is damaged");
        }
        Ok(name)
    }

    /// The manifest for this machine.
    fn manifest(&self) -> Result<Value> {
        let mut document = self.json("index.json")?;
        for _ in 0..DEEPEST_INDEX {
            let Some(list) = document["manifests"].as_array() else { return Ok(document) };
            let fits = |entry: &&Value| {
                let platform = &entry["platform"];
                platform["architecture"].as_str().is_none_or(|name| name == architecture())
                    && platform["os"].as_str().is_none_or(|name| name == "linux")
            };
            let chosen = list.iter().find(fits);
            let chosen = chosen.ok_or_else(|| Error::new("OCI archive has no image for this machine"))?;
            document = self.json(&self.verified(chosen)?)?;
        }
        bail!("OCI archive has no image")
    }

    /// Unpacks the image and gives back its configuration.
    pub fn unpack(&self, task: &Task, root: &RootDirectory, map: &IdMap) -> Result<Value> {
        let manifest = self.manifest()?;
        for descriptor in manifest["layers"].as_array().into_iter().flatten() {
            task.check_abort()?;
            let kind = descriptor["mediaType"].as_str().unwrap_or_default();
            let name = self.verified(descriptor)?;
            layer::apply(self.part(&name)?, layer::Packing::of(kind)?, root, map)
                .context(|| format!("OCI layer '{name}'"))?;
        }
        let config = self.json(&self.verified(&manifest["config"])?)?;
        Ok(config["config"].clone())
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn checked<'a>(key: &str, value: &'a Value) -> Result<Option<&'a str>> {
    let Some(text) = value.as_str() else { return Ok(None) };
    if text.chars().any(char::is_control) {
        bail!("OCI config value for '{key}' contains forbidden control characters!");
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn checked_list<'a>(config: &'a Value, key: &str) -> Result<Vec<&'a str>> {
    let list = config[key].as_array().into_iter().flatten();
    let texts: Vec<&str> = list.filter_map(Value::as_str).collect();
    if texts.iter().any(|text| text.chars().any(char::is_control)) {
        bail!("OCI config array-value for '{key}' contains forbidden control characters!");
    }
    Ok(texts)
}

/// Enters what an image wants into the container's options. What the caller has given stays.
pub fn enter(task: &Task, config: &Value, root: &RootDirectory, part: &mut Part) -> Result<()> {
    for path in config["Volumes"].as_object().into_iter().flatten().map(|(path, _)| path) {
        checked("Volumes", &Value::String(path.clone()))?;
        task.log(format!("creating base directory for volume at {path}"));
        root.make_directories(path)?;
    }
    let words = [checked_list(config, "Entrypoint")?, checked_list(config, "Cmd")?].concat();
    if !words.is_empty() && words[0] != "/sbin/init" && part.get("entrypoint").is_none() {
        part.set("entrypoint", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        // Nobody answers on its terminals, and nobody inside sets its addresses.
        part.options.entry("cmode".into()).or_insert_with(|| "console".into());
        for (index, text) in part.indexed("net").map(|(index, text)| (index, text.to_owned())).collect::<Vec<_>>() {
            if !text.contains("host-managed=") {
                task.log(format!("Auto-Enabling host-managed network for network device net{index}."));
                let net = super::interface::Interface::parse(index, &format!("{text},host-managed=1"))?;
                part.set(format!("net{index}"), net.print());
            }
        }
    }
    let mut raw = Vec::new();
    if let Some(user) = checked("User", &config["User"])? {
        raw.extend(user_lines(user, root)?);
    }
    if let Some(directory) = checked("WorkingDir", &config["WorkingDir"])? {
        raw.push(("lxc.init.cwd".to_owned(), directory.to_owned()));
    }
    let given = part.raw.iter().any(|(key, _)| key == "lxc.environment.runtime");
    for variable in checked_list(config, "Env")?.into_iter().filter(|_| !given) {
        raw.push(("lxc.environment.runtime".to_owned(), variable.to_owned()));
    }
    let signal = checked("StopSignal", &config["StopSignal"])?.unwrap_or("SIGTERM");
    raw.push(("lxc.signal.halt".to_owned(), signal.to_owned()));
    part.raw.extend(raw);
    Ok(())
}

/// A word as liblxc splits commands.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// `USER[:GROUP]`, names or numbers, as lines of liblxc's configuration.
fn user_lines(text: &str, root: &RootDirectory) -> Result<Vec<(String, String)>> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let users = root.read("/etc/passwd")?.unwrap_or_default();
    let groups = root.read("/etc/group")?.unwrap_or_default();
    let find = |table: &str, column: usize, value: &str, wanted: usize| {
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.get(column) == Some(&value)).then(|| fields.get(wanted).map(|field| (*field).to_owned()))?
        })
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (uid, name) = if is_number(user) {
        (Some(user.to_owned()), find(&users, 2, user, 0))
    } else {
        (find(&users, 0, user, 2), Some(user.to_owned()))
    };
    let (gid, more) = match group {
        Some(group) if is_number(group) => (Some(group.to_owned()), None),
        Some(group) => (find(&groups, 0, group, 2), None),
        None => {
            let gid = uid.as_deref().and_then(|uid| find(&users, 2, uid, 3));
            let member = |line: &str| {
                let fields: Vec<&str> = line.split(':').collect();
                let name = name.as_deref()?;
                fields.get(3)?.split(',').any(|user| user == name).then(|| fields[2].to_owned())
            };
            (gid, Some(groups.lines().filter_map(member).collect::<Vec<_>>().join(",")))
        }
    };
    let lines = [("uid", uid), ("gid", gid), ("groups", more.filter(|list| !list.is_empty()))];
    let good = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',');
    let lines = lines.into_iter().filter_map(|(key, value)| Some((format!("lxc.init.{key}"), value.filter(good)?)));
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_liblxc_splits_them() {
        assert_eq!(quoted("/bin/sh"), "/bin/sh");
        assert_eq!(quoted("echo it's"), "'echo it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn users_are_looked_up_in_the_image() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n").unwrap();
        std::fs::write(directory.path().join("etc/group"), "tty:x:5:web\nweb:x:34:\n").unwrap();
        let root = RootDirectory::open(directory.path(), &IdMap::default()).unwrap();
        let lines = |user: &str| {
            let lines = user_lines(user, &root).unwrap();
            lines.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(lines("web"), "lxc.init.uid=33 lxc.init.gid=34 lxc.init.groups=5");
        assert_eq!(lines("33:tty"), "lxc.init.uid=33 lxc.init.gid=5");
        assert_eq!(lines("1000"), "lxc.init.uid=1000");
    }

    #[test]
    fn control_characters_are_refused() {
        let config = serde_json::json!({"Env": ["A=1\nlxc.hook.start = /x"], "User": "a\u{0}b"});
        assert!(checked_list(&config, "Env").is_err());
        assert!(checked("User", &config["User"]).is_err());
    }
}

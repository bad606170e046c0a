//! An index of templates: records of `Key: value` lines with an empty line between them, as Debian's control files are.
//! (PVE: pve-manager aplinfo/README.format; PVE/APLInfo.pm, read_aplinfo_from_fh)

use super::source::Base;
use crate::storage::content::Content;
use crate::storage::directory::name::FileName;
use crate::storage::transfer::Checksum;
use crate::{Result, bail};
use indexmap::IndexMap;

/// The record with the news of PVE's own index; no template.
const NEWS: &str = "pve-web-news";

/// A template that an index offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appliance {
    /// File name of the template.
    pub template: String,
    /// Where it is: a URL, or a path beside a local index.
    pub location: String,
    /// All members of the record by small letters, completed with `section`, `location`, `source` and `template`.
    pub fields: IndexMap<String, String>,
}

impl Appliance {
    /// `system`, `mail`, `turnkeylinux`, …
    pub fn section(&self) -> &str {
        self.field("section")
    }

    /// A member of the record, empty if it has none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// What the file must have.
    pub fn checksum(&self) -> Option<Checksum> {
        let of = |field: &str, algorithm: &str| {
            let expected = self.fields.get(field)?;
            Some(Checksum::new(algorithm.to_owned(), expected.clone()))
        };
        of("sha512sum", "sha512").or_else(|| of("md5sum", "md5"))
    }
}

/// Reads an index that came from `base`.
///
/// # Errors
/// A record that cannot be read or lacks what each must have.
pub fn parse(text: &str, base: &Base) -> Result<Vec<Appliance>> {
    let mut appliances = Vec::new();
    for lines in records(text) {
        let fields = fields(&lines)?;
        if fields.get("package").map(String::as_str) != Some(NEWS) {
            appliances.push(complete(fields, base)?);
        }
    }
    Ok(appliances)
}

/// Runs of lines that are not empty.
fn records(text: &str) -> Vec<Vec<&str>> {
    let mut records = vec![Vec::new()];
    for line in text.lines() {
        match (line.trim().is_empty(), records.last_mut()) {
            (false, Some(record)) => record.push(line),
            (true, Some(record)) if !record.is_empty() => records.push(Vec::new()),
            _ => {}
        }
    }
    records.retain(|record| !record.is_empty());
    records
}

fn fields(lines: &[&str]) -> Result<IndexMap<String, String>> {
    let mut fields = IndexMap::new();
    let mut described = false;
    for line in lines {
        if line.starts_with([' ', '\t']) && described {
            let text: &mut String = fields.entry("description".to_owned()).or_default();
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(line.trim());
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { bail!("unable to parse appliance record: {line}") };
        let (key, value) = (key.to_lowercase(), value.trim());
        described = key == "description";
        match key.as_str() {
            "description" => {
                fields.insert("headline".to_owned(), value.to_owned());
                fields.insert(key, String::new());
            }
            "version" if !is_version(value) => bail!("unable to parse appliance record: version = '{value}'"),
            "type" if !matches!(value, "openvz" | "lxc") => {
                bail!("unable to parse appliance record: unknown type '{value}'")
            }
            _ => {
                fields.insert(key, value.to_owned());
            }
        }
    }
    Ok(fields)
}

/// A digit first, then what Debian's versions are made of; a revision is a number.
fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-:~".contains(c))
}

/// Adds what follows from the rest.
fn complete(mut fields: IndexMap<String, String>, base: &Base) -> Result<Appliance> {
    for wanted in ["package", "type", "os", "version", "infopage"] {
        if fields.get(wanted).is_none_or(String::is_empty) {
            bail!("found incomplete appliance records");
        }
    }
    fields.entry("section".to_owned()).or_insert_with(|| "unknown".to_owned());
    let (template, location) = match fields.get("location") {
        Some(location) => {
            let name = location.rsplit('/').next().unwrap_or(location);
            (name.to_owned(), base.resolve(location)?)
        }
        None => {
            let name = conventional_name(&fields);
            let location = base.resolve(&format!("{}/{name}", fields["section"]))?;
            (name, location)
        }
    };
    if FileName::new(Content::Vztmpl, &template).is_none() {
        bail!("unable to parse appliance record: template '{}'", template.escape_debug());
    }
    fields.insert("location".to_owned(), location.clone());
    fields.insert("source".to_owned(), base.to_string());
    fields.insert("template".to_owned(), template.clone());
    Ok(Appliance { template, location, fields })
}

/// The file name of records without a location: `OS-PACKAGE_VERSION_ARCHITECTURE.tar.gz`.
fn conventional_name(fields: &IndexMap<String, String>) -> String {
    let (os, package) = (&fields["os"], &fields["package"]);
    let package = package.strip_prefix(&format!("{os}-")).unwrap_or(package);
    let architecture = fields.get("architecture").map_or("i386", String::as_str);
    format!("{os}-{package}_{}_{architecture}.tar.gz", fields["version"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "Package: debian-12-standard\nVersion: 12.7-1\nType: lxc\nOS: debian-12\nSection: system\n\
        Architecture: amd64\nInfopage: https://pve.example\nsha512sum: 00\n\
        Description: Debian 12 Bookworm (standard)\n A small Debian\n system.\n";

    fn parse_one(text: &str) -> Result<Appliance> {
        let mut all = parse(text, &Base::Url("http://host/images".into()))?;
        assert_eq!(all.len(), 1);
        Ok(all.remove(0))
    }

    #[test]
    fn a_record_without_a_location_follows_the_convention() {
        let appliance = parse_one(RECORD).unwrap();
        assert_eq!(appliance.template, "debian-12-standard_12.7-1_amd64.tar.gz");
        assert_eq!(appliance.location, "http://host/images/system/debian-12-standard_12.7-1_amd64.tar.gz");
        assert_eq!(appliance.field("headline"), "Debian 12 Bookworm (standard)");
        assert_eq!(appliance.field("description"), "A small Debian system.");
        assert_eq!((appliance.section(), appliance.field("source")), ("system", "http://host/images"));
    }

    #[test]
    fn locations_are_relative_or_urls() {
        let with = |location: &str| parse_one(&format!("Location: {location}\n{RECORD}"));
        let appliance = with("system/x_1_amd64.tar.zst").unwrap();
        assert_eq!(appliance.template, "x_1_amd64.tar.zst");
        assert_eq!(appliance.location, "http://host/images/system/x_1_amd64.tar.zst");
        assert_eq!(with("https://other/y.tar.xz").unwrap().location, "https://other/y.tar.xz");
        for bad in ["file:///etc/shadow.tar.gz", "x.exe", "https://other/", "https://other/..", "ssh://x/y.tar.gz"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn news_are_no_template_and_bad_records_are_errors() {
        let news = "Package: pve-web-news\nDescription: News\n text\n";
        let base = Base::Url("http://host".into());
        assert_eq!(parse(&format!("{news}\n\n{RECORD}\n"), &base).unwrap().len(), 1);
        assert_eq!(parse("", &base).unwrap(), []);
        for (from, to) in [("Version: 12", "Version: v12"), ("Type: lxc", "Type: rpm"), ("OS: debian-12\n", "")] {
            assert!(parse(&RECORD.replace(from, to), &base).is_err(), "{to}");
        }
        assert!(parse("no colon\n", &base).is_err());
    }
}

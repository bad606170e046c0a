//! `docs/storage.md`: the table of types and what they can do is generated from what they declare. The file is compared
//! here and rewritten with `UPDATE_GOLDEN=1`.

use super::feature::{Feature, State};
use super::kind::{KINDS, Kind};
use std::fmt::Write;
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- generated: types -->\n";
const END: &str = "<!-- end of generated -->\n";

/// Types that no test of ours has seen at work on real machines.
const UNTESTED: [&str; 7] = ["cephfs", "esxi", "iscsi", "iscsidirect", "rbd", "zfs", "zfspool"];

fn contents(kind: &Kind) -> String {
    let mut names: Vec<&str> = kind.contents().map(|content| content.name()).filter(|name| *name != "none").collect();
    names.sort_unstable();
    names.join(", ")
}

fn table() -> String {
    let mut text = String::from("| type | content | formats | shared | state |\n| --- | --- | --- | --- | --- |\n");
    for kind in &KINDS {
        let formats: Vec<&str> = kind.formats().iter().map(|format| format.name()).collect();
        let shared = if kind.always_shared { "always" } else { "as set" };
        let state = match kind.driver {
            None => "kept and shown only",
            Some(_) if UNTESTED.contains(&kind.name) => "untested on real hardware",
            Some(_) => "tested",
        };
        let (name, formats) = (kind.name, formats.join(", "));
        writeln!(text, "| `{name}` | {} | {formats} | {shared} | {state} |", contents(kind)).unwrap();
    }
    text.push_str("\n| type | of a | ");
    let features: Vec<&str> = Feature::ALL.iter().map(|feature| feature.name()).collect();
    writeln!(text, "{} |\n| --- | --- {} |", features.join(" | "), "| --- ".repeat(features.len())).unwrap();
    for kind in KINDS.iter().filter(|kind| kind.driver.is_some_and(|driver| !driver.capabilities().is_empty())) {
        for state in State::ALL {
            let what = match state {
                State::Current => "volume",
                State::Base => "template",
                State::Snapshot => "snapshot",
            };
            writeln!(text, "| `{}` | {what} | {} |", kind.name, row(kind, state).join(" | ")).unwrap();
        }
    }
    text
}

/// The formats that can do something, feature by feature.
fn row(kind: &Kind, state: State) -> Vec<String> {
    let table = kind.driver.map(|driver| driver.capabilities()).unwrap_or_default();
    let formats = |feature: Feature| {
        let rows = table.iter().filter(|row| row.feature == feature && row.state == state);
        let names: Vec<&str> = rows.flat_map(|row| row.formats).map(|format| format.name()).collect();
        if names.is_empty() { "–".to_owned() } else { names.join(", ") }
    };
    Feature::ALL.into_iter().map(formats).collect()
}

#[test]
fn the_page_about_storages_shows_what_is_declared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/storage.md");
    let page = fs::read_to_string(&path).expect("docs/storage.md");
    let start = page.find(BEGIN).expect("the mark where the table begins") + BEGIN.len();
    let end = page.find(END).expect("the mark where the table ends");
    let wanted = format!("{}{}{}", &page[..start], table(), &page[end..]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).expect("docs/storage.md is ours");
    } else {
        assert!(page == wanted, "docs/storage.md is out of date; run the tests with UPDATE_GOLDEN=1");
    }
}

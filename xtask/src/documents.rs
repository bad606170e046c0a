//! Generated parts of documents: checked in, compared here, rewritten with `cargo xtask check --fix`.

use crate::{Outcome, workspace};
use std::collections::{BTreeMap, BTreeSet};

const BEGIN: &str = "<!-- generated: methods -->";
const END: &str = "<!-- end -->";

/// Compares the table of bound methods in README.md with the truth, or rewrites it.
pub fn check(fix: bool) -> Outcome {
    let path = workspace().join("README.md");
    let text = std::fs::read_to_string(&path)?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        return Err("README.md has lost the marks of its generated table".into());
    };
    let new = format!("{}{BEGIN}\n{}{}", &text[..begin], table()?, &text[end..]);
    if new == text {
        Ok(())
    } else if fix {
        Ok(std::fs::write(path, new)?)
    } else {
        Err("README.md: the table of bound methods is out of date; run `cargo xtask check --fix`".into())
    }
}

/// One row per area: how many methods the interface has, how many are bound.
fn table() -> Outcome<String> {
    let unbound = std::fs::read_to_string(workspace().join("engine/unbound-methods.txt"))?;
    let unbound: BTreeSet<&str> = unbound.lines().collect();
    let mut areas: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (verb, template) in contract::methods() {
        let row = areas.entry(area(template)).or_default();
        row.0 += 1;
        row.1 += usize::from(!unbound.contains(format!("{verb} {template}").as_str()));
    }
    let (all, bound) = areas.values().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    let mut text =
        format!("{bound} of {all} methods are bound; the others are routed, checked and verified, and answer 501.\n\n");
    text += "| area | methods | bound |\n| --- | ---: | ---: |\n";
    for (area, (all, bound)) in areas {
        text += &format!("| `{area}` | {all} | {bound} |\n");
    }
    Ok(text)
}

/// The part of the tree that a path belongs to.
fn area(template: &str) -> &str {
    const DEEP: &[&str] = &["/nodes/{node}/qemu", "/nodes/{node}/lxc", "/nodes/{node}/storage", "/nodes/{node}/ceph"];
    if let Some(area) = DEEP.iter().find(|area| template.starts_with(**area)) {
        return area;
    }
    let end = template.match_indices('/').nth(1).map_or(template.len(), |(at, _)| at);
    &template[..end]
}

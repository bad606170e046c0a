//! `/nodes/{node}/report`: one text with what is needed to help somebody. (PVE: pve-manager PVE/Report.pm)
//!
//! Nothing secret is in it: files of keys and passwords are not read, and lines that cannot be read are only counted.

use super::version;
use crate::config::guest::GuestKind;
use crate::{Call, Context, Reply, Result, command, file, live};

/// Programs by section; one that is missing is named as such.
const COMMANDS: &[(&str, &[&[&str]])] = &[
    (
        "general system info",
        &[&["hostname"], &["date", "-R"], &["uname", "-a"], &["uptime"], &["lscpu"], &["free", "-m"]],
    ),
    ("overall storage info", &[&["df", "-h", "-T"], &["lsblk", "--ascii"], &["mount"]]),
    ("info about network", &[&["ip", "-details", "-statistics", "address"], &["ip", "-4", "route", "show"]]),
];

/// Files below the node's root.
const FILES: &[&str] = &[
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/network/interfaces",
    "/etc/pve/storage.cfg",
    "/etc/pve/user.cfg",
    "/etc/pve/datacenter.cfg",
    "/etc/pve/jobs.cfg",
];

/// `GET /nodes/{node}/report`.
pub fn get(call: &Call) -> Result<Reply> {
    Ok(Reply::from(serde_json::Value::String(text(call.ctx)?)))
}

fn text(ctx: &Context) -> Result<String> {
    let mut text = format!("==== versions ====\n\n{}\n", version::text());
    for (title, commands) in COMMANDS {
        text += &format!("\n==== {title} ====\n");
        for words in *commands {
            text += &format!("\n# {}\n{}", words.join(" "), output(words));
        }
    }
    text += "\n==== configuration ====\n";
    for name in FILES {
        text += &format!("\n# cat {name}\n{}", file::read_or_empty(&ctx.root.path(name))?);
    }
    text += "\n==== guests ====\n\n";
    for guest in live::guests(ctx)? {
        let kind = if guest.kind == GuestKind::Qemu { "VM" } else { "CT" };
        text += &format!("{kind} {} {} {}\n", guest.vmid, guest.status(), guest.name());
    }
    for problem in live::problems(ctx)? {
        text += &format!("{}\n", problem.text);
    }
    Ok(text)
}

fn output(words: &[&str]) -> String {
    match command::run(words[0], &words[1..]) {
        Ok(output) => output.stdout,
        Err(error) => format!("{}\n", error.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_version_guests_and_problems() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let path = crate::guest::path(&ctx, GuestKind::Lxc, "100".parse().unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "hostname: web\n?password?\n").unwrap();
        let text = text(&ctx).unwrap();
        for part in ["pve-manager/9.2", "CT 100 stopped web\n", "unable to parse 'lxc/100.conf', line 2"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("password?"));
    }
}

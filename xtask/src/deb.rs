//! `cargo xtask deb`: our Debian package, from `packaging/` and the programs of a profile.
//!
//! A binary package made with `dpkg-deb` alone: programs (stripped), links of the tools that share one program, systemd
//! units, completions, manual pages from the tools' own help. Which libraries it depends on is read from the programs.

use crate::{Outcome, cargo, output, packages, sh, target, workspace};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that are files of their own. The links of [`TOOLS`] come from the program itself.
const PROGRAMS: &[&str] = &["pvedaemon", "pveproxy", "spiceproxy", "qm", "pct", "pvesh", TOOLS];

/// The smaller tools in one program.
const TOOLS: &str = "ferrovisor-tools";

/// Debian 12's package of each library that our programs load. (Debian bookworm, `dpkg -S` and the symbols files)
const LIBRARIES: &[(&str, &str)] = &[
    ("libc.so.6", "libc6 (>= 2.36)"),
    ("ld-linux-x86-64.so.2", "libc6 (>= 2.36)"),
    ("libm.so.6", "libc6 (>= 2.36)"),
    ("libgcc_s.so.1", "libgcc-s1 (>= 4.2)"),
    ("libssl.so.3", "libssl3 (>= 3.0.0)"),
    ("libcrypto.so.3", "libssl3 (>= 3.0.0)"),
    ("libcrypt.so.1", "libcrypt1 (>= 1:4.3.0)"),
    ("libpam.so.0", "libpam0g (>= 0.99.7.1)"),
];

/// `cargo xtask deb [--debug] [--output FOLDER]`: builds the programs and the package, and says where it is.
pub fn main(arguments: &[&str]) -> Outcome {
    let (profile, folder) = match arguments {
        [] => ("release", None),
        ["--debug"] => ("debug", None),
        ["--output", folder] => ("release", Some(folder)),
        ["--debug", "--output", folder] => ("debug", Some(folder)),
        _ => return Err("cargo xtask deb [--debug] [--output FOLDER]".into()),
    };
    packages::ensure()?;
    let mut build = cargo();
    build.args(["build", "--workspace", "--bins", "--exclude", "xtask"]);
    if profile == "release" {
        build.arg("--release");
    }
    sh(&mut build)?;
    let folder = folder.map_or_else(|| target("debian"), PathBuf::from);
    println!("{}", package(profile, &folder)?.display());
    Ok(())
}

/// Makes the package of a profile's programs, which are built already, in a folder.
pub fn package(profile: &str, folder: &Path) -> Outcome<PathBuf> {
    let tree = folder.join(format!("tree-{profile}"));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(tree.join("DEBIAN"))?;
    let libraries = programs(&target(profile), &tree)?;
    units(&tree)?;
    completions(&tree)?;
    manual(&tree)?;
    documents(&tree)?;
    let version = env!("CARGO_PKG_VERSION");
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let file = folder.join(format!("ferrovisor_{version}_{architecture}.deb"));
    control(&tree, version, &architecture, &libraries)?;
    let mut build = Command::new("dpkg-deb");
    // A package for tests is unpacked once, by an emulated processor: it is not worth compressing.
    let compression = if profile == "release" { "-Zzstd" } else { "-Znone" };
    build.args(["--root-owner-group", compression, "--build"]).arg(&tree).arg(&file);
    output(&mut build)?;
    fs::remove_dir_all(&tree)?;
    Ok(file)
}

/// What decides whether a package would differ from an earlier one: size and age of the programs, and all of `packaging/`.
pub fn inputs(profile: &str) -> Outcome<Vec<String>> {
    let mut inputs = vec![env!("CARGO_PKG_VERSION").to_owned()];
    for name in PROGRAMS {
        let meta =
            fs::metadata(target(profile).join(name)).map_err(|error| format!("{name}: {error}; build it first"))?;
        inputs.push(format!("{name} {} {:?}", meta.len(), meta.modified()?));
    }
    let mut files = Vec::new();
    for folder in ["debian", "systemd"] {
        for file in fs::read_dir(workspace().join("packaging").join(folder))? {
            files.push(file?.path());
        }
    }
    files.sort();
    for file in files {
        inputs.push(fs::read_to_string(file)?);
    }
    Ok(inputs)
}

/// Installs the programs and gives back the packages of the libraries that they load.
fn programs(from: &Path, tree: &Path) -> Outcome<BTreeSet<&'static str>> {
    let folder = tree.join("usr/bin");
    fs::create_dir_all(&folder)?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = folder.join(name);
        sh(Command::new("strip").arg("-o").arg(&program).arg(from.join(name)))?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        for library in needed(&program)? {
            let known = LIBRARIES.iter().find(|(own, _)| *own == library);
            libraries.insert(known.ok_or_else(|| format!("{name} loads {library}: which package has it?"))?.1);
        }
    }
    for link in output(Command::new(folder.join(TOOLS)).arg("--list"))?.lines() {
        symlink(TOOLS, folder.join(link))?;
    }
    Ok(libraries)
}

/// The libraries that a program names.
fn needed(program: &Path) -> Outcome<Vec<String>> {
    let dynamic = output(Command::new("readelf").env("LC_ALL", "C").arg("-d").arg(program))?;
    let name = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    Ok(dynamic.lines().filter(|line| line.contains("(NEEDED)")).filter_map(name).collect())
}

fn units(tree: &Path) -> Outcome {
    let folder = tree.join("lib/systemd/system");
    fs::create_dir_all(&folder)?;
    for unit in fs::read_dir(workspace().join("packaging/systemd"))? {
        let unit = unit?;
        install(&unit.path(), &folder.join(unit.file_name()), 0o644)?;
    }
    Ok(())
}

/// Where each shell looks, by the ending or the beginning of the script's name.
fn completions(tree: &Path) -> Outcome {
    let scripts = tree.join("scripts");
    fs::create_dir_all(&scripts)?;
    sh(Command::new(tree.join("usr/bin").join(TOOLS)).arg("--completions").arg(&scripts))?;
    for script in fs::read_dir(&scripts)? {
        let script = script?;
        let name = script.file_name().to_string_lossy().into_owned();
        let place = match (name.strip_suffix(".bash"), name.ends_with(".fish")) {
            (Some(tool), _) => format!("usr/share/bash-completion/completions/{tool}"),
            (None, true) => format!("usr/share/fish/vendor_completions.d/{name}"),
            (None, false) => format!("usr/share/zsh/vendor-completions/{name}"),
        };
        install(&script.path(), &tree.join(place), 0o644)?;
    }
    fs::remove_dir_all(&scripts)?;
    Ok(())
}

/// One page for each tool: what it says of itself when asked for everything.
fn manual(tree: &Path) -> Outcome {
    let programs = tree.join("usr/bin");
    let folder = tree.join("usr/share/man/man1");
    fs::create_dir_all(&folder)?;
    let root = tree.join("root");
    for program in fs::read_dir(&programs)? {
        let name = program?.file_name().to_string_lossy().into_owned();
        if name == TOOLS {
            continue;
        }
        let mut ask = Command::new(programs.join(&name));
        ask.env("PVE_ROOT", &root).env("LC_ALL", "C").args(["help", "--verbose", "1"]);
        let said = ask.output()?;
        let usage = String::from_utf8_lossy(if said.stdout.is_empty() { &said.stderr } else { &said.stdout });
        if usage.starts_with("USAGE") || usage.starts_with("usage") {
            let page = folder.join(format!("{name}.1"));
            fs::write(&page, page_text(&name, &usage))?;
            sh(Command::new("gzip").args(["-9", "-n"]).arg(&page))?;
        }
    }
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    Ok(())
}

/// A manual page around preformatted text.
fn page_text(name: &str, usage: &str) -> String {
    let mut page = format!(
        ".TH \"{}\" 1 \"\" \"Ferrovisor {}\" \"Ferrovisor\"\n.SH NAME\n{name} \\- command of a Ferrovisor node\n\
         .SH SYNOPSIS\n.nf\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    );
    for line in usage.lines() {
        // A leading dot or apostrophe would be a request; a backslash starts an escape.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        let _ = writeln!(page, "{guard}{}", line.replace('\\', "\\e").replace('-', "\\-"));
    }
    page + ".fi\n"
}

fn documents(tree: &Path) -> Outcome {
    let folder = tree.join("usr/share/doc/ferrovisor");
    for name in ["README.md", "CHANGELOG.md"] {
        install(&workspace().join(name), &folder.join(name), 0o644)?;
    }
    install(&workspace().join("LICENSE"), &folder.join("copyright"), 0o644)
}

fn control(tree: &Path, version: &str, architecture: &str, libraries: &BTreeSet<&str>) -> Outcome {
    let folder = workspace().join("packaging/debian");
    for script in ["postinst", "prerm", "postrm"] {
        install(&folder.join(script), &tree.join("DEBIAN").join(script), 0o755)?;
    }
    let size = output(Command::new("du").args(["-sk", "--apparent-size"]).arg(tree))?;
    let size = size.split_whitespace().next().ok_or("du prints a number")?;
    let libraries: Vec<&str> = libraries.iter().copied().collect();
    let text = fs::read_to_string(folder.join("control"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@SIZE@", size)
        .replace("@LIBRARIES@", &libraries.join(", "));
    fs::write(tree.join("DEBIAN/control"), text)?;
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Outcome {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    fs::set_permissions(to, Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_of_a_tool_is_no_roff_request() {
        let page = super::page_text("qm", "USAGE: qm list\n.so /etc/passwd\n'x a\\b --full\n");
        assert!(page.ends_with("USAGE: qm list\n\\&.so /etc/passwd\n\\&'x a\\eb \\-\\-full\n.fi\n"), "{page}");
    }
}

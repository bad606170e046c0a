//! Local commands of `pct`, the tool for containers. (pve-container PVE/CLI/pct.pm)

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use engine::lxc::transfer::Attributes;
use engine::lxc::{exec, inspect, transfer, trim};
use engine::{Error, Result, Vmid};
use std::path::PathBuf;
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    command("pct", "console", console),
    command("pct", "cpusets", cpusets),
    command("pct", "df", df),
    command("pct", "enter", enter),
    command("pct", "exec", execute),
    command("pct", "fsck", fsck),
    command("pct", "fstrim", fstrim),
    command("pct", "mount", mount),
    command("pct", "pull", pull),
    command("pct", "push", push),
    command("pct", "rescan", rescan),
    command("pct", "unlock", unlock),
    command("pct", "unmount", unmount),
];

fn vmid(invocation: &Invocation) -> Result<Vmid> {
    invocation.param("vmid")
}

fn keeps_environment(invocation: &Invocation) -> Result<bool> {
    Ok(invocation.opt::<bool>("keep-env")?.unwrap_or(true))
}

/// The exit code of a program; what no exit code can hold is an error.
fn code_of(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}

fn execute(invocation: &Invocation) -> Result<ExitCode> {
    let words: Vec<String> = invocation.opt("extra-args")?.unwrap_or_default();
    if words.is_empty() {
        return Err(Error::new("missing command"));
    }
    exec::run(&invocation.ctx, vmid(invocation)?, &words, keeps_environment(invocation)?).map(code_of)
}

fn enter(invocation: &Invocation) -> Result<ExitCode> {
    exec::run(&invocation.ctx, vmid(invocation)?, &[], keeps_environment(invocation)?).map(code_of)
}

fn console(invocation: &Invocation) -> Result<ExitCode> {
    let escape: String = invocation.opt("escape")?.unwrap_or_else(|| "^a".into());
    exec::console(&invocation.ctx, vmid(invocation)?, &escape).map(|()| ExitCode::SUCCESS)
}

fn attributes(invocation: &Invocation) -> Result<Attributes> {
    Ok(Attributes { mode: invocation.opt("perms")?, user: invocation.opt("user")?, group: invocation.opt("group")? })
}

fn push(invocation: &Invocation) -> Result<ExitCode> {
    let (source, destination): (String, String) = (invocation.param("file")?, invocation.param("destination")?);
    let attributes = attributes(invocation)?;
    transfer::push(&invocation.ctx, vmid(invocation)?, &PathBuf::from(source), &destination, &attributes)?;
    Ok(ExitCode::SUCCESS)
}

fn pull(invocation: &Invocation) -> Result<ExitCode> {
    let (source, destination): (String, String) = (invocation.param("path")?, invocation.param("destination")?);
    let attributes = attributes(invocation)?;
    transfer::pull(&invocation.ctx, vmid(invocation)?, &source, &PathBuf::from(destination), &attributes)?;
    Ok(ExitCode::SUCCESS)
}

fn unlock(invocation: &Invocation) -> Result<ExitCode> {
    inspect::unlock(&invocation.ctx, vmid(invocation)?).map(|()| ExitCode::SUCCESS)
}

fn mount(invocation: &Invocation) -> Result<ExitCode> {
    let vmid = vmid(invocation)?;
    let place = inspect::mount_on_host(&invocation.ctx, vmid)?;
    output::write(&format!("mounted CT {vmid} in '{}'\n", place.display()));
    Ok(ExitCode::SUCCESS)
}

fn unmount(invocation: &Invocation) -> Result<ExitCode> {
    inspect::unmount(&invocation.ctx, vmid(invocation)?).map(|()| ExitCode::SUCCESS)
}

fn fsck(invocation: &Invocation) -> Result<ExitCode> {
    let key: String = invocation.opt("device")?.unwrap_or_else(|| "rootfs".into());
    let print = |line: &str| output::write(&format!("{line}\n"));
    inspect::check_file_system(&invocation.ctx, vmid(invocation)?, &key, invocation.flag("force"), print)?;
    Ok(ExitCode::SUCCESS)
}

fn print_line(line: &str) {
    output::write(&format!("{line}\n"));
}

fn fstrim(invocation: &Invocation) -> Result<ExitCode> {
    let only_root = invocation.flag("ignore-mountpoints");
    trim::trim(&invocation.ctx, vmid(invocation)?, only_root, print_line)?;
    Ok(ExitCode::SUCCESS)
}

fn rescan(invocation: &Invocation) -> Result<ExitCode> {
    let dry_run = invocation.flag("dryrun");
    if dry_run {
        print_line("NOTE: running in dry-run mode, won't write changes out!");
    }
    print_line("rescan volumes...");
    inspect::rescan(&invocation.ctx, invocation.opt("vmid")?, dry_run, print_line)?;
    Ok(ExitCode::SUCCESS)
}

fn df(invocation: &Invocation) -> Result<ExitCode> {
    let mut rows = vec![["MP", "Volume", "Size", "Used", "Avail", "Use%", "Path"].map(str::to_owned)];
    for mount in inspect::fillings(&invocation.ctx, vmid(invocation)?)? {
        let percent = format!("{:.1}", 100.0 * mount.used as f64 / mount.total.max(1) as f64);
        let [total, used, available] = [mount.total, mount.used, mount.available].map(short_size);
        rows.push([mount.key, mount.volume, total, used, available, percent, mount.target]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for [key, volume, total, used, available, percent, target] in &rows {
        text += &format!("{key:<0$} {volume:<1$} {total:>2$} ", widths[0], widths[1], widths[2]);
        text += &format!("{used:>0$} {available:>1$} {percent:>2$} {target}\n", widths[3], widths[4], widths[5]);
    }
    output::write(&text);
    Ok(ExitCode::SUCCESS)
}

/// `1.5G`; bytes stand without a letter.
fn short_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["", "K", "M", "G"] {
        if size < 1024.0 {
            return if unit.is_empty() { bytes.to_string() } else { format!("{size:.1}{unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1}T")
}

fn cpusets(invocation: &Invocation) -> Result<ExitCode> {
    let sets = inspect::cpu_sets(&invocation.ctx)?;
    output::write(&cpuset_table(&sets));
    Ok(ExitCode::SUCCESS)
}

fn cpuset_table(sets: &[(Vmid, Vec<u32>)]) -> String {
    if sets.is_empty() {
        return "no running containers\n".into();
    }
    let line = |cpus: &Vec<u32>| {
        let cell = |cpu| if cpus.contains(&cpu) { format!(" {cpu}") } else { " ".repeat(cpu.to_string().len() + 1) };
        format!(": {}", (0..=cpus.last().copied().unwrap_or(0)).map(cell).collect::<String>())
    };
    let lines: Vec<(String, String)> = sets.iter().map(|(vmid, cpus)| (vmid.to_string(), line(cpus))).collect();
    let ids = lines.iter().map(|(id, _)| id.len()).max().unwrap_or(0);
    let longest = lines.iter().map(|(_, line)| line.len()).max().unwrap_or(0);
    let rule = format!("{}\n", "-".repeat(ids + longest));
    let body: String = lines.iter().map(|(id, line)| format!("{id:>ids$}{line}\n")).collect();
    format!("{rule}{body}{rule}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_processors_print_as_tables_do() {
        assert_eq!(["512", "1.5K", "2.0G"].map(str::to_owned), [512, 1536, 2 << 30].map(short_size));
        let vmid = "100".parse().unwrap();
        assert_eq!(cpuset_table(&[(vmid, vec![0, 2])]), "-----------\n100:  0   2\n-----------\n");
        assert_eq!(cpuset_table(&[]), "no running containers\n");
    }
}

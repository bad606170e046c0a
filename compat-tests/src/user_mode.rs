//! Tests in a kernel of their own: Linux as an ordinary process (Debian's `user-mode-linux`), which has VLANs, bonds and the
//! rest whatever the kernel of this machine has, starts within seconds, and cannot hurt the machine's network.
//!
//! Its root is this machine's, read only; what a test writes is in memory and gone afterwards.

use crate::skip;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
/// What tests use; each kernel module that is not built in.
const WANTED: &str = "8021q bridge bonding dummy veth vxlan";
/// Says inside that it is inside.
const MARK: &str = "COMPAT_USER_MODE";

/// Runs the rest of the calling test in a kernel of its own. The test is the thread's name, as the test harness sets it.
/// Where there is no such kernel it is skipped with the reason.
pub fn within(test: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    if !Path::new(KERNEL).exists() {
        return skip(test, "the package user-mode-linux is not installed");
    }
    let name = std::thread::current().name().expect("the harness names a test's thread").to_owned();
    let place = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(place.path().join("init"), script(place.path(), &name)).expect("own directory");
    let output = run(place.path());
    let (report, end) = output.rsplit_once("test ended with ").unwrap_or((&output, "nothing"));
    print!("{report}");
    assert_eq!(end.split_whitespace().next(), Some("0"), "the test inside failed");
}

/// What the kernel's first process does: makes room to write, loads modules, runs the test and switches the machine off.
fn script(place: &Path, test: &str) -> String {
    let place = place.display();
    let program = std::env::current_exe().expect("the test's own program");
    let settings = std::env::vars_os().filter(|(key, _)| {
        ["COMPAT_", "FERROVISOR_", "PATH", "CARGO_"].iter().any(|start| key.to_string_lossy().starts_with(start))
    });
    let settings: Vec<String> = settings.map(|(key, value)| format!("export {}\n", assignment(&key, &value))).collect();
    format!(
        "mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t tmpfs tmp /run\nmount -t tmpfs tmp {place}\n\
         mkdir -p {place}/lib/modules {place}/tmp\nln -s {MODULES}/$(uname -r) {place}/lib/modules/\n\
         for module in {WANTED}; do modprobe -q -d {place} $module; done\nip link set lo up\n\
         {}export TMPDIR={place}/tmp {MARK}=1\ncd {}\n'{}' --exact '{test}' --nocapture --test-threads 1 2>&1\n\
         echo \"test ended with $?\"\necho o > /proc/sysrq-trigger\nsleep 60\n",
        settings.concat(),
        std::env::current_dir().expect("a directory").display(),
        program.display(),
    )
}

fn assignment(key: &OsString, value: &OsString) -> String {
    format!("{}='{}'", key.to_string_lossy(), value.to_string_lossy().replace('\'', r"'\''"))
}

/// Boots and waits for the end; gives back what was printed.
fn run(place: &Path) -> String {
    let mut command = Command::new(KERNEL);
    command.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "mem=512M", "quiet", "init=/bin/sh"]);
    command.args(["con=null", "con0=null,fd:1", "--"]).arg(place.join("init")).current_dir(place);
    let output = command.stdin(Stdio::null()).output().expect("the kernel starts");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

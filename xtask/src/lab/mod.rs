//! `cargo xtask lab`: Debian 12 machines of our own, emulated, with what the host's kernel may not have: bonds, 802.1q,
//! device mapper, control groups v2, AppArmor, file servers.
//!
//! Three layers are kept and made when they are missing: the disk (`image`), a machine that has booted from it, and one in
//! which our package is installed. Both machines are kept with their memory, so a new one goes on from there within
//! seconds, and writes to a disk of its own. `FERROVISOR_LAB_CACHE` names the folder of the layers (else `target/lab`).

mod image;
mod machine;
mod qmp;
mod ssh;

use crate::{Outcome, deb, packages, target, workspace};
use image::Image;
use machine::{Machine, Origin};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

const USAGE: &str = "\
cargo xtask lab COMMAND                  NAME is a machine's name, `node` where it is left out
FERROVISOR_LAB_CACHE=FOLDER              where kept layers are, else target/lab; may be shared between checkouts
FERROVISOR_LAB_PROFILE=PROFILE           whose programs go into our package, else debug; they are built already

  build [--plain]                        make the kept layers; --plain: without our package
  start [NAME] [--plain] [--hostname H]  start a machine from them; prints its ports on loopback
  stop [NAME | --all]                    end machines; what they wrote is gone
  list                                   machines that run
  run [--on NAME] -- COMMAND…            run a command inside, as root
  shell [NAME]                           a terminal inside
  put NAME FILE PATH, get NAME PATH FILE copy a file in or out
  reboot [NAME]                          boot it again from inside and wait
  connect NAME/CARD NAME/CARD            a cable between two cards, en01 to en04
  unplug NAME/CARD, plug NAME/CARD       pull a cable (both ends see it) or put it back
  about NAME                             ports, sockets, key as JSON
";

/// How many layers with our package are kept.
const KEPT: usize = 3;

/// Runs a command of the lab.
pub fn main(arguments: &[&str]) -> Outcome {
    let lab = Lab::here()?;
    match arguments {
        ["build"] => lab.ready().map(drop),
        ["build", "--plain"] => lab.booted().map(drop),
        ["start", rest @ ..] => lab.start(rest),
        ["stop", "--all"] => lab.machines()?.iter().try_for_each(|name| lab.machine(name)?.stop()),
        ["stop", name] => lab.machine(name)?.stop(),
        ["stop"] => lab.machine(image::HOSTNAME)?.stop(),
        ["list"] => lab.machines()?.iter().try_for_each(|name| {
            println!("{name} {}", lab.machine(name)?.about()?);
            Ok(())
        }),
        ["run", "--on", name, "--", command @ ..] => lab.run(name, command),
        ["run", "--", command @ ..] => lab.run(image::HOSTNAME, command),
        ["shell"] => lab.shell(image::HOSTNAME),
        ["shell", name] => lab.shell(name),
        ["put", name, file, path] => lab.machine(name)?.ssh()?.put(Path::new(file), path),
        ["get", name, path, file] => lab.machine(name)?.ssh()?.get(path, Path::new(file)),
        ["reboot"] => lab.machine(image::HOSTNAME)?.reboot(),
        ["reboot", name] => lab.machine(name)?.reboot(),
        ["connect", one, other] => lab.connect(one, other),
        ["plug", end] => lab.set_link(end, true),
        ["unplug", end] => lab.set_link(end, false),
        ["about", name] => {
            println!("{}", lab.machine(name)?.about()?);
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Makes what all machines start from, if it is not kept. Our package is installed by the first machine that needs it.
///
/// # Errors
/// Why there can be no machines here.
pub fn prepare() -> Outcome {
    if !packages::is_root() {
        return Err("a disk with Debian is made by root only".into());
    }
    Lab::here()?.booted().map(drop)
}

/// Where the layers are, and where machines run.
pub struct Lab {
    cache: PathBuf,
    runs: PathBuf,
}

impl Lab {
    /// The lab of this checkout.
    pub fn here() -> Outcome<Self> {
        let cache = match std::env::var_os("FERROVISOR_LAB_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => target("lab"),
        };
        fs::create_dir_all(&cache)?;
        // Sockets have short paths.
        let mut hasher = DefaultHasher::new();
        workspace().canonicalize()?.hash(&mut hasher);
        let runs = std::env::temp_dir().join(format!("ferrovisor-lab-{:08x}", hasher.finish() as u32));
        fs::create_dir_all(&runs)?;
        Ok(Lab { cache: cache.canonicalize()?, runs })
    }

    fn machine(&self, name: &str) -> Outcome<Machine> {
        Machine::new(&self.runs, name)
    }

    fn machines(&self) -> Outcome<Vec<String>> {
        let names = fs::read_dir(&self.runs)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| self.machine(name).is_ok_and(|m| m.is_running())).collect();
        names.sort();
        Ok(names)
    }

    fn start(&self, words: &[&str]) -> Outcome {
        let hostname = words.iter().position(|word| *word == "--hostname").and_then(|at| words.get(at + 1));
        let name = words.first().filter(|word| !word.starts_with("--")).unwrap_or(&image::HOSTNAME);
        let machine = self.machine(name)?;
        let image = Image::of(&self.cache);
        let layer = if words.contains(&"--plain") { self.booted()? } else { self.ready()? };
        machine.start(&origin(&image, &layer))?;
        if let Some(hostname) = hostname {
            machine.rename(hostname)?;
        }
        println!("{name} {}", machine.about()?);
        Ok(())
    }

    fn run(&self, name: &str, command: &[&str]) -> Outcome {
        let status = self.machine(name)?.ssh()?.inside(command).status()?;
        std::process::exit(status.code().unwrap_or(255))
    }

    fn shell(&self, name: &str) -> Outcome {
        let mut ssh = self.machine(name)?.ssh()?.inside(&["bash", "-l"]);
        let words: Vec<_> = ssh.get_args().map(ToOwned::to_owned).collect();
        ssh = std::process::Command::new("ssh");
        ssh.arg("-t").args(words);
        crate::sh(&mut ssh)
    }

    fn connect(&self, one: &str, other: &str) -> Outcome {
        let ((one, one_card), (other, other_card)) = (self.end(one)?, self.end(other)?);
        one.plug(one_card, &other.card(other_card)?)?;
        other.plug(other_card, &one.card(one_card)?)
    }

    /// Both ends of a cable see that it is pulled.
    fn set_link(&self, end: &str, up: bool) -> Outcome {
        let (machine, card) = self.end(end)?;
        machine.set_link(card, up)?;
        let Ok(far) = fs::read_link(machine.card(card)?.with_extension("far")) else { return Ok(()) };
        let name = |path: Option<&Path>| Some(path?.file_name()?.to_str()?.to_owned());
        match (name(far.parent()), name(Some(&far))) {
            (Some(machine), Some(card)) if far.starts_with(&self.runs) => self.machine(&machine)?.set_link(&card, up),
            _ => Ok(()),
        }
    }

    fn end<'a>(&self, text: &'a str) -> Outcome<(Machine, &'a str)> {
        let (machine, card) = text.split_once('/').ok_or_else(|| format!("'{text}' is not NAME/CARD"))?;
        Ok((self.machine(machine)?, card))
    }

    /// The layer of a machine that has booted; made if it is missing.
    fn booted(&self) -> Outcome<PathBuf> {
        packages::ensure_lab()?;
        let image = Image::of(&self.cache);
        let folder = self.cache.join(format!("booted-{:016x}", self.machine_key()?));
        let lock = File::create(folder.with_extension("lock"))?;
        lock.lock()?;
        if folder.exists() {
            return Ok(folder);
        }
        let start = Instant::now();
        image.build()?;
        println!("lab: built after {} s, booting", start.elapsed().as_secs());
        let machine = self.machine(&format!("making-{}", std::process::id()))?;
        machine.start(&Origin { image: &image, disk: image.disk(), memory: None, parcel: None })?;
        machine.wait_for_system()?;
        machine.freeze(&folder)?;
        println!("lab: booted after {} s", start.elapsed().as_secs());
        Ok(folder)
    }

    /// The layer of a machine with our package, from the programs as they are built now; made if it is missing.
    fn ready(&self) -> Outcome<PathBuf> {
        let booted = self.booted()?;
        let profile = std::env::var("FERROVISOR_LAB_PROFILE").unwrap_or_else(|_| "debug".into());
        let mut hasher = DefaultHasher::new();
        booted.hash(&mut hasher);
        deb::inputs(&profile)?.hash(&mut hasher);
        let folder = self.cache.join(format!("ready-{:016x}", hasher.finish()));
        let lock = File::create(folder.with_extension("lock"))?;
        lock.lock()?;
        if folder.exists() {
            // The order of use decides which go first.
            File::open(folder.join("memory"))?.set_modified(SystemTime::now())?;
            return Ok(folder);
        }
        let start = Instant::now();
        let package = deb::package(&profile, &target("debian"))?;
        let machine = self.machine(&format!("making-{}", std::process::id()))?;
        let image = Image::of(&self.cache);
        machine.start(&Origin { parcel: Some(package.clone()), ..origin(&image, &booted) })?;
        let installed = install(&machine, &package);
        if installed.is_err() {
            machine.stop()?;
        }
        installed?;
        machine.freeze(&folder)?;
        println!("lab: package installed after {} s", start.elapsed().as_secs());
        self.forget_old()?;
        Ok(folder)
    }

    /// What a kept machine depends on besides the image.
    fn machine_key(&self) -> Outcome<u64> {
        let mut hasher = DefaultHasher::new();
        let image = Image::of(&self.cache);
        let machine = Machine::new(Path::new("/"), "key")?;
        machine.shape(&image).hash(&mut hasher);
        crate::output(std::process::Command::new("qemu-system-x86_64").arg("--version"))?.hash(&mut hasher);
        Ok(hasher.finish())
    }

    /// Removes layers with our package that have not been used for longest, unless a machine runs on them.
    fn forget_old(&self) -> Outcome {
        let mut layers = Vec::new();
        for entry in fs::read_dir(&self.cache)? {
            let path = entry?.path();
            let is_ready = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ready-"));
            if let (true, Ok(meta)) = (is_ready, fs::metadata(path.join("memory"))) {
                layers.push((meta.modified()?, path));
            }
        }
        layers.sort();
        layers.reverse();
        for (used, path) in layers.into_iter().skip(KEPT) {
            if used.elapsed().is_ok_and(|age| age.as_secs() > 3600) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

fn origin<'a>(image: &'a Image, layer: &Path) -> Origin<'a> {
    Origin { image, disk: layer.join("disk.qcow2"), memory: Some(layer.join("memory")), parcel: None }
}

/// Installs the package as an administrator would who has what it depends on.
fn install(machine: &Machine, package: &Path) -> Outcome {
    let ssh = machine.ssh()?;
    let size = fs::metadata(package)?.len();
    ssh.script(&format!("head -c {size} /dev/disk/by-id/virtio-lab3 > /root/ferrovisor.deb"))?;
    ssh.script("dpkg -i /root/ferrovisor.deb >/root/install.log 2>&1 || { cat /root/install.log >&2; exit 1; }")?;
    ssh.script("systemctl is-active pvedaemon pveproxy pve-guests").map(drop)
}

//! The border to `/sys`: what is read and written there, so that tests can stand in for a machine.

use crate::{Error, Result, command};
use std::fs;
use std::io::Write;
use std::path::Path;

/// Reads and writes below `/sys`. Paths are absolute.
pub trait Sysfs {
    /// The first line of a file.
    fn line(&self, path: &str) -> Option<String>;
    /// Writes to a file. `Ok(false)`: the kernel says that this is so already.
    fn write(&self, path: &str, text: &str) -> Result<bool>;
    /// Whether a directory is there.
    fn is_directory(&self, path: &str) -> bool;
    /// Names in a directory.
    fn names(&self, path: &str) -> Vec<String>;
    /// The last part of a link's target.
    fn link_name(&self, path: &str) -> Option<String>;
    /// Loads a module of the kernel.
    fn load_module(&self, name: &str);
}

/// The machine's own.
pub struct RealSysfs;

impl Sysfs for RealSysfs {
    fn line(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(path).ok()?.lines().next().unwrap_or_default().to_owned())
    }

    fn write(&self, path: &str, text: &str) -> Result<bool> {
        let written =
            fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::from(error).context(format!("error writing '{text}' to '{path}'"))),
        }
    }

    fn is_directory(&self, path: &str) -> bool {
        Path::new(path).is_dir()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn link_name(&self, path: &str) -> Option<String> {
        Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
    }

    fn load_module(&self, name: &str) {
        // Whoever needs the module looks for it afterwards and says what is missing.
        let _ = command::run("modprobe", &[name]);
    }
}

#[cfg(test)]
pub mod fake {
    //! A machine of the test's making, which notes what is written.

    use super::*;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    /// Files by path, links, and what has been written.
    #[derive(Default)]
    pub struct FakeSysfs {
        /// First lines.
        pub files: RefCell<BTreeMap<String, String>>,
        /// Directories beyond those that files lie in.
        pub directories: RefCell<BTreeSet<String>>,
        /// Targets of links.
        pub links: BTreeMap<String, String>,
        /// `PATH <- TEXT`.
        pub written: RefCell<Vec<String>>,
    }

    impl FakeSysfs {
        /// A machine with these files.
        pub fn with(files: &[(&str, &str)]) -> Self {
            let fake = FakeSysfs::default();
            for (path, text) in files {
                fake.files.borrow_mut().insert((*path).to_owned(), (*text).to_owned());
            }
            fake
        }
    }

    impl Sysfs for FakeSysfs {
        fn line(&self, path: &str) -> Option<String> {
            self.files.borrow().get(path).cloned()
        }

        fn write(&self, path: &str, text: &str) -> Result<bool> {
            self.written.borrow_mut().push(format!("{path} <- {text}"));
            // Binding makes the device appear below its driver.
            if let Some(driver) = path.strip_suffix("/bind") {
                self.directories.borrow_mut().insert(format!("{driver}/{text}"));
            }
            if path.ends_with("_hugepages") || path.ends_with("current_vgpu_type") {
                self.files.borrow_mut().insert(path.to_owned(), text.to_owned());
            }
            Ok(true)
        }

        fn is_directory(&self, path: &str) -> bool {
            let inside = format!("{path}/");
            let has = |known: &String| known == path || known.starts_with(&inside);
            self.directories.borrow().iter().any(has) || self.files.borrow().keys().any(has)
        }

        fn names(&self, path: &str) -> Vec<String> {
            let inside = format!("{path}/");
            let files = self.files.borrow();
            let directories = self.directories.borrow();
            let all = files.keys().chain(directories.iter());
            let names: BTreeSet<String> =
                all.filter_map(|known| Some(known.strip_prefix(&inside)?.split('/').next()?.to_owned())).collect();
            names.into_iter().collect()
        }

        fn link_name(&self, path: &str) -> Option<String> {
            self.links.get(path).cloned()
        }

        fn load_module(&self, name: &str) {
            self.written.borrow_mut().push(format!("module {name}"));
        }
    }
}

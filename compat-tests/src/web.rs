//! Web servers on loopback: for the files of a directory, and one with the pages of an ESXi server.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server in Python; it ends when it is dropped.
pub struct FileServer {
    child: Child,
    port: u16,
}

impl FileServer {
    /// Python's own: serves a directory on a free port.
    pub fn start(directory: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0", "--directory"]).arg(directory);
        // Serving HTTP on 127.0.0.1 port 40123 (http://127.0.0.1:40123/) ...
        FileServer::spawn(&mut command)
    }

    /// Shows `DATACENTRE/DATASTORE/DIRECTORY/FILE` below a directory as ESXi does, over https, to `root` with a password.
    pub fn esxi(pages: &Path, certificate: &Path, password: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("esxi.py")]).arg(pages).arg(certificate).arg(password);
        FileServer::spawn(&mut command)
    }

    /// Starts a server whose first line has its port behind the word `port`.
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("python3 starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a first line");
        let mut words = line.split_whitespace().skip_while(|word| *word != "port");
        let port = words.nth(1).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {line:?}"));
        FileServer { child, port }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

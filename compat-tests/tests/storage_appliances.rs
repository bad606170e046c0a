//! Container templates that others offer: signed indexes, downloads from them, images of registries.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{FileServer, Node, guest, wait_for};
use serde_json::json;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs a program of the machine that must succeed.
#[track_caller]
fn run(program: &str, arguments: &[&str], home: &Path) {
    let output = Command::new(program).args(arguments).env("GNUPGHOME", home).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory with a template, an index of it and the index's signature.
struct Offer<'a> {
    node: &'a Node,
}

impl Offer<'_> {
    fn new(node: &Node) -> Offer<'_> {
        let offer = Offer { node };
        fs::create_dir_all(node.path("web/system")).unwrap();
        fs::create_dir_all(node.path("gnupg")).unwrap();
        guest::busybox_template(&node.path("web/system/tiny_1-1_amd64.tar.gz"));
        let key = ["--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", "offer@example"];
        offer.gpg(&key);
        offer.gpg(&["--batch", "--export", "--output", text(&node.path("keys.gpg")), "offer@example"]);
        offer.publish("tiny");
        offer
    }

    fn gpg(&self, arguments: &[&str]) {
        run("gpg", arguments, &self.node.path("gnupg"));
    }

    fn index(&self, headline: &str) -> String {
        let sum = Command::new("sha512sum").arg(self.node.path("web/system/tiny_1-1_amd64.tar.gz")).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let sum = sum.split_whitespace().next().unwrap();
        format!(
            "Package: tiny\nVersion: 1-1\nType: lxc\nOS: busybox\nSection: system\nArchitecture: amd64\n\
             Infopage: https://example\nLocation: system/tiny_1-1_amd64.tar.gz\nsha512sum: {sum}\n\
             Description: {headline}\n Small.\n"
        )
    }

    /// Writes index, packed index and signature.
    fn publish(&self, headline: &str) {
        let index = self.node.path("web/aplinfo.dat");
        fs::write(&index, self.index(headline)).unwrap();
        self.gpg(&[
            "--batch",
            "--yes",
            "--armor",
            "--detach-sign",
            "--output",
            &format!("{}.asc", text(&index)),
            text(&index),
        ]);
        run("gzip", &["--keep", "--force", text(&index)], Path::new("/"));
    }
}

#[test]
fn a_signed_index_offers_templates() {
    let node = Node::start();
    let offer = Offer::new(&node);
    let web = FileServer::start(&node.path("web"));
    let configure = |text: String| fs::write(node.path("etc/pve/aplinfo.cfg"), text).unwrap();
    let signed = format!("index: test\n\turl {}\n\tkeyring {}\n", web.url("aplinfo.dat"), text(&node.path("keys.gpg")));
    configure(signed.clone());
    assert_eq!(node.run("pveam", &["available"]).ok(), "");
    assert_eq!(node.run("pveam", &["update"]).ok(), "update successful\n");
    let line = format!("{:<15} {:<60} {}\n", "system", "tiny_1-1_amd64.tar.gz", "amd64");
    assert_eq!(node.run("pveam", &["available", "--section", "system"]).ok(), line);
    let admin = node.admin();
    let list = admin.get("/nodes/pve1/aplinfo").data();
    assert_eq!((&list[0]["headline"], &list[0]["description"]), (&json!("tiny"), &json!("Small.")), "{list}");

    // Nothing that its key has not signed gets in, and what was there stays.
    fs::write(node.path("web/aplinfo.dat"), offer.index("evil")).unwrap();
    run("gzip", &["--keep", "--force", text(&node.path("web/aplinfo.dat"))], Path::new("/"));
    let ran = node.run("pveam", &["update"]);
    assert!(ran.stderr.starts_with("update failed - see /var/log/pveam.log for details\n"), "{ran:?}");
    assert!(ran.stderr.contains("unable to verify signature"), "{ran:?}");
    assert_eq!(admin.get("/nodes/pve1/aplinfo").data()[0]["headline"], "tiny");
    configure(signed.replace("keys.gpg", "other.gpg"));
    assert!(node.run("pveam", &["update"]).stderr.contains("no keyring"));
    offer.publish("newer");
    configure(signed);
    node.run("pveam", &["update"]).ok();
    assert_eq!(admin.get("/nodes/pve1/aplinfo").data()[0]["headline"], "newer");

    // Both ways to fetch one, and what happens to one that is not what the index says.
    let template = "tiny_1-1_amd64.tar.gz";
    let form = [("storage", "local"), ("template", template)];
    let upid = admin.post("/nodes/pve1/aplinfo", &form).data();
    node.finish(&admin, &upid);
    let place = node.path("var/lib/vz/template/cache").join(template);
    assert_eq!(fs::read(&place).unwrap(), fs::read(node.path("web/system").join(template)).unwrap());
    let listed = node.run("pveam", &["list", "local"]).ok();
    assert!(listed.contains("local:vztmpl/tiny_1-1_amd64.tar.gz"), "{listed}");
    node.run("pveam", &["remove", "local:vztmpl/tiny_1-1_amd64.tar.gz"]).ok();
    assert!(!place.exists());
    fs::write(node.path("web/system").join(template), "something else").unwrap();
    let ran = node.run("pveam", &["download", "local", template]);
    assert!(ran.code != 0 && format!("{ran:?}").contains("checksum mismatch"), "{ran:?}");
    assert!(fs::read_dir(place.parent().unwrap()).unwrap().next().is_none(), "nothing is left");
    let unknown = admin.post("/nodes/pve1/aplinfo", &[("storage", "local"), ("template", "gone.tar.gz")]);
    assert_eq!((unknown.status, &unknown.json()["errors"]), (400, &json!({"template": "no such template"})));
}

#[test]
fn an_index_on_this_node_needs_no_network() {
    let node = Node::without_daemons();
    let _offer = Offer::new(&node);
    fs::create_dir_all(node.path("etc/pve")).unwrap();
    let index = node.path("web/aplinfo.dat");
    fs::write(node.path("etc/pve/aplinfo.cfg"), format!("index: disk\n\turl {}\n\tunsigned 1\n", text(&index)))
        .unwrap();
    node.run("pveam", &["update"]).ok();
    assert_eq!(node.run("pveam", &["download", "local", "tiny_1-1_amd64.tar.gz"]).code, 0);
    assert!(node.path("var/lib/vz/template/cache/tiny_1-1_amd64.tar.gz").exists());
}

/// A registry on loopback; it ends when it is dropped.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = directory.join("registry.yml");
        let storage = directory.join("registry");
        let text = json!({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": storage}},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        fs::write(&settings, text.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for("the registry", 30, || TcpStream::connect(("127.0.0.1", port)).ok());
        Registry { child, port }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An image with one layer, as `docker save` writes it.
fn image(directory: &Path) -> String {
    fs::create_dir_all(directory).unwrap();
    let layer = directory.join("layer.tar");
    let template = directory.join("layer.tar.gz");
    guest::busybox_template(&template);
    let packed = fs::File::open(template).unwrap();
    let plain = Command::new("gzip").arg("-dc").stdin(packed).output().unwrap();
    fs::write(&layer, &plain.stdout).unwrap();
    let sum = Command::new("sha256sum").arg(&layer).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let diff = format!("sha256:{}", sum.split_whitespace().next().unwrap());
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["busybox:1"], "Layers": ["layer.tar"]}]);
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = directory.join("image.tar");
    let names = ["manifest.json", "config.json", "layer.tar"];
    let mut tar = Command::new("tar");
    assert!(tar.arg("-C").arg(directory).arg("-cf").arg(&archive).args(names).status().unwrap().success());
    format!("docker-archive:{}", text(&archive))
}

#[test]
fn images_of_a_registry_become_templates() {
    let mut node = Node::without_daemons();
    let etc = node.own_etc();
    let registry = Registry::start(node.root());
    let repository = format!("127.0.0.1:{}/team/busybox", registry.port);
    // Without a certificate: the machine's own list says that this registry has none.
    let insecure = format!("[[registry]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n", registry.port);
    fs::create_dir_all(etc.join("containers/registries.conf.d")).unwrap();
    fs::write(etc.join("containers/registries.conf.d/test.conf"), insecure).unwrap();
    let image = image(&node.path("image"));
    for tag in ["1", "2"] {
        let to = format!("docker://{repository}:{tag}");
        run("skopeo", &["copy", "--dest-tls-verify=false", &image, &to], Path::new("/"));
    }
    let pvesh = |verb: &str, path: &str, more: &[&str]| {
        let mut arguments = vec![verb, path, "--output-format", "json"];
        arguments.extend(more);
        node.run("pvesh", &arguments)
    };
    let tags = pvesh("get", "/nodes/pve1/query-oci-repo-tags", &["--reference", &repository]).ok();
    let mut tags: Vec<String> = serde_json::from_str(&tags).unwrap();
    tags.sort();
    assert_eq!(tags, ["1", "2"]);
    let pull = "/nodes/pve1/storage/local/oci-registry-pull";
    let ran = pvesh("create", pull, &["--reference", &format!("{repository}:1")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let place = node.path("var/lib/vz/template/cache/busybox_1.tar");
    let listed = Command::new("tar").arg("-tf").arg(&place).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|line| line.ends_with("index.json")), "{listed}");
    let again = pvesh("create", pull, &["--reference", &format!("{repository}:1")]);
    assert!(again.stderr.contains("refusing to override existing file 'busybox_1.tar'"), "{again:?}");
    let missing = pvesh("create", pull, &["--reference", &format!("{repository}:9"), "--filename", "other"]);
    assert_ne!(missing.code, 0);
    let names = fs::read_dir(place.parent().unwrap()).unwrap().count();
    assert_eq!(names, 1, "nothing else is left");
}

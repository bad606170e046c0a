//! SPICE displays as a viewer sees them: the configuration that the node gives, the proxy, and a picture through TLS by a
//! client that people use.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, skip, wait_for};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

const VM: &str = "/nodes/pve1/qemu/7180";

/// The node's SPICE proxy on a free port.
struct Proxy(Child, u16);

impl Proxy {
    fn start(node: &Node) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = node.program("spiceproxy");
        command.args(["start", "--debug", "1", "--listen", "127.0.0.1", "--port", &port.to_string()]);
        let proxy = Proxy(command.stdin(Stdio::null()).spawn().unwrap(), port);
        wait_for("the SPICE proxy", 20, || TcpStream::connect(("127.0.0.1", port)).ok());
        proxy
    }

    /// What it answers to a request, up to the end of its head.
    fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.1)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap().lines().next().unwrap_or_default().to_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A viewer in Python: it says what it gets to see.
const VIEWER: &str = r#"
import sys, gi
gi.require_version('SpiceClientGLib', '2.0')
from gi.repository import GLib, GObject, SpiceClientGLib as Spice
host, port, authority, subject, proxy = sys.argv[1:]
loop = GLib.MainLoop()
def say(text):
    print(text, flush=True)
    loop.quit()
def event(channel, event):
    if event == Spice.ChannelEvent.ERROR_AUTH:
        say('refused')
    elif event not in (Spice.ChannelEvent.OPENED, Spice.ChannelEvent.SWITCHING):
        say('failed: %s' % event)
def added(session, channel):
    GObject.GObject.connect(channel, 'channel-event', event)
    if isinstance(channel, Spice.DisplayChannel):
        GObject.GObject.connect(channel, 'display-primary-create', lambda c, f, w, h, *rest: say('picture %dx%d' % (w, h)))
        channel.connect()
session = Spice.Session()
for key, value in dict(host=host, tls_port=port, ca_file=authority, cert_subject=subject, proxy=proxy,
                       password=sys.stdin.readline().strip(), verify=Spice.SessionVerify.SUBJECT).items():
    session.set_property(key.replace('_', '-'), value)
GObject.GObject.connect(session, 'channel-new', added)
GLib.timeout_add_seconds(50, lambda: say('timeout'))
session.connect()
loop.run()
"#;

/// What a viewer sees that has a configuration.
fn seen(node: &Node, proxy: &Proxy, settings: &Value, password: &str) -> String {
    let text = |key: &str| settings[key].as_str().unwrap_or_else(|| panic!("{key}: {settings}")).to_owned();
    let authority = node.path("viewer-ca.pem");
    std::fs::write(&authority, text("ca").replace("\\n", "\n")).unwrap();
    let mut viewer = Command::new("/usr/bin/python3");
    viewer.args(["-c", VIEWER, &text("host"), &settings["tls-port"].to_string()]).arg(&authority);
    viewer.args([text("host-subject"), format!("http://127.0.0.1:{}", proxy.1)]);
    let mut child = viewer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_viewer_sees_the_screen_through_the_proxy() {
    let typelib = "import gi; gi.require_version('SpiceClientGLib', '2.0')";
    if !Command::new("/usr/bin/python3").args(["-c", typelib]).status().is_ok_and(|status| status.success()) {
        return skip("SPICE", "no SPICE client (Debian packages python3-gi and gir1.2-spiceclientglib-2.0)");
    }
    let node = Node::start();
    let client = node.admin();
    let options = ["create", "7180", "--memory", "64", "--kvm", "0", "--name", "screen", "--vga", "qxl"];
    node.run("qm", &options).ok();
    node.run("qm", &["set", "7180", "--audio0", "device=intel-hda", "--usb0", "spice"]).ok();
    node.run("qm", &["set", "7180", "--spice_enhancements", "foldersharing=1,videostreaming=all"]).ok();
    let other = ["create", "7181", "--memory", "64", "--kvm", "0", "--vga", "virtio"];
    node.run("qm", &other).ok();
    for vmid in ["7180", "7181"] {
        node.finish(&client, &client.post(&format!("/nodes/pve1/qemu/{vmid}/status/start"), &[]).data());
    }
    let proxy = Proxy::start(&node);
    assert_eq!(client.get(&format!("{VM}/status/current")).data()["spice"], 1);
    let ask = |vm: &str| client.post(&format!("/nodes/pve1/qemu/{vm}/spiceproxy"), &[("proxy", "127.0.0.1")]).data();
    let settings = ask("7180");
    assert_eq!((&settings["type"], &settings["title"]), (&"spice".into(), &"VM 7180 - screen".into()));
    assert_eq!(settings["proxy"], "http://127.0.0.1:3128");
    assert_ne!(settings["tls-port"], ask("7181")["tls-port"]);
    let file = client.send("POST", &format!("/api2/spiceconfig{VM}/spiceproxy"), &[], b"");
    assert_eq!(file.header("content-type"), Some("application/x-virt-viewer;charset=UTF-8"), "{:?}", file.text());
    assert!(file.text().starts_with("[virt-viewer]\n") && file.text().contains("\ndelete-this-file=1\n"));

    let settings = ask("7180");
    let picture = seen(&node, &proxy, &settings, settings["password"].as_str().unwrap());
    assert!(picture.starts_with("picture "), "{picture}");
    assert_eq!(seen(&node, &proxy, &ask("7180"), "another"), "refused");

    let asked = format!("{}:{}", settings["host"].as_str().unwrap(), settings["tls-port"]);
    let forged = asked.replace(":7180:", ":7181:");
    let connect = |target: &str| proxy.ask(&format!("CONNECT {target} HTTP/1.0\r\nHost: {target}\r\n\r\n"));
    assert_eq!(connect(&asked), "HTTP/1.0 200 OK");
    assert_eq!(connect(&forged), "HTTP/1.0 401 invalid ticket");
    assert_eq!(connect("127.0.0.1:22"), "HTTP/1.0 401 invalid ticket");
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 501 method 'GET' not available");
    let log = std::fs::read_to_string(node.path("var/log/pveproxy/access.log")).unwrap();
    assert!(log.contains("\"CONNECT pvespiceproxy:") && !log.contains(settings["password"].as_str().unwrap()), "{log}");

    for vmid in ["7180", "7181"] {
        node.run("qm", &["stop", vmid]).ok();
    }
    let refused = client.post(&format!("{VM}/spiceproxy"), &[]);
    assert_eq!((refused.status, refused.reason.as_str()), (500, "VM 7180 not running"));
}

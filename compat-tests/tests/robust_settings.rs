//! TLS as clients find it, and `/etc/default/pveproxy`.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::{Dialer, read_to_end};
use compat_tests::{Node, wait_for};
use openssl::ssl::SslVersion;
use std::fs;

/// Restarts pveproxy with other settings.
fn settings(node: &mut Node, text: &str) {
    node.kill_proxy();
    fs::create_dir_all(node.path("etc/default")).unwrap();
    fs::write(node.path("etc/default/pveproxy"), text).unwrap();
    node.start_proxy();
}

/// The protocol versions among 1.1, 1.2 and 1.3 with which a handshake succeeds.
fn versions(node: &Node) -> Vec<&'static str> {
    let all = [("1.1", SslVersion::TLS1_1), ("1.2", SslVersion::TLS1_2), ("1.3", SslVersion::TLS1_3)];
    let spoken = all.into_iter().filter(|(_, version)| Dialer::between(node.port(), *version, *version).open().is_ok());
    spoken.map(|(name, _)| name).collect()
}

#[test]
fn protocol_versions_and_admission() {
    let mut node = Node::start();
    assert_eq!(versions(&node), ["1.2", "1.3"]);
    settings(&mut node, "DISABLE_TLS_1_2=1\n");
    assert_eq!(versions(&node), ["1.3"]);
    settings(&mut node, "DISABLE_TLS_1_3=\"1\"\nCIPHERS=ECDHE-RSA-AES256-GCM-SHA384\n");
    assert_eq!(versions(&node), ["1.2"]);
    let wire = Dialer::between(node.port(), SslVersion::TLS1_2, SslVersion::TLS1_2).open().unwrap();
    assert_eq!(wire.get_ref().ssl().current_cipher().unwrap().name(), "ECDHE-RSA-AES256-GCM-SHA384");

    for (text, admitted) in [
        ("DENY_FROM=127.0.0.0/8\n", false),
        ("ALLOW_FROM=10.0.0.0/8\n", false),
        ("ALLOW_FROM=127.0.0.1\nDENY_FROM=all\n", false),
        ("ALLOW_FROM=127.0.0.1\nDENY_FROM=all\nPOLICY=allow\n", true),
        ("DENY_FROM=10.0.0.0/8\nPOLICY=allow\n", true),
    ] {
        settings(&mut node, text);
        assert_eq!(Dialer::new(node.port()).open().is_ok(), admitted, "{text}");
        if !admitted {
            // Disconnected without a word.
            assert!(read_to_end(&mut Dialer::new(node.port()).tcp().unwrap()).unwrap().is_empty(), "{text}");
        }
    }
}

#[test]
fn the_certificate_names_the_node_and_is_replaced_at_once() {
    let node = Node::start();
    let shown = || {
        let wire = Dialer::new(node.port()).open().unwrap();
        wire.get_ref().ssl().peer_certificate().unwrap()
    };
    let own = shown();
    let names = own.subject_alt_names().expect("Go clients want alternative names");
    assert!(names.iter().any(|name| name.dnsname() == Some(node.name())), "{names:?}");
    assert!(names.iter().any(|name| name.dnsname() == Some("localhost")), "{names:?}");
    assert!(names.iter().any(|name| name.ipaddress() == Some(&[127, 0, 0, 1])), "{names:?}");

    // Another node's certificate serves as one that an administrator brings.
    let other = Node::start();
    for (from, to) in [("key", "pveproxy-ssl.key"), ("pem", "pveproxy-ssl.pem")] {
        let source = other.path(&format!("etc/pve/nodes/pve1/pve-ssl.{from}"));
        let target = node.path(&format!("etc/pve/nodes/pve1/{to}"));
        // Ownership as of the node's own key, which the front server can read.
        let like = fs::metadata(node.path("etc/pve/nodes/pve1/pve-ssl.key")).unwrap();
        let new = target.with_extension("new");
        fs::write(&new, fs::read(source).unwrap()).unwrap();
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&new, Some(like.uid()), Some(like.gid())).unwrap();
        fs::set_permissions(&new, like.permissions()).unwrap();
        fs::rename(new, target).unwrap();
    }
    let digest = |certificate: &openssl::x509::X509| certificate.to_der().unwrap();
    wait_for("the new certificate", 20, || (digest(&shown()) != digest(&own)).then_some(()));
}

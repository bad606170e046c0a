//! The OpenAPI document that the node serves is valid and complete.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, python, skip};

#[test]
fn served_document_is_valid() {
    let node = Node::start();
    let reply = node.client().send("GET", "/api2/openapi.json", &[], b"");
    assert_eq!(reply.status, 200, "{}", reply.reason);
    let file = node.path("openapi.json");
    std::fs::write(&file, &reply.body).unwrap();
    match python::run("validate_openapi.py", file.to_str().unwrap()) {
        Err(reason) => skip("served_document_is_valid", &reason),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
            assert!(text.starts_with("681 operations"), "{text}");
        }
    }
}

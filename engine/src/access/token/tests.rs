//! A token's secret opens its own door and no other.

use super::*;
use crate::Clock;

fn node(directory: &std::path::Path, config: &str) -> Context {
    let ctx = Context { clock: Clock::Fixed(1000), ..Context::for_test(directory) };
    keys::ensure_directories(&ctx).unwrap();
    std::fs::write(ctx.root.etc_pve("user.cfg"), config).unwrap();
    ctx
}

#[test]
fn the_secret_decides_and_every_failure_looks_alike() {
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(
        directory.path(),
        "user:joe@pve:1:0\ntoken:joe@pve!good:0:1\ntoken:joe@pve!late:999:1\ntoken:joe@pve!bare:0:1\n\
         user:off@pve:0:0\ntoken:off@pve!t1:0:1\nuser:old@pve:1:999\ntoken:old@pve!t1:0:1\n",
    );
    let make = |id: &str| generate(&ctx, &id.parse().unwrap()).unwrap();
    let secret = make("joe@pve!good");
    assert_eq!(secret.len(), 36);
    assert!(secret.chars().all(|c| c == '-' || c.is_ascii_digit() || c.is_ascii_lowercase()));
    assert_eq!(verify(&ctx, &format!("joe@pve!good={secret}")).unwrap(), "joe@pve!good");
    assert_eq!(verify(&ctx, &format!("joe@pve!good {secret}")).unwrap(), "joe@pve!good");
    let other = make("joe@pve!late");
    let texts = [
        String::new(),
        secret.clone(),
        format!("joe@pve!good={other}"),
        "joe@pve!good=".into(),
        format!("joe@pve!good={secret}x"),
        format!("joe@pve!good={}", secret.to_uppercase()),
        format!("joe@pve={secret}"),
        format!("joe@pve!late={other}"),
        "joe@pve!bare=".into(),
        format!("joe@pve!none={}", make("joe@pve!none")),
        format!("off@pve!t1={}", make("off@pve!t1")),
        format!("old@pve!t1={}", make("old@pve!t1")),
    ];
    for text in texts {
        let error = verify(&ctx, &text).unwrap_err();
        assert_eq!((error.status(), error.message()), (401, "Authentication failed!"), "{text}");
    }
}

#[test]
fn secrets_are_replaced_and_forgotten_in_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let ctx = node(directory.path(), "user:joe@pve:1:0\ntoken:joe@pve!t1:0:1\ntoken:joe@pve!t2:0:1\n");
    std::fs::write(path(&ctx), "zoe@pve!x1 old-one\nnot a line\n\n").unwrap();
    let id: TokenId = "joe@pve!t1".parse().unwrap();
    let first = generate(&ctx, &id).unwrap();
    let second = generate(&ctx, &id).unwrap();
    assert!(verify(&ctx, &format!("{id}={first}")).is_err());
    assert!(verify(&ctx, &format!("{id}={second}")).is_ok());
    let text = std::fs::read_to_string(path(&ctx)).unwrap();
    assert_eq!(text, format!("joe@pve!t1 {second}\nzoe@pve!x1 old-one\n"));
    forget(&ctx, |token| token.user.as_str() == "joe@pve").unwrap();
    assert!(verify(&ctx, &format!("{id}={second}")).is_err());
    assert_eq!(std::fs::read_to_string(path(&ctx)).unwrap(), "zoe@pve!x1 old-one\n");
    std::fs::remove_file(path(&ctx)).unwrap();
    generate(&ctx, &id).unwrap();
    assert_eq!(std::fs::metadata(path(&ctx)).unwrap().permissions().mode() & 0o777, 0o600);
}

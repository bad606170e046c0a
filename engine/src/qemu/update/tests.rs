//! What an update refuses, and with which words.

use super::*;
use crate::{Caller, Params};
use serde_json::{Value, json};

/// A node with VM 100, and a user who may do with it all that its options need, but nothing with storages.
fn node(root: &std::path::Path, config: &str) -> Context {
    let ctx = Context::for_test(root);
    let directory = guest::directory(&ctx, GuestKind::Qemu);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("100.conf"), config).unwrap();
    let rights = "VM.Config.CPU,VM.Config.Disk,VM.Config.Options";
    let users = format!("user:joe@pve:1:0:\nrole:Some:{rights}:\nacl:1:/vms/100:joe@pve:Some:\n");
    std::fs::write(ctx.root.etc_pve("user.cfg"), users).unwrap();
    ctx
}

fn refusal(ctx: &Context, params: Value) -> String {
    let Value::Object(params) = params else { panic!("parameters are an object") };
    let method = contract::method(Verb::Put, "/nodes/{node}/qemu/{vmid}/config").unwrap();
    let call = Call { ctx, method, params: Params::verified(params) };
    match Update::read(&call, "100".parse().unwrap()) {
        Ok(_) => "allowed".into(),
        Err(Error::Parameters(errors)) => {
            errors.iter().map(|(key, text)| format!("{key}: {text}")).collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.message().to_owned(),
    }
}

#[test]
fn data_is_removed_by_those_only_who_may_make_it() {
    let root = tempfile::tempdir().unwrap();
    let ctx = node(root.path(), "scsi0: local:100/vm-100-disk-0.raw\nscsi1: /dev/null\n");
    let joe = ctx.with_caller(Caller::verified("joe@pve"));
    assert_eq!(refusal(&joe, json!({"delete": "scsi0"})), "allowed");
    let denied = "Permission check failed (/storage/local, Datastore.AllocateSpace)";
    assert_eq!(refusal(&joe, json!({"delete": "scsi0", "force": true})), denied);
    assert_eq!(refusal(&joe, json!({"delete": "scsi1", "force": true})), "allowed");
    assert_eq!(refusal(&ctx, json!({"delete": "scsi0", "force": true})), "allowed");
}

#[test]
fn rights_are_asked_before_anything_is_told_of_the_vm() {
    let root = tempfile::tempdir().unwrap();
    let ctx = node(root.path(), "lock: backup\nmemory: 512\nmeta: ctime=1\n");
    let joe = ctx.with_caller(Caller::verified("joe@pve"));
    assert_eq!(refusal(&joe, json!({"memory": "1024"})), "Permission check failed (/vms/100, VM.Config.Memory)");
    assert_eq!(refusal(&joe, json!({"delete": "meta"})), "only root can set 'meta' config");
    assert_eq!(refusal(&joe, json!({"cores": 2})), "VM is locked (backup)");
    assert_eq!(refusal(&ctx, json!({"delete": "meta", "skiplock": true})), "allowed");
    assert_eq!(refusal(&joe, json!({"cores": 2, "skiplock": true})), "skiplock: Only root may use this option.");
}

#[test]
fn wishes_that_contradict_each_other_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let ctx = node(root.path(), "cores: 1\nmemory: 512\n");
    for (params, text) in [
        (json!({}), "no options specified"),
        (json!({"delete": "cores", "cores": 2}), "delete: you can't use '-cores' and -delete cores' at the same time"),
        (json!({"revert": "cores", "cores": 2}), "delete: you can't use '-cores' and -revert cores' at the same time"),
        (json!({"delete": "a0", "revert": "cores"}), "delete: unknown option 'a0'"),
        (
            json!({"delete": "cores", "revert": "cores"}),
            "revert: you can't use '-delete cores' and -revert cores' at the same time",
        ),
        (json!({"delete": "digest"}), "delete: unknown option 'digest'"),
        (json!({"cores": 2, "digest": "0"}), "checksum mismatch (file change by other user?)"),
        (json!({"balloon": 513}), "balloon value too large (must be smaller than assigned memory)"),
        (json!({"delete": "parent", "digest": ""}), "allowed"),
    ] {
        assert_eq!(refusal(&ctx, params.clone()), text, "{params}");
    }
}

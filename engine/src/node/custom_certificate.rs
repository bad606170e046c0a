//! `/nodes/{node}/certificates`: what the node's certificates say, and an administrator's own one.
//! (PVE: pve-manager PVE/API2/Certificates.pm, PVE/CertHelpers.pm; pve-common PVE/Certificate.pm)

use crate::{Call, Context, Error, Reply, Result, bail, file};
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509NameRef, X509Ref};
use serde_json::{Map, Value, json};
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// Readable for the front server, whose group owns the directory.
const MODE: u32 = 0o640;

fn custom(ctx: &Context, extension: &str) -> PathBuf {
    ctx.root.etc_pve(&format!("nodes/{}/pveproxy-ssl.{extension}", ctx.node))
}

/// `GET /nodes/{node}/certificates/info`: those that exist and can be read.
pub fn info(call: &Call) -> Result<Reply> {
    let ctx = call.ctx;
    let own = ctx.root.etc_pve(&format!("nodes/{}/pve-ssl.pem", ctx.node));
    let paths = [ctx.root.etc_pve("pve-root-ca.pem"), own, custom(ctx, "pem")];
    let rows = paths.iter().filter_map(|path| {
        let certificate = X509::from_pem(&std::fs::read(path).ok()?).ok()?;
        describe(&certificate, path.file_name()?.to_str()?).ok()
    });
    Ok(Reply::from(rows.collect::<Value>()))
}

/// `POST /nodes/{node}/certificates/custom`. The front server notices the new certificate by itself, so there is nothing
/// to restart.
pub fn upload(call: &Call) -> Result<Reply> {
    let certificates = without_leading_text(&call.param::<String>("certificates")?);
    let key = call.text("key").filter(|key| !key.is_empty()).map(|key| without_leading_text(&key));
    let (certificate_path, key_path) = (custom(call.ctx, "pem"), custom(call.ctx, "key"));
    if key.is_none() && !key_path.exists() {
        let text = "Attempted to upload custom certificate without (existing) key.";
        return Err(Error::parameter("key", text));
    }
    crate::access::keys::ensure_directories(call.ctx)?;
    let _lock = file::lock_file(call.ctx, &certificate_path)?;
    if !call.flag("force") {
        if certificate_path.exists() {
            bail!("Custom certificate file exists but force flag is not set.");
        }
        if key_path.exists() {
            bail!("Custom certificate key file exists but force flag is not set.");
        }
    }
    let used_key = key.clone().map_or_else(|| file::read_or_empty(&key_path), Ok)?;
    let certificate = fitting(&certificates, &used_key)
        .map_err(|text| Error::new(format!("Setting certificate files failed - {text}")))?;
    let former = file::read_or_empty(&certificate_path)?;
    file::replace(&certificate_path, certificates.as_bytes(), MODE)?;
    if let Some(key) = &key
        && let Err(error) = file::replace(&key_path, key.as_bytes(), MODE)
    {
        // A certificate without its key would leave the front server without either.
        let restored = match former.as_str() {
            "" => std::fs::remove_file(&certificate_path).map_err(Error::from),
            former => file::replace(&certificate_path, former.as_bytes(), MODE),
        };
        return Err(error.with_cleanup_failures(&Vec::from_iter(restored.err())));
    }
    let described = describe(&certificate, "pveproxy-ssl.pem").map_err(|error| Error::new(error.to_string()))?;
    Ok(Reply::from(described))
}

/// `DELETE /nodes/{node}/certificates/custom`.
pub fn remove(call: &Call) -> Result<Reply> {
    let _lock = file::lock_file(call.ctx, &custom(call.ctx, "pem"))?;
    for extension in ["pem", "key"] {
        file::remove_if_there(&custom(call.ctx, extension))?;
    }
    Ok(Reply::null())
}

/// The text from its first block on.
fn without_leading_text(text: &str) -> String {
    let text = text.find("-----BEGIN ").map_or(text, |begin| &text[begin..]);
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// The first certificate of a chain, if it belongs to the key.
fn fitting(certificates: &str, key: &str) -> Result<X509, &'static str> {
    let chain = X509::stack_from_pem(certificates.as_bytes()).unwrap_or_default();
    let first = chain.into_iter().next().ok_or("could not load certificate (chain)")?;
    let key = PKey::private_key_from_pem(key.as_bytes()).map_err(|_| "could not load the key")?;
    let fits = first.public_key().is_ok_and(|public| public.public_eq(&key));
    if fits { Ok(first) } else { Err("key does not match the certificate (chain)") }
}

/// What clients learn of a certificate.
fn describe(certificate: &X509Ref, file: &str) -> Result<Value, openssl::error::ErrorStack> {
    let digest = certificate.digest(MessageDigest::sha256())?;
    let fingerprint: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut row = Map::new();
    let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
    set("filename", json!(file));
    set("fingerprint", json!(fingerprint.join(":")));
    set("subject", json!(one_line(certificate.subject_name())));
    set("issuer", json!(one_line(certificate.issuer_name())));
    set("notbefore", json!(epoch(certificate.not_before())?));
    set("notafter", json!(epoch(certificate.not_after())?));
    set("san", json!(names(certificate)));
    set("pem", json!(String::from_utf8_lossy(&certificate.to_pem()?)));
    let key = certificate.public_key()?;
    set("public-key-type", json!(Nid::from_raw(key.id().as_raw()).short_name()?));
    set("public-key-bits", json!(key.bits()));
    Ok(Value::Object(row))
}

/// `/OU=…/CN=…`, as OpenSSL writes a name in one line.
fn one_line(name: &X509NameRef) -> String {
    let mut line = String::new();
    for entry in name.entries() {
        line += &format!("/{}=", entry.object().nid().short_name().unwrap_or("UNDEF"));
        for byte in entry.data().as_slice() {
            match byte {
                b' '..=b'~' => line.push(char::from(*byte)),
                byte => line += &format!("\\x{byte:02X}"),
            }
        }
    }
    line
}

fn epoch(time: &Asn1TimeRef) -> Result<i64, openssl::error::ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}

/// DNS names and addresses; IPv6 without abbreviation.
fn names(certificate: &X509Ref) -> Vec<String> {
    let name = |name: &openssl::x509::GeneralNameRef| match (name.dnsname(), name.ipaddress()) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some([a, b, c, d])) => Some(format!("{a}.{b}.{c}.{d}")),
        (None, Some(bytes)) => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(address.segments().map(|group| format!("{group:04x}")).join(":"))
        }
        (None, None) => None,
    };
    certificate.subject_alt_names().iter().flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use contract::Verb;

    fn ask(ctx: &Context, verb: Verb, path: &str, params: Value) -> Result<Value> {
        let Value::Object(mut params) = params else { panic!("parameters are an object") };
        params.insert("node".into(), json!("pve1"));
        registry::run(ctx, verb, &format!("/nodes/{{node}}/certificates/{path}"), params).map(|reply| reply.data)
    }

    #[test]
    fn an_own_certificate_is_checked_shown_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        crate::node::certificate::ensure(&ctx).unwrap();
        let read = |name: &str| std::fs::read_to_string(ctx.root.etc_pve(name)).unwrap();
        let (pem, key) = (read("nodes/pve1/pve-ssl.pem"), read("nodes/pve1/pve-ssl.key"));
        let rows = ask(&ctx, Verb::Get, "info", json!({})).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2);
        assert_eq!((&rows[0]["public-key-type"], &rows[0]["public-key-bits"]), (&json!("id-ecPublicKey"), &json!(384)));
        assert_eq!((&rows[1]["public-key-type"], &rows[1]["public-key-bits"]), (&json!("rsaEncryption"), &json!(2048)));
        assert_eq!((&rows[1]["filename"], &rows[1]["pem"]), (&json!("pve-ssl.pem"), &json!(pem)));
        let subject = rows[1]["subject"].as_str().unwrap();
        assert!(subject.starts_with("/OU=PVE Cluster Node/O=Proxmox Virtual Environment/CN=pve1"), "{subject}");
        assert!(rows[1]["notafter"].as_i64() > rows[1]["notbefore"].as_i64());
        let names: Vec<&str> = rows[1]["san"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(
            names.contains(&"127.0.0.1") && names.contains(&"0000:0000:0000:0000:0000:0000:0000:0001"),
            "{names:?}"
        );

        let refused = |params: Value| ask(&ctx, Verb::Post, "custom", params).unwrap_err();
        assert!(refused(json!({"certificates": pem})).to_string().contains("without (existing) key"));
        let authority = json!({"certificates": read("pve-root-ca.pem"), "key": key});
        let text = "Setting certificate files failed - key does not match the certificate (chain)";
        assert_eq!(refused(authority).message(), text);
        let own = json!({"certificates": format!("note\n{pem}"), "key": key});
        let answer = ask(&ctx, Verb::Post, "custom", own.clone()).unwrap();
        assert_eq!(answer["filename"], "pveproxy-ssl.pem");
        assert_eq!(read("nodes/pve1/pveproxy-ssl.pem"), pem);
        assert_eq!(refused(own).message(), "Custom certificate file exists but force flag is not set.");
        ask(&ctx, Verb::Post, "custom", json!({"certificates": pem, "force": true})).unwrap();
        assert_eq!(ask(&ctx, Verb::Get, "info", json!({})).unwrap().as_array().unwrap().len(), 3);
        for _ in 0..2 {
            assert_eq!(ask(&ctx, Verb::Delete, "custom", json!({})).unwrap(), Value::Null);
        }
        assert!(!ctx.root.etc_pve("nodes/pve1/pveproxy-ssl.key").exists());
    }
}

//! The node's TLS certificate and the authority that signs it.
//!
//! Owns `/etc/pve/pve-root-ca.pem`, `/etc/pve/priv/pve-root-ca.key`, `/etc/pve/priv/pve-root-ca.srl` and
//! `/etc/pve/nodes/NODE/pve-ssl.{pem,key}`. An administrator's own certificate (`pveproxy-ssl.pem`) is not touched.
//! (PVE: pve-cluster PVE/Cluster/Setup.pm, gen_pve_root_ca and gen_pve_ssl_cert)

use crate::{Context, Error, Result, file, host};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How long the authority lives, in days.
const AUTHORITY_DAYS: u32 = 3650;
/// How long a node's certificate lives, in days; some clients refuse more than about two years.
const NODE_DAYS: u32 = 730;
/// A node's certificate is renewed when it ends within so many days.
const RENEW_DAYS: u32 = 14;
/// Readable for the front server, whose group owns the directories.
const SHARED: u32 = 0o640;
const SECRET: u32 = 0o600;

/// Makes what is missing and renews what ends soon. Nothing else is changed.
///
/// # Errors
/// When a file cannot be read or written, or an existing authority cannot sign.
pub fn ensure(ctx: &Context) -> Result<()> {
    let certificate_path = ctx.root.etc_pve(&format!("nodes/{}/pve-ssl.pem", ctx.node));
    let key_path = ctx.root.etc_pve(&format!("nodes/{}/pve-ssl.key", ctx.node));
    if key_path.exists() && is_good(&file::read_or_empty(&certificate_path)?) {
        return Ok(());
    }
    crate::access::keys::ensure_directories(ctx)?;
    let _lock = file::lock_file(ctx, &ctx.root.etc_pve("pve-root-ca.pem"))?;
    let (authority, authority_key) = authority(ctx)?;
    let key = match file::read_or_empty(&key_path)? {
        text if text.is_empty() => Rsa::generate(2048).and_then(PKey::from_rsa).map_err(failed)?,
        text => PKey::private_key_from_pem(text.as_bytes()).map_err(failed)?,
    };
    let names = Names::of(ctx);
    let certificate = node_certificate(&names, &key, &authority, &authority_key, next_serial(ctx)?).map_err(failed)?;
    file::replace(&key_path, &key.private_key_to_pem_pkcs8().map_err(failed)?, SHARED)?;
    file::replace(&certificate_path, &certificate.to_pem().map_err(failed)?, SHARED)
}

/// Whether a certificate can be read and holds for some time yet.
fn is_good(pem: &str) -> bool {
    let soon = Asn1Time::days_from_now(RENEW_DAYS);
    match (X509::from_pem(pem.as_bytes()), soon) {
        (Ok(certificate), Ok(soon)) => certificate.not_after() > soon,
        _ => false,
    }
}

fn failed(error: openssl::error::ErrorStack) -> Error {
    Error::new(format!("certificate: {error}"))
}

/// The authority; a new one only where neither its certificate nor its key exists.
fn authority(ctx: &Context) -> Result<(X509, PKey<Private>)> {
    let certificate_path = ctx.root.etc_pve("pve-root-ca.pem");
    let key_path = ctx.root.etc_pve("priv/pve-root-ca.key");
    let (certificate, key) = (file::read_or_empty(&certificate_path)?, file::read_or_empty(&key_path)?);
    if !certificate.is_empty() || !key.is_empty() {
        let certificate = X509::from_pem(certificate.as_bytes()).map_err(failed)?;
        return Ok((certificate, PKey::private_key_from_pem(key.as_bytes()).map_err(failed)?));
    }
    // The node's key is RSA, because a cipher list may allow nothing else; nobody chooses ciphers for an authority.
    let group = EcGroup::from_curve_name(Nid::SECP384R1).map_err(failed)?;
    let key = EcKey::generate(&group).and_then(PKey::from_ec_key).map_err(failed)?;
    let certificate = authority_certificate(&key).map_err(failed)?;
    file::replace(&key_path, &key.private_key_to_pem_pkcs8().map_err(failed)?, SECRET)?;
    file::replace(&certificate_path, &certificate.to_pem().map_err(failed)?, SHARED)?;
    Ok((certificate, key))
}

/// Serial numbers count up, so that no browser sees two certificates with one number.
fn next_serial(ctx: &Context) -> Result<BigNum> {
    let path = ctx.root.etc_pve("priv/pve-root-ca.srl");
    let last = BigNum::from_hex_str(file::read_or_empty(&path)?.trim()).or_else(|_| BigNum::new());
    let mut serial = last.map_err(failed)?;
    serial.add_word(1).map_err(failed)?;
    file::replace(&path, format!("{}\n", serial.to_hex_str().map_err(failed)?.to_lowercase()).as_bytes(), SECRET)?;
    Ok(serial)
}

type Built<T> = std::result::Result<T, openssl::error::ErrorStack>;

fn builder(days: u32) -> Built<X509Builder> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    // A clock that is a little behind must not make a fresh certificate invalid.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let begin = Asn1Time::from_unix(now.saturating_sub(3600).cast_signed())?;
    let end = Asn1Time::days_from_now(days)?;
    builder.set_not_before(&begin)?;
    builder.set_not_after(&end)?;
    Ok(builder)
}

fn authority_certificate(key: &PKey<Private>) -> Built<X509> {
    let mut builder = builder(AUTHORITY_DAYS)?;
    let mut random = BigNum::new()?;
    random.rand(127, openssl::bn::MsbOption::MAYBE_ZERO, false)?;
    let unique = random.to_hex_str()?.to_lowercase();
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "Proxmox Virtual Environment")?;
    name.append_entry_by_text("OU", &unique)?;
    name.append_entry_by_text("O", "PVE Cluster Manager CA")?;
    let name = name.build();
    let serial = random.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(key)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(identifier)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

/// For whom a node's certificate speaks.
struct Names {
    common: String,
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    fn of(ctx: &Context) -> Self {
        let mut dns = BTreeSet::from(["localhost".to_owned(), ctx.node.clone()]);
        let common = full_name(ctx);
        dns.insert(common.clone());
        let mut addresses = BTreeSet::from([IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
        // Those that only mean something on one link are left out.
        addresses.extend(host::addresses(&["scope", "global"]).unwrap_or_default());
        Names { common, dns, addresses }
    }
}

/// The node's name with its domain, if it has one.
pub fn full_name(ctx: &Context) -> String {
    domain(ctx).map_or_else(|| ctx.node.clone(), |domain| format!("{}.{domain}", ctx.node))
}

/// The node's domain: of its full name in the hosts file, else the resolver's search domain.
fn domain(ctx: &Context) -> Option<String> {
    let hosts = file::read_or_empty(&ctx.root.path("/etc/hosts")).unwrap_or_default();
    let prefix = format!("{}.", ctx.node);
    let full = hosts.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    if let Some(domain) = full.filter_map(|word| word.strip_prefix(&prefix)).find(|domain| !domain.is_empty()) {
        return Some(domain.to_owned());
    }
    let resolver = file::read_or_empty(&ctx.root.path("/etc/resolv.conf")).unwrap_or_default();
    let line =
        resolver.lines().find_map(|line| line.strip_prefix("search ").or_else(|| line.strip_prefix("domain ")))?;
    let domain = line.split_whitespace().next()?;
    (domain != ".").then(|| domain.trim_end_matches('.').to_owned())
}

fn node_certificate(
    names: &Names,
    key: &PKey<Private>,
    authority: &X509,
    authority_key: &PKey<Private>,
    serial: BigNum,
) -> Built<X509> {
    let mut builder = builder(NODE_DAYS)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_text("OU", "PVE Cluster Node")?;
    subject.append_entry_by_text("O", "Proxmox Virtual Environment")?;
    // A common name has room for 64 characters; the alternative names have no such limit.
    subject.append_entry_by_text("CN", names.common.get(..64).unwrap_or(&names.common))?;
    builder.set_subject_name(&subject.build())?;
    builder.set_issuer_name(authority.subject_name())?;
    builder.set_pubkey(key)?;
    builder.append_extension(BasicConstraints::new().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let mut alternatives = SubjectAlternativeName::new();
    for address in &names.addresses {
        alternatives.ip(&address.to_string());
    }
    for name in &names.dns {
        alternatives.dns(name);
    }
    let context = builder.x509v3_context(Some(authority), None);
    let alternatives = alternatives.build(&context)?;
    let own = SubjectKeyIdentifier::new().build(&context)?;
    let issuer = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
    for extension in [alternatives, own, issuer] {
        builder.append_extension(extension)?;
    }
    builder.sign(authority_key, MessageDigest::sha256())?;
    Ok(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_node_gets_a_certificate_that_its_authority_has_signed() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        std::fs::write(ctx.root.path("/etc/hosts"), "127.0.0.1 localhost\n10.0.0.5 pve1.example.org pve1\n").unwrap();
        ensure(&ctx).unwrap();
        let read = |name: &str| X509::from_pem(&std::fs::read(ctx.root.etc_pve(name)).unwrap()).unwrap();
        let (authority, certificate) = (read("pve-root-ca.pem"), read("nodes/pve1/pve-ssl.pem"));
        assert!(authority.verify(&authority.public_key().unwrap()).unwrap());
        assert!(certificate.verify(&authority.public_key().unwrap()).unwrap());
        let names: Vec<String> = certificate
            .subject_alt_names()
            .unwrap()
            .iter()
            .filter_map(|name| {
                name.dnsname().map(str::to_owned).or_else(|| name.ipaddress().map(|ip| format!("{ip:?}")))
            })
            .collect();
        for name in ["localhost", "pve1", "pve1.example.org", "[127, 0, 0, 1]"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        let mode = |name: &str| std::fs::metadata(ctx.root.etc_pve(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("priv/pve-root-ca.key"), 0o600);
        assert_eq!(mode("nodes/pve1/pve-ssl.key"), 0o640);
        // Nothing is made again while it holds; a lost certificate comes back with the same key and authority.
        ensure(&ctx).unwrap();
        assert_eq!(read("nodes/pve1/pve-ssl.pem").to_der().unwrap(), certificate.to_der().unwrap());
        std::fs::remove_file(ctx.root.etc_pve("nodes/pve1/pve-ssl.pem")).unwrap();
        ensure(&ctx).unwrap();
        let renewed = read("nodes/pve1/pve-ssl.pem");
        assert!(renewed.verify(&authority.public_key().unwrap()).unwrap());
        assert!(renewed.public_key().unwrap().public_eq(&certificate.public_key().unwrap()));
        assert_ne!(renewed.serial_number().to_bn().unwrap(), certificate.serial_number().to_bn().unwrap());
    }
}

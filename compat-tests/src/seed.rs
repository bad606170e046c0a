//! Users, tokens and tickets without any of our programs: written as files and signed with the node's own keys, as an
//! administrator could. So tests of the wire do not depend on the methods that manage users.

use crate::{Client, Node};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Users: `admin@pve` (Administrator), `auditor@pve` (PVEAuditor), `nobody@pve` (no rights), `gone@pve` (disabled). Each but
/// the last has a token `main`; `root@pam` has one, too.
const USERS: &str = "user:root@pam:1:0:::::\nuser:admin@pve:1:0:::::\nuser:auditor@pve:1:0:::::\nuser:nobody@pve:1:0:::::\n\
    user:gone@pve:0:0:::::\ntoken:root@pam!main:0:0::\ntoken:admin@pve!main:0:0::\ntoken:auditor@pve!main:0:0::\n\
    token:nobody@pve!main:0:0::\n\nacl:1:/:admin@pve:Administrator:\nacl:1:/:auditor@pve:PVEAuditor:\n";
const SECRET: &str = "12345678-1234-1234-1234-123456789abc";

impl Node {
    /// Writes users and tokens into the node's files.
    pub fn seed_users(&self) {
        fs::create_dir_all(self.path("etc/pve/priv")).expect("own directory");
        let names = ["root@pam", "admin@pve", "auditor@pve", "nobody@pve"];
        let secrets: String = names.iter().map(|name| format!("{name}!main {SECRET}\n")).collect();
        for (file, text) in [("etc/pve/user.cfg", USERS), ("etc/pve/priv/token.cfg", &secrets)] {
            // Written beside and moved, so that nobody reads half of it.
            let new = self.path(&format!("{file}.new"));
            fs::write(&new, text).expect("own directory");
            fs::rename(&new, self.path(file)).expect("own directory");
        }
    }

    /// The secret of the seeded token of a user, as it stands in a header.
    pub fn seeded_token(&self, user: &str) -> String {
        format!("{user}!main={SECRET}")
    }

    /// A client with the seeded token of a user.
    pub fn token_client(&self, user: &str) -> Client {
        self.client().with_token(&self.seeded_token(user))
    }

    /// A ticket of a user, `age` seconds old, signed with the node's key.
    pub fn ticket(&self, user: &str, age: i64) -> String {
        let pem = fs::read(self.path("etc/pve/priv/authkey.key")).expect("the node's key");
        let key = PKey::private_key_from_pem(&pem).expect("a key");
        let data = format!("PVE:{user}:{}", time(age));
        let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("a signer");
        let signature = signer.sign_oneshot_to_vec(data.as_bytes()).expect("a signature");
        format!("{data}::{}", openssl::base64::encode_block(&signature))
    }

    /// A CSRF prevention token of a user, `age` seconds old.
    pub fn csrf_token(&self, user: &str, age: i64) -> String {
        let pem = fs::read(self.path("etc/pve/pve-www.key")).expect("the node's secret");
        let secret = hmac(&pem, b"");
        let time = time(age);
        let sum = hmac(secret.as_bytes(), format!("{time}:{user}").as_bytes());
        format!("{time}:{sum}")
    }

    /// A client with ticket and CSRF token of a user.
    pub fn ticket_client(&self, user: &str) -> Client {
        self.client()
            .with_header("Cookie", &format!("PVEAuthCookie={}", self.ticket(user, 0)))
            .with_header("CSRFPreventionToken", &self.csrf_token(user, 0))
    }
}

/// The time some seconds ago as tickets write it.
fn time(age: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs().cast_signed();
    format!("{:08X}", now - age)
}

fn hmac(key: &[u8], data: &[u8]) -> String {
    let key = PKey::hmac(key).expect("any text can be a key");
    let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("a signer");
    let sum = signer.sign_oneshot_to_vec(data).expect("a sum");
    openssl::base64::encode_block(&sum).trim_end_matches('=').to_owned()
}

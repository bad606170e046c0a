//! Password hashes by the system's libcrypt: whatever `/etc/shadow` may hold can be checked, SHA-256 hashes are made, as
//! PVE makes them. (PVE: pve-common PVE/Tools.pm, encrypt_pw)

use crate::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_void};

#[link(name = "crypt")]
unsafe extern "C" {
    /// crypt(3) with memory of the caller's; null on failure.
    fn crypt_rn(phrase: *const c_char, setting: *const c_char, data: *mut c_void, size: c_int) -> *mut c_char;
}

/// Size of the memory that `crypt_rn` works in, `sizeof (struct crypt_data)` of libxcrypt.
const WORK_SIZE: usize = 32768;

/// Characters of salts.
const SALT: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The hash of a new password of a user of ours.
pub fn hash(password: &str) -> Result<String> {
    hash_by("5", password)
}

/// The SHA-512 hash of a password, as PVE makes it for root of a container.
pub fn hash_for_guest(password: &str) -> Result<String> {
    hash_by("6", password)
}

fn hash_by(method: &str, password: &str) -> Result<String> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes).map_err(super::keys::openssl_error)?;
    let salt: String = bytes.iter().map(|byte| char::from(SALT[usize::from(byte & 63)])).collect();
    crypt(password, &format!("${method}${salt}$")).ok_or_else(|| Error::new("Failed to hash password!"))
}

/// Whether a password belongs to a hash. The comparison takes the same time wherever the texts differ.
pub fn verify(password: &str, hash: &str) -> bool {
    let Some(computed) = crypt(password, hash) else { return false };
    computed.len() == hash.len() && openssl::memcmp::eq(computed.as_bytes(), hash.as_bytes())
}

/// crypt(3). None if the setting is not a hash that the system knows, or a text holds a NUL.
fn crypt(password: &str, setting: &str) -> Option<String> {
    let (phrase, setting) = (CString::new(password).ok()?, CString::new(setting).ok()?);
    let mut work = vec![0u64; WORK_SIZE / size_of::<u64>()];
    let size = c_int::try_from(WORK_SIZE).expect("the size is small");
    // SAFETY: both texts end with NUL and outlive the call; `work` is zeroed, aligned and as large as `size` says, and is
    // used by this call only.
    let result = unsafe { crypt_rn(phrase.as_ptr(), setting.as_ptr(), work.as_mut_ptr().cast(), size) };
    if result.is_null() {
        return None;
    }
    // SAFETY: on success the result is a text ending with NUL inside of `work`, which is still there.
    let text = unsafe { CStr::from_ptr(result) };
    text.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_the_system_are_understood() {
        // Made by Perl's crypt on Debian 12.
        for hash in [
            "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$42RgPIrXdXSEEs77lDi/4IqKVqFBAVaHJkzw5uD1r57",
        ] {
            assert!(verify("Hello world!", hash), "{hash}");
            assert!(!verify("hello world!", hash), "{hash}");
        }
    }

    #[test]
    fn what_is_hashed_verifies_and_nothing_else_does() {
        let first = hash("pässword").unwrap();
        assert!(first.starts_with("$5$"));
        assert_ne!(first, hash("pässword").unwrap());
        assert!(verify("pässword", &first));
        for (password, hash) in
            [("", first.as_str()), ("pässword", ""), ("pässword", "*"), ("*", "*"), ("a\0b", &first)]
        {
            assert!(!verify(password, hash), "{hash}");
        }
    }
}

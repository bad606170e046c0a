//! What the monitor says and wants to hear. Pure: bytes in, a system call out, and back.
//!
//! ```text
//! 0  u64 reserved, i32 monitor, i32 init, u16 sizes of request, reply and data, u64 length of the cookie
//! 32 request: u64 id, u32 process, u32 flags, i32 number, u32 architecture, u64 place, 6 × u64 arguments
//! 112 reply:  u64 id, i64 value, i32 error, u32 flags
//! 136 the cookie
//! ```
//! (liblxc: seccomp.c, struct seccomp_notify_proxy_msg; Linux: linux/seccomp.h)

use crate::{Error, Result, bail};

/// So long is a message at most; no cookie is asked for.
pub const LONGEST: usize = 512;
const REQUEST: usize = 32;
const REPLY: usize = 112;
const END: usize = 136;
/// Sizes of request, reply and data as this program knows them.
const SIZES: [u16; 3] = [80, 24, 64];
/// linux/audit.h: AUDIT_ARCH_X86_64 and AUDIT_ARCH_I386.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// linux/seccomp.h: SECCOMP_USER_NOTIF_FLAG_CONTINUE.
const CONTINUE: u32 = 1;

/// A system call of a process in the container.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// `mknodat`; `mknod` is one at the working directory.
    MakeNode {
        /// The number of the open directory that a relative path begins at; none for the working directory.
        directory: Option<u32>,
        /// Where the path is in the process's memory.
        path: u64,
        /// Type and permissions.
        mode: u32,
        /// The device, as the kernel writes it.
        device: u32,
    },
    /// Another one.
    Other,
}

/// What is to become of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// It failed with this number.
    Failed(i32),
    /// The kernel does what it would have done without asking.
    Continue,
}

/// A message.
pub struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    /// Takes the bytes if they are a message as this program knows it.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let message = Message(bytes);
        if bytes.len() < END || message.number(0, 8) != 0 {
            bail!("the monitor says what is not understood");
        }
        for (index, size) in SIZES.into_iter().enumerate() {
            if message.number(16 + 2 * index, 2) != u64::from(size) {
                return Err(Error::new("the monitor and this program know different kernels"));
            }
        }
        Ok(message)
    }

    /// The system call.
    pub fn call(&self) -> Call {
        let argument = |index: usize| self.number(REQUEST + 32 + 8 * index, 8);
        let low = |index| argument(index) as u32;
        // Negative numbers are the working directory (AT_FDCWD) or an error.
        let directory = |index| u32::try_from(low(index).cast_signed()).ok();
        match (self.number(REQUEST + 20, 4) as u32, self.number(REQUEST + 16, 4)) {
            (X86_64, 133) | (I386, 14) => {
                Call::MakeNode { directory: None, path: argument(0), mode: low(1), device: low(2) }
            }
            (X86_64, 259) | (I386, 297) => {
                Call::MakeNode { directory: directory(0), path: argument(1), mode: low(2), device: low(3) }
            }
            _ => Call::Other,
        }
    }

    /// The message with an answer in it.
    pub fn reply(&self, answer: Answer) -> Vec<u8> {
        let (value, error, flags) = match answer {
            Answer::Done => (0_i64, 0, 0),
            Answer::Failed(error) => (-1, -error, 0),
            Answer::Continue => (0, 0, CONTINUE),
        };
        let mut bytes = self.0[..REPLY].to_vec();
        bytes.extend_from_slice(&self.0[REQUEST..REQUEST + 8]);
        bytes.extend_from_slice(&value.to_ne_bytes());
        bytes.extend_from_slice(&error.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes
    }

    /// A number of so many bytes (little-endian: x86_64).
    fn number(&self, place: usize, length: usize) -> u64 {
        self.0[place..place + length].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(architecture: u32, number: i32, arguments: [u64; 6]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        SIZES.iter().for_each(|size| bytes.extend(size.to_ne_bytes()));
        bytes.resize(REQUEST, 0);
        bytes.extend(0x1122_3344_5566_7788_u64.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(number.to_ne_bytes());
        bytes.extend(architecture.to_ne_bytes());
        bytes.extend([0; 8]);
        arguments.iter().for_each(|argument| bytes.extend(argument.to_ne_bytes()));
        bytes.resize(END, 0);
        bytes
    }

    #[test]
    fn calls_of_both_architectures_are_understood() {
        let at_cwd = u64::from(u32::MAX - 99);
        for (architecture, number, arguments, directory) in [
            (X86_64, 133, [4096, 0o20666, 0x103, 0, 0, 0], None),
            (X86_64, 259, [at_cwd, 4096, 0o20666, 0x103, 0, 0], None),
            (X86_64, 259, [7, 4096, 0o20666, 0x103, 0, 0], Some(7)),
            (I386, 14, [4096, 0o20666, 0x103, 0, 0, 0], None),
            (I386, 297, [7, 4096, 0o20666, 0x103, 0, 0], Some(7)),
        ] {
            let bytes = message(architecture, number, arguments);
            let wanted = Call::MakeNode { directory, path: 4096, mode: 0o20666, device: 0x103 };
            assert_eq!(Message::read(&bytes).unwrap().call(), wanted);
        }
        assert_eq!(Message::read(&message(I386, 133, [0; 6])).unwrap().call(), Call::Other);
    }

    #[test]
    fn an_answer_bears_the_number_of_the_question() {
        let bytes = message(X86_64, 133, [0; 6]);
        let message = Message::read(&bytes).unwrap();
        let reply = message.reply(Answer::Failed(libc::EPERM));
        assert_eq!(reply.len(), END);
        assert_eq!(reply[..REPLY], bytes[..REPLY]);
        assert_eq!(reply[REPLY..REPLY + 8], bytes[REQUEST..REQUEST + 8]);
        assert_eq!(reply[REPLY + 8..], [[0xff; 8].as_slice(), &(-1_i32).to_ne_bytes(), &[0; 4]].concat());
        assert_eq!(message.reply(Answer::Continue)[REPLY + 20..], [1, 0, 0, 0]);
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let whole = message(X86_64, 133, [0; 6]);
        let mut other_sizes = whole.clone();
        other_sizes[16] = 88;
        let mut reserved = whole.clone();
        reserved[3] = 1;
        for bytes in [&whole[..END - 1], &[], &other_sizes, &reserved] {
            assert!(Message::read(bytes).is_err());
        }
    }
}

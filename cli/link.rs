//! Build script of the tools: they are linked to a fixed place in memory.
//!
//! A movable program has its tables of pointers corrected at each start; that of the interface alone costs a tool 2 ms.
//! The daemons stay movable: they read what strangers send.

fn main() {
    println!("cargo:rerun-if-changed=../cli/link.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
}

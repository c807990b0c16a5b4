//! What the fuzzers hold (see `fuzz/README.md`), for their seeds and for
//! whatever they once found.

use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod laws;

/// Says which input it was when a law is broken.
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

/// Puts every file of a target's folders through its law.
fn replay(target: &'static str, law: fn(&[u8])) {
    let run = move || {
        let mut inputs = 0;
        for kind in ["seeds", "regressions"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let Ok(files) = folder.join(kind).join(target).read_dir() else {
                continue;
            };
            for file in files {
                let named = Named(file.expect("a file").path());
                law(&std::fs::read(&named.0).expect("readable"));
                inputs += 1;
            }
        }
        assert!(inputs > 20, "{inputs} inputs: where are the seeds?");
    };
    // The model calls itself once for each resubmit.
    let thread = std::thread::Builder::new().stack_size(64 << 20);
    let thread = thread.spawn(run).expect("a thread");
    thread.join().expect("the law holds");
}

#[test]
fn packets() {
    replay("packet", laws::packet::law);
}

#[test]
fn texts() {
    replay("text", laws::text::law);
}

#[test]
fn rewrites() {
    replay("rewrite", laws::rewrite::law);
}

#[test]
fn tables() {
    replay("tables", laws::tables::law);
}

//! A network namespace for one test, on a thread of its own: with the thread the
//! namespace goes, and all that was made in it.

use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// One test at a time: a command that another test starts holds, between fork and
/// exec, all descriptors of this process, and so a tap that this test just closed.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the test in a network namespace of its own. Without the privilege to make
/// one, or without the tun driver, the test is left out, and says so on the terminal.
pub fn in_namespace(name: &'static str, test: impl FnOnce() + Send + 'static) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return skip(name, &format!("no network namespace to be had: {error}"));
        }
        if let Err(error) = std::fs::File::open("/dev/net/tun") {
            return skip(name, &format!("/dev/net/tun: {error}"));
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn skip(name: &str, why: &str) {
    // Not by a macro, which the test harness would keep to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// Runs iproute2's command as a shell would, and wants it to succeed.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("there is a shell");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

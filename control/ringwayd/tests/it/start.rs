//! The program itself, as far as it goes without a datapath.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use tempfile::tempdir;

fn ringwayd(arguments: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwayd"));
    let output = command.args(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

#[test]
fn a_damaged_state_file_stops_the_start() {
    let dir = tempdir().unwrap();
    let (state, socket) = (
        dir.path().join("state.toml"),
        dir.path().join("control.sock"),
    );
    fs::write(&state, "version = 1\n\n[[brigde]]\n").unwrap();
    let (state_arg, socket_arg) = (state.to_str().unwrap(), socket.to_str().unwrap());
    let (output, stderr) = ringwayd(&["--state", state_arg, "--socket", socket_arg]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("state.toml, line 3: unknown field `brigde`"),
        "{stderr}"
    );
    assert_eq!(fs::read(&state).unwrap(), b"version = 1\n\n[[brigde]]\n");
    assert!(!socket.exists());
}

#[test]
fn another_daemons_socket_stops_the_start() {
    let dir = tempdir().unwrap();
    let (state, socket) = (
        dir.path().join("state.toml"),
        dir.path().join("control.sock"),
    );
    let _other = UnixListener::bind(&socket).unwrap();
    let (state_arg, socket_arg) = (state.to_str().unwrap(), socket.to_str().unwrap());
    let (output, stderr) = ringwayd(&["--state", state_arg, "--socket", socket_arg]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("another ringwayd answers"), "{stderr}");
    assert!(socket.exists());
}

#[test]
fn bad_arguments_are_usage_errors() {
    for arguments in [
        &["--pmd-cores", "1,1"][..],
        &["--hugepages", "3M"],
        &["--nonsense"],
    ] {
        let (output, stderr) = ringwayd(arguments);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
    }
    let (output, stderr) = ringwayd(&["--log", "a=b=c"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("--log"), "{stderr}");
}

//! Open vSwitch's ovs-vsctl on a database server of its own.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::{TempDir, tempdir};

use crate::daemon::Printed;

/// A database server on a socket in a directory of its own.
pub struct Oracle {
    dir: TempDir,
    server: Child,
}

/// Where Debian puts the database's schema.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

impl Oracle {
    /// Starts it; none if it is not installed.
    pub fn start() -> Option<Self> {
        let dir = tempdir().unwrap();
        let (db, socket) = (dir.path().join("conf.db"), dir.path().join("db.sock"));
        let created = Command::new("ovsdb-tool")
            .arg("create")
            .arg(&db)
            .arg(SCHEMA)
            .status();
        match created {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            created => assert!(created.unwrap().success(), "ovsdb-tool create"),
        }
        let server = Command::new("ovsdb-server")
            .arg(&db)
            .arg(format!("--remote=punix:{}", socket.display()))
            .arg("--no-chdir")
            .arg(format!("--unixctl={}/ctl", dir.path().display()))
            .stderr(Stdio::null())
            .spawn();
        let oracle = Oracle {
            server: match server {
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                server => server.unwrap(),
            },
            dir,
        };
        while UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(oracle.vsctl(&["init".into()]).code, 0);
        Some(oracle)
    }

    /// Runs ovs-vsctl with these words.
    pub fn vsctl(&self, words: &[String]) -> Printed {
        let db = format!("--db=unix:{}/db.sock", self.dir.path().display());
        let output = Command::new("/usr/bin/ovs-vsctl")
            .arg0("ovs-vsctl")
            .args(["--no-wait", "--no-syslog"])
            .arg(&db)
            .args(words.iter().filter(|word| !word.starts_with("--db=unix:")))
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Printed {
            code: output.status.code().unwrap_or(-1) as u8,
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

//! `ringwayd --takeover`: a new daemon takes over from the one that runs, and no
//! frontend sees its connection end.
//!
//! ```text
//! new                                   old
//! Hello {versions}            ─────▶
//!                             ◀─────    Welcome {version, started}, or Refused
//! starts DPDK and its cores
//! Begin {process}             ─────▶    takes no changes, reads no more messages
//!                             ◀─────    Begun {ports, sockets, the state file's lock}
//! reads the state file, makes
//! bridges, flows, ports
//! Ready                       ─────▶    its poll-mode cores let go: nothing is forwarded
//!                             ◀─────    Halted {where rings stand, stations, counts}
//! Done                        ─────▶    ends, without removing anything
//! its cores begin
//! ```
//!
//! Up to Done the old one goes on when the new one dies, gives up or takes too
//! long (then it is killed first, so that never two work on a guest's rings).
//! Each message is a length, JSON, and descriptors beside it; fields may be added
//! to a version, and what one does not know it passes over. Without a common
//! version the old one is ended as by SIGTERM, and frontends connect anew.

mod new;
mod old;
pub(crate) mod wire;

use std::path::{Path, PathBuf};

use ringway_datapath::handover::{Forms, Moment};
use serde::{Deserialize, Serialize};

pub use new::{Begun, Successor, TakeoverError};
pub use old::{Offer, offer};

/// The versions of the handover that this daemon speaks, best first.
const VERSIONS: &[u32] = &[1];

/// Where a new daemon finds the one that runs: beside the control socket.
pub fn path_beside(control_socket: &Path) -> PathBuf {
    let mut name = control_socket.as_os_str().to_owned();
    name.push(".takeover");
    name.into()
}

/// What the new daemon says.
#[derive(Debug, Serialize, Deserialize)]
enum FromNew {
    Hello {
        versions: Vec<u32>,
    },
    /// With a descriptor of the new process, by which the old one can end it if
    /// it hangs.
    Begin {
        process: u32,
    },
    Ready,
    Done,
}

/// What the old daemon says.
#[derive(Debug, Serialize, Deserialize)]
enum FromOld {
    Welcome { version: u32, started_tsc: u64 },
    Refused { why: String },
    Begun(Box<BegunForm>),
    Halted(Box<Moment>),
}

/// Ports and sockets, with descriptors by their place.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct BegunForm {
    ports: Forms,
    control_socket: u32,
    state_lock: u32,
}

/// The version that both speak, the best one.
fn common_version(theirs: &[u32]) -> Option<u32> {
    VERSIONS.iter().copied().find(|own| theirs.contains(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_version_is_spoken() {
        assert_eq!(common_version(&[1]), Some(1));
        assert_eq!(common_version(&[3, 2, 1]), Some(1));
        assert_eq!(common_version(&[2]), None);
        assert_eq!(common_version(&[]), None);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_what_it_leaves_out_is_as_at_first() {
        let text = r#"{"ports":{"guests":{"vm1":{"path":"/a","server":true,"colour":"red",
            "session":{"features":1,"vrings":[{"size":8,"speed":1}]}}},"moons":[1]},
            "control_socket":0,"more":{}}"#;
        let form: BegunForm = serde_json::from_str(text).unwrap();
        assert_eq!((form.control_socket, form.state_lock), (0, 0));
        let moment: Moment = serde_json::from_str(r#"{"positions":{"vm1":[null,7]}}"#).unwrap();
        assert_eq!(moment.rings(), 1);
    }
}

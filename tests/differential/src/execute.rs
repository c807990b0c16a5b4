//! Does to a frame what a program says, as the datapath does.

use std::collections::BTreeMap;

use ringway_flow::program::{DpAction, Program};
use ringway_flow::rewrite::Head;

use crate::oracle::Outputs;

/// Bytes of a frame that the datapath copies, parses and rewrites.
pub const HEAD: usize = 128;
/// Room in a head for tags to be pushed.
const HEADROOM: usize = 64;

/// A frame at work: a head of our own and a body that never changes.
struct Work<'f> {
    head: Vec<u8>,
    len: usize,
    frame_len: usize,
    body: &'f [u8],
}

impl Work<'_> {
    fn head(&mut self) -> Head<'_> {
        Head {
            bytes: &mut self.head,
            len: &mut self.len,
            frame_len: &mut self.frame_len,
            partial: None,
        }
    }

    fn frame(&self) -> Vec<u8> {
        let frame = [&self.head[..self.len], self.body].concat();
        assert_eq!(
            frame.len(),
            self.frame_len,
            "the head keeps no count of the frame"
        );
        frame
    }
}

/// The head's bytes, as [`ringway_flow::extract::extract`] takes them.
pub fn head_of(frame: &[u8]) -> ([u8; HEAD], usize) {
    // What lies behind the frame is stale and must not be looked at.
    let mut head = [0xa5; HEAD];
    let len = frame.len().min(HEAD);
    head[..len].copy_from_slice(&frame[..len]);
    (head, len)
}

/// What a program made of a frame.
#[derive(Debug, Default)]
pub struct Executed {
    /// What came out.
    pub outputs: Outputs,
    /// NORMAL was done with a frame that has a tag of VLAN 0.
    pub normal_in_vlan_0: bool,
}

/// Runs a program on a frame that came in at `in_port` of a bridge with
/// `ports`, whose learnt addresses have been forgotten.
pub fn execute(program: &Program, frame: &[u8], in_port: u16, ports: &[u16]) -> Executed {
    let len = frame.len().min(HEAD);
    let mut work = Work {
        head: [&frame[..len], &[0; HEADROOM][..]].concat(),
        len,
        frame_len: frame.len(),
        body: &frame[len..],
    };
    let mut outputs = Outputs::new();
    let mut normal_in_vlan_0 = false;
    let mut stations = BTreeMap::new();
    for step in program.steps() {
        match step {
            DpAction::Output(port) if ports.contains(&port) => {
                outputs.entry(port).or_default().push(work.frame());
            }
            // To a port that is not there.
            DpAction::Output(_) => {}
            DpAction::Flood => {
                for port in ports.iter().filter(|port| **port != in_port) {
                    outputs.entry(*port).or_default().push(work.frame());
                }
            }
            DpAction::Normal => {
                let frame = work.frame();
                let inner = frame.get(4..).and_then(tag);
                normal_in_vlan_0 |= tag(&frame).is_some_and(|vid| vid == 0 || inner == Some(0));
                for port in normal(&work.frame(), in_port, ports, &mut stations) {
                    outputs.entry(port).or_default().push(work.frame());
                }
            }
            DpAction::Set { word, value, mask } => work.head().set(word, value, mask),
            DpAction::PushVlan { tpid, tci } => {
                assert!(work.head().push_vlan(tpid, tci), "no room for a tag");
            }
            DpAction::PopVlan => work.head().pop_vlan(),
            DpAction::Controller { .. } | DpAction::Meter(_) => {}
            DpAction::Drop(_) => {
                assert!(outputs.is_empty(), "a program drops what it has sent");
            }
        }
    }
    Executed {
        outputs,
        normal_in_vlan_0,
    }
}

/// The VLAN of a frame's outer tag.
fn tag(frame: &[u8]) -> Option<u16> {
    match frame.get(12..18)? {
        [0x81, 0, tci @ ..] | [0x88, 0xa8, tci @ ..] => {
            Some(u16::from_be_bytes([tci[0] & 0x0f, tci[1]]))
        }
        _ => None,
    }
}

/// Where a learning switch sends a frame.
fn normal(
    frame: &[u8],
    in_port: u16,
    ports: &[u16],
    stations: &mut BTreeMap<(u16, [u8; 6]), u16>,
) -> Vec<u16> {
    let mac = |at: usize| {
        let mut mac = [0; 6];
        mac.copy_from_slice(&frame[at..at + 6]);
        mac
    };
    let (to, from) = (mac(0), mac(6));
    let tagged = matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
    let vid = match tag(frame) {
        Some(vid) => vid,
        // A tag that is cut off.
        None if tagged => return Vec::new(),
        None => 0,
    };
    if from[0] & 1 == 0 {
        stations.insert((vid, from), in_port);
    }
    match stations.get(&(vid, to)) {
        Some(port) if *port == in_port => Vec::new(),
        Some(port) => vec![*port],
        None => ports
            .iter()
            .copied()
            .filter(|port| *port != in_port)
            .collect(),
    }
}

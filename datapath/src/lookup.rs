//! Stage 3: keys → verdicts. Today the bridge's verdict is NORMAL's: learn
//! the source, look up the destination. (Flows will be looked up before it.)

use ringway_vhost::BURST;

use crate::drop_reason::DropReason;
use crate::parse::{Key, Station};
use crate::snapshot::BridgeView;
use crate::spec::FailMode;

/// What is to happen to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the port with this number.
    Output(u32),
    /// To every other port of the bridge.
    Flood,
    /// Nowhere.
    Drop(DropReason),
}

/// One verdict per packet of a burst.
pub struct Verdicts([Verdict; BURST]);

impl Default for Verdicts {
    fn default() -> Self {
        Self([Verdict::Flood; BURST])
    }
}

impl Verdicts {
    /// The verdict on packet `index`.
    #[inline(always)]
    pub fn of(&self, index: usize) -> Verdict {
        self.0[index]
    }
}

/// Decides for a burst that came in on port `ingress` in this second.
#[inline(always)]
pub fn lookup(
    keys: &[Key],
    bridge: &BridgeView,
    ingress: u32,
    second: u32,
    verdicts: &mut Verdicts,
) {
    if bridge.fail_mode == FailMode::Secure {
        verdicts.0[..keys.len()].fill(Verdict::Drop(DropReason::NoFlow));
        return;
    }
    // Packets of a burst come in runs of one conversation: what was just
    // found is good for the next one. No station has all bits clear.
    let mut learned = Station::default();
    let mut decided = (Station::default(), Verdict::Flood);
    for (key, verdict) in keys.iter().zip(&mut verdicts.0) {
        if key.source != learned {
            if !key.source.is_group() {
                bridge.fdb.learn(key.source, ingress, second);
            }
            learned = key.source;
        }
        if key.destination != decided.0 {
            decided = (key.destination, normal(key.destination, bridge, ingress));
        }
        *verdict = decided.1;
    }
}

/// Where a learning switch sends a frame.
#[inline(always)]
fn normal(destination: Station, bridge: &BridgeView, ingress: u32) -> Verdict {
    if destination.is_group() {
        return if destination.is_reserved() {
            Verdict::Drop(DropReason::ReservedMulticast)
        } else {
            Verdict::Flood
        };
    }
    match bridge.fdb.lookup(destination) {
        None => Verdict::Flood,
        Some(port) if port == ingress => Verdict::Drop(DropReason::SameIngress),
        Some(port) => Verdict::Output(port),
    }
}

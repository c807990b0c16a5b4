//! Which port's packet each megaflow was made for, so that one port cannot
//! fill the table alone: what is left when it is nearly full is for those that
//! have few.

use crate::snapshot::MAX_PORTS;

/// One part in so many of the table is kept for ports with few megaflows.
const KEPT: usize = 16;
/// A port has few with less than one part in so many of the table.
const FEW: usize = 256;

/// How many megaflows each port has.
pub struct Owners {
    /// By entry.
    port: Box<[u16]>,
    /// By port.
    entries: Box<[u32; MAX_PORTS]>,
}

impl Owners {
    /// Of a table with so many entries.
    pub fn new(entries: usize) -> Self {
        Self {
            port: vec![0; entries].into(),
            entries: Box::new([0; MAX_PORTS]),
        }
    }

    /// How far a port may fill a table of `limit`. All of it, where that is
    /// too small to be divided.
    pub fn room(&self, port: usize, limit: usize) -> usize {
        let has_few = (self.entries[port] as usize) < limit / FEW;
        match has_few || limit < FEW {
            true => limit,
            false => limit - limit / KEPT,
        }
    }

    /// An entry was made for a packet of this port.
    pub fn install(&mut self, entry: u32, port: usize) {
        self.port[entry as usize] = port as u16;
        self.entries[port] += 1;
    }

    /// It goes.
    pub fn evict(&mut self, entry: u32) {
        let port = usize::from(self.port[entry as usize]);
        self.entries[port] = self.entries[port].saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use ringway_flow::rule::{Change, FlowCommand};
    use ringway_flow::text::{self, NoNames};
    use ringway_vhost::BURST;

    use super::*;
    use crate::rig::Rig;

    fn udp(source: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([
            0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend(source.to_be_bytes());
        frame.extend([0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_port_with_ever_new_flows_leaves_room_for_anothers() {
        // Every source port is a megaflow.
        let rule = "udp,actions=move:NXM_OF_UDP_SRC[]->NXM_NX_REG0[0..15],output:3";
        let rule = text::parse_flow(rule, FlowCommand::Add, &NoNames).expect("a flow");
        let rule = Change::Flow(FlowCommand::Add, Box::new(rule.value));
        let mut rig = Rig::sized(vec![rule], &[1, 2, 3], 1024, 64);
        let frames: Vec<_> = (0..2048).map(udp).collect();
        for burst in frames.chunks(BURST) {
            assert_eq!(rig.burst(1, burst).sent[&3].len(), burst.len());
        }
        let refused = rig.counters.lookups.not_installed.get();
        assert!(refused > 1024, "{refused}");
        let few: Vec<_> = (3000..3003).map(udp).collect();
        for _ in 0..3 {
            rig.burst(2, &few);
        }
        assert_eq!(rig.counters.lookups.not_installed.get(), refused);
        // And no more than its few.
        let many: Vec<_> = (4000..4032).map(udp).collect();
        rig.burst(2, &many);
        assert!(rig.counters.lookups.not_installed.get() > refused);
    }

    #[test]
    fn what_is_left_in_a_nearly_full_table_is_for_those_with_few() {
        let mut owners = Owners::new(4096);
        let fill = |owners: &mut Owners, port: usize, from: u32| {
            let mut next = from;
            while (next as usize) < owners.room(port, 4096) {
                owners.install(next, port);
                next += 1;
            }
            next
        };
        let first = fill(&mut owners, 1, 0);
        assert_eq!(first, 4096 - 256);
        assert_eq!(fill(&mut owners, 1, first), first);
        let second = fill(&mut owners, 2, first);
        assert_eq!(second, first + 16);
        assert_eq!(fill(&mut owners, 3, second), second + 16);
        // What goes makes room for its port.
        owners.evict(first);
        assert_eq!(fill(&mut owners, 2, second), second + 1);
        assert_eq!(Owners::new(64).room(1, 64), 64);
    }
}

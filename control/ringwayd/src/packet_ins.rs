//! Packets for controllers: taken from the datapath while somebody listens, and
//! given to everybody who does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringway_datapath::flows::PacketIn;
use tokio::sync::{Notify, broadcast};

use crate::stop::Stopping;
use crate::switch::Switch;

/// How often the datapath is asked.
const PERIOD: Duration = Duration::from_millis(10);
/// Packets that a slow listener may be behind; older ones are lost for it.
const BACKLOG: usize = 4_096;

/// What listeners get.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet.
    Packet(Arc<PacketIn>),
    /// As many packets were lost on the way out of the datapath.
    Lost(u64),
}

/// Where listeners come together.
#[derive(Debug)]
pub struct PacketIns {
    events: broadcast::Sender<Event>,
    joined: Notify,
    /// Losses of the datapath that were told, or were before anybody listened.
    lost: AtomicU64,
}

impl Default for PacketIns {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(BACKLOG),
            joined: Notify::new(),
            lost: AtomicU64::new(0),
        }
    }
}

impl PacketIns {
    /// The packets from now on. Blocks for a moment.
    pub fn listen<S: Switch>(&self, switch: &S) -> broadcast::Receiver<Event> {
        if self.events.receiver_count() == 0 {
            // What came before anybody listened is nobody's.
            drop(switch.take_packet_ins());
            self.lost.store(switch.packet_ins_lost(), Ordering::Relaxed);
        }
        let events = self.events.subscribe();
        self.joined.notify_one();
        events
    }

    /// Takes packets out of the datapath while there are listeners.
    pub async fn run<S: Switch>(&self, switch: Arc<S>, mut stopping: Stopping) {
        loop {
            tokio::select! {
                () = stopping.wait() => return,
                () = self.joined.notified() => {}
            }
            while self.events.receiver_count() > 0 {
                let asked = Arc::clone(&switch);
                let take = move || (asked.take_packet_ins(), asked.packet_ins_lost());
                let Ok((packets, lost)) = tokio::task::spawn_blocking(take).await else {
                    return;
                };
                let before = self.lost.fetch_max(lost, Ordering::Relaxed);
                if lost > before {
                    let _ = self.events.send(Event::Lost(lost - before));
                }
                for packet in packets {
                    let _ = self.events.send(Event::Packet(Arc::new(packet)));
                }
                tokio::select! {
                    () = stopping.wait() => return,
                    () = tokio::time::sleep(PERIOD) => {}
                }
            }
        }
    }
}

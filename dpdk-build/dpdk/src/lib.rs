//! Safe RAII wrappers over DPDK: the environment (EAL), memory, packet buffers
//! and ports.
//!
//! ```no_run
//! use dpdk::{BURST, Eal, EalConfig, MbufBurst, Mempool, Port, PortConfig};
//!
//! let eal = Eal::init(EalConfig::default())?;
//! let pool = Mempool::create(&eal, "packets", 4096, 2048, 256)?;
//! let port = Port::attach(&eal, "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap")?;
//! let (port, mut rx, mut tx) = port.configure(&PortConfig::new(pool))?.start()?;
//! let mut burst = MbufBurst::new();
//! while rx[0].rx_burst(&mut burst) > 0 {
//!     tx[0].tx_burst(&mut burst);
//!     burst.clear(); // whatever the port did not take
//! }
//! println!("{}: {:?} after bursts of {BURST}", port.info().device, port.stats()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two kinds of calls. *Control* calls (init, reserve, create, attach, configure,
//! start, and the drop of what they made) may block, allocate and take a
//! process-wide lock. *Burst* calls (`rx_burst`, `tx_burst`, everything on
//! [`MbufBurst`], [`Mempool::alloc_burst`]) neither allocate nor lock nor log,
//! and make one call into C per burst.
//!
//! Who keeps what alive: queues keep their port attached, a port keeps its
//! mempool, and a mempool's memory outlives every packet taken from it.

mod eal;
mod errno;
mod hugepages;
mod log;
mod mbuf;
mod mempool;
mod memzone;
mod offload;
mod port;
mod queue;
mod thread;

pub use eal::{Eal, EalConfig, EalError, MemoryChoice, MemoryKind};
pub use errno::Errno;
pub use log::{LogLevel, LogLine};
pub use mbuf::{BURST, MbufBurst, MbufRef, Segments};
pub use mempool::{Mempool, MempoolError};
pub use memzone::{Memzone, MemzoneError};
pub use offload::{Network, Transport, TxOffload, TxOffloads};
pub use port::{
    AttachError, ConfigureError, ConfiguredPort, LinkState, MtuError, Port, PortConfig, PortError,
    PortId, PortInfo, PortSettings, PortStats, QueryError, RssHashes, RunningPort, StartError,
};
pub use queue::{QueueId, RxQueue, TxQueue};
pub use thread::{RegisteredThread, ThreadError};

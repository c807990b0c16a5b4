//! pktgen: a traffic generator that is two (or more) vhost-user guests.
//!
//! One pinned core drives all ports. Frames are built once into the buffers
//! of each port's transmitq, descriptors are written once, and sending is a
//! store to `avail.idx` per batch ([`ringway_frontend::FastRing`]); packet
//! bytes are touched only when flows, verification or latency ask for it.
//!
//! ```text
//! options.rs  what to send                 frame.rs   frames and flows
//! port.rs     a guest and its two rings    stamp.rs   sequence, time, CRC in a frame
//! oversized.rs  frames of 64 KiB (TSO)     reassemble.rs  and what they are cut into
//! attack.rs   a guest that sends what      craft.rs   crafted headers
//!             no rule wants
//! engine.rs   learn, warm up, measure,     verify.rs  lost, duplicated, reordered, corrupt
//!             drain                        report.rs  figures as text and JSON
//! ```

pub mod attack;
pub mod craft;
pub mod engine;
pub mod frame;
pub mod options;
pub mod oversized;
pub mod port;
pub mod reassemble;
pub mod report;
pub mod stamp;
pub mod tsc;
pub mod verify;

pub use engine::{Error, run};
pub use options::{Nonsense, Options};
pub use report::Report;

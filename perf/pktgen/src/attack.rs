//! The attacker: one more guest, whose crafted frames nobody waits for.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::craft::Craft;
use crate::frame::Template;
use crate::options::Options;
use crate::port::Port;

/// An attacking port and its schedule.
pub struct Attack {
    port: Port,
    craft: Craft,
    /// Frames per tick.
    rate: f64,
    /// Tick from which the schedule counts.
    start: u64,
    /// Frames that the schedule has had since, sent or skipped.
    scheduled: u64,
    skipped: u64,
}

/// What the attacker sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crafted {
    /// Frames sent.
    pub sent: u64,
    /// Frames for which the switch had left no free buffer when they were due.
    pub skipped: u64,
}

impl Attack {
    /// Connects the attacker. It is port `index` and its frames are addressed
    /// to port 0; `rate` is in frames per tick.
    pub fn open(
        options: &Options,
        path: &Path,
        index: usize,
        rate: f64,
    ) -> Result<Self, ringway_frontend::Error> {
        Ok(Self {
            port: Port::open(options, path, index, 0, index)?,
            craft: Craft::new(
                &Template::new(index, 0, options.frame_len(0)),
                &options.vary,
            ),
            rate,
            start: 0,
            scheduled: 0,
            skipped: 0,
        })
    }

    /// Sends what is due at tick `now`, at most `batch` frames.
    #[inline]
    pub fn round(&mut self, now: u64, batch: u16) {
        if self.start == 0 {
            self.start = now;
        }
        let due = ((now - self.start) as f64 * self.rate) as u64;
        let late = due.saturating_sub(self.scheduled);
        if late == 0 {
            return;
        }
        self.port.discard();
        let wanted = late.min(batch.into()) as u16;
        let sent = self.port.send_crafted(wanted, || self.craft.next_headers());
        // What found no buffer is not made up for.
        self.scheduled += u64::from(wanted);
        self.skipped += u64::from(wanted - sent);
    }

    /// What has been sent so far.
    pub fn crafted(&self) -> Crafted {
        Crafted {
            sent: self.port.counts.sent,
            skipped: self.skipped,
        }
    }
}

impl Crafted {
    /// What was sent since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            skipped: self.skipped - before.skipped,
        }
    }
}

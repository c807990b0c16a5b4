//! How a DPDK device is: its link, and whether it is there at all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use dpdk::{LinkState, RunningPort};

use crate::actual::lock;

/// What a device was found to be at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its link is up.
    Up(LinkState),
    /// Its link is down.
    Down,
    /// It has to be attached anew: why, and what to do.
    Failed(String),
}

impl Condition {
    fn name(&self) -> &'static str {
        match self {
            Condition::Up(_) => "up",
            Condition::Down => "down",
            Condition::Failed(_) => "failed",
        }
    }
}

/// A device's condition and since when it is so.
pub struct Health {
    takes_frames: AtomicBool,
    known: Mutex<(Condition, SystemTime)>,
}

impl Health {
    /// Looks at a device that has just been started.
    pub fn of(port: &RunningPort) -> Health {
        let condition = ask(port);
        Health {
            takes_frames: AtomicBool::new(matches!(condition, Condition::Up(_))),
            known: Mutex::new((condition, SystemTime::now())),
        }
    }

    /// Whether frames can be sent to it.
    #[inline]
    pub fn takes_frames(&self) -> bool {
        self.takes_frames.load(Ordering::Relaxed)
    }

    /// What it was at the last look, and since when.
    pub fn known(&self) -> (Condition, SystemTime) {
        lock(&self.known).clone()
    }

    /// Looks again. True when it begins or ceases to take frames. `name` is the
    /// port's, for the log.
    pub fn look(&self, port: &RunningPort, name: &str) -> bool {
        let mut known = lock(&self.known);
        if matches!(known.0, Condition::Failed(_)) {
            return false;
        }
        let condition = ask(port);
        if condition.name() != known.0.name() {
            known.1 = SystemTime::now();
            match &condition {
                Condition::Up(_) => tracing::info!(port = name, "the link is up"),
                Condition::Down => tracing::warn!(port = name, "the link is down"),
                Condition::Failed(why) => tracing::error!(port = name, "{why}"),
            }
        }
        self.take_over(&mut known.0, condition)
    }

    /// The device works no more.
    pub fn fail(&self, why: String) {
        let mut known = lock(&self.known);
        known.1 = SystemTime::now();
        self.take_over(&mut known.0, Condition::Failed(why));
    }

    fn take_over(&self, known: &mut Condition, condition: Condition) -> bool {
        let takes = matches!(condition, Condition::Up(_));
        *known = condition;
        self.takes_frames.swap(takes, Ordering::Relaxed) != takes
    }
}

fn ask(port: &RunningPort) -> Condition {
    if port.removed() {
        return Condition::Failed(gone(port));
    }
    match port.link() {
        Ok(link) if link.up => Condition::Up(link),
        Ok(_) => Condition::Down,
        Err(error) => Condition::Failed(error.to_string()),
    }
}

fn gone(port: &RunningPort) -> String {
    match port.kernel_interface() {
        Some((name, _)) => format!(
            "the interface {name} is gone (`ip link` shows which there are); the port is tried \
             again by itself"
        ),
        None => format!(
            "the device {0} is gone: it was unplugged or taken by another driver. Once it is \
             back, `dpdk-devbind.py --status` shows which driver has it and \
             `dpdk-devbind.py --bind=vfio-pci {0}` gives it to DPDK",
            port.info().device
        ),
    }
}

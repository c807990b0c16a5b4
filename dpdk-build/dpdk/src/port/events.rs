//! What a device tells by itself: that its link changed, that it goes away.

// UNSAFETY: called by DPDK with a pointer to the events of a device.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a device has told, and whom to wake.
#[derive(Default)]
pub(super) struct Events {
    removed: AtomicBool,
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Events {
    /// Whether the device told that it goes away.
    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Has `listener` called at every event from now on. False when there is
    /// one already.
    pub fn listen(&self, listener: Box<dyn Fn() + Send + Sync>) -> bool {
        self.listener.set(listener).is_ok()
    }

    fn tell(&self, event: u32) {
        if event == dpdk_sys::RW_EVENT_REMOVED {
            self.removed.store(true, Ordering::Release);
        }
        if let Some(listener) = self.listener.get() {
            listener();
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("removed", &self.removed())
            .field("listener", &self.listener.get().is_some())
            .finish()
    }
}

/// Called on one of DPDK's threads.
pub(super) unsafe extern "C" fn told(events: *mut c_void, event: u32) {
    // SAFETY: the pointer is that of a device's events, which live until
    // `Device::unwatch` has made sure that nobody calls this any more.
    let events = unsafe { &*events.cast::<Events>() };
    events.tell(event);
}

//! Poll-mode threads of ours, made known to DPDK.

// UNSAFETY: rte_thread_register and rte_thread_unregister.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use thiserror::Error;

use crate::Errno;

/// Why a thread could not be registered.
#[derive(Debug, Error)]
#[error(
    "DPDK has no place for thread `{thread}`: {errno}. It knows a limited number of threads \
     (RTE_MAX_LCORE, 128 in Debian's build): use fewer poll-mode cores"
)]
pub struct ThreadError {
    /// The thread's name.
    pub thread: String,
    /// DPDK's error number.
    pub errno: Errno,
}

/// The calling thread's registration; ends when dropped. Stays on its thread.
#[derive(Debug)]
pub struct RegisteredThread {
    stays_here: PhantomData<*mut ()>,
}

impl RegisteredThread {
    pub(crate) fn new() -> Result<RegisteredThread, ThreadError> {
        // SAFETY: an `Eal` exists, which is all this needs.
        let ret = unsafe { dpdk_sys::rw_thread_register() };
        if ret != 0 {
            let name = std::thread::current()
                .name()
                .unwrap_or("unnamed")
                .to_owned();
            return Err(ThreadError {
                thread: name,
                errno: Errno::from_negative(ret),
            });
        }
        Ok(RegisteredThread {
            stays_here: PhantomData,
        })
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: this type cannot leave the thread that registered.
        unsafe { dpdk_sys::rw_thread_unregister() };
    }
}

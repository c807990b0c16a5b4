//! Taking what an interface receives away from the kernel's own stack.

use crate::HostError;

/// Drops, for the host's stack, all that the interface receives from now on.
/// Packet sockets still see it. Done twice is done once.
///
/// # Errors
///
/// The kernel's, such as a missing cls_bpf.
pub fn take(index: u32) -> Result<(), HostError> {
    let _ = index;
    todo!()
}

/// Undoes [`take`]. That nothing was taken, or that the interface is gone, is
/// no error.
///
/// # Errors
///
/// The kernel's.
pub fn give_back(index: u32) -> Result<(), HostError> {
    let _ = index;
    todo!()
}

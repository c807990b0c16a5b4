//! What an interface's driver can do with XDP.

use crate::HostError;

/// The driver moves frames between its queues and AF_XDP sockets without copying
/// them (NETDEV_XDP_ACT_XSK_ZEROCOPY of the netdev family). False where the
/// kernel (before 6.3) has no such family.
///
/// # Errors
///
/// As the kernel refuses to tell; no such interface.
pub fn zero_copy(index: u32) -> Result<bool, HostError> {
    let _ = index;
    todo!()
}

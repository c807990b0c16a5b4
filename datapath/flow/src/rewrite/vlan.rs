//! VLAN tags.

use super::{Head, Partial};
use crate::extract::is_tpid;
use crate::key::VLAN_PRESENT;

/// The addresses' bytes, behind which tags are.
const MACS: usize = 12;
/// A tag's bytes.
const TAG: usize = 4;

impl Head<'_> {
    /// Puts a tag in front; an older one becomes the inner one. The TCI's CFI
    /// bit goes out as zero. False: there is no room or no Ethernet header,
    /// and nothing was changed.
    pub fn push_vlan(&mut self, tpid: u16, tci: u16) -> bool {
        let len = self.frame().len();
        if len < MACS + 2 || len + TAG > self.bytes.len() {
            return false;
        }
        self.bytes.copy_within(MACS..len, MACS + TAG);
        *self.len = len + TAG;
        *self.frame_len = self.frame_len.saturating_add(TAG);
        self.put_tag(tpid, tci);
        self.move_partial(|start| start.saturating_add(TAG as u16));
        true
    }

    /// Takes the outer tag away, if there is one.
    pub fn pop_vlan(&mut self) {
        let len = self.frame().len();
        if !self.is_tagged() {
            return;
        }
        self.bytes.copy_within(MACS + TAG..len, MACS);
        *self.len = len - TAG;
        *self.frame_len = self.frame_len.saturating_sub(TAG);
        self.move_partial(|start| start.saturating_sub(TAG as u16));
    }

    /// VID and priority of the outer tag, if there is one. As in Open vSwitch
    /// a tag that changes loses its CFI (DEI) bit, which the key cannot hold.
    pub(super) fn set_tci(&mut self, value: u16, mask: u16) {
        let mask = mask & !VLAN_PRESENT;
        if mask == 0 || !self.is_tagged() {
            return;
        }
        let Some(&[high, low]) = self.bytes.get(MACS + 2..MACS + TAG) else {
            return;
        };
        let old = u16::from_be_bytes([high, low]);
        if (old ^ value) & mask != 0 {
            let new = (old & !mask | value & mask) & !VLAN_PRESENT;
            self.put_u16(MACS + 2, new, 0xffff).ignore();
        }
    }

    /// A tag needs what it tags behind it.
    fn is_tagged(&self) -> bool {
        match self.frame().get(MACS..MACS + TAG + 2) {
            Some(&[high, low, ..]) => is_tpid(u16::from_be_bytes([high, low])),
            _ => false,
        }
    }

    fn put_tag(&mut self, tpid: u16, tci: u16) {
        let tag = u32::from(tpid) << 16 | u32::from(tci & !VLAN_PRESENT);
        self.put_u32(MACS, tag, u32::MAX).ignore();
    }

    /// Sums begin behind tags.
    fn move_partial(&mut self, moved: impl Fn(u16) -> u16) {
        if let Some(Partial { csum_start, .. }) = &mut self.partial
            && usize::from(*csum_start) >= MACS
        {
            *csum_start = moved(*csum_start);
        }
    }
}

//! Where the parts of a split virtqueue lie (VirtIO 1.2, 2.7).

use vm_memory::ByteValued;

use crate::Gpa;

/// A descriptor as it lies in the table: 16 bytes, little endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// `DESC_*` flags.
    pub flags: u16,
    /// Next descriptor of the chain if `DESC_NEXT` is set.
    pub next: u16,
}

/// A descriptor of a packed ring: 16 bytes, little endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Its length in bytes; in a used one, bytes written.
    pub len: u32,
    /// What the driver knows the chain by.
    pub id: u16,
    /// `DESC_*` and `PACKED_*` flags.
    pub flags: u16,
}

/// An element of the used ring: 8 bytes, little endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedElem {
    /// Head descriptor of the chain that the backend is done with.
    pub id: u32,
    /// Bytes it wrote into the chain.
    pub len: u32,
}

/// Guest-physical addresses of one ring's parts, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Descriptor table: 16 bytes per descriptor.
    pub desc: Gpa,
    /// Available ring: flags, idx, entries, used_event; 2 bytes each.
    pub avail: Gpa,
    /// Used ring: flags and idx (2 bytes each), elements of 8, avail_event (2).
    pub used: Gpa,
    /// Descriptors.
    pub size: u16,
}

impl RingLayout {
    /// The parts one after the other from `gpa` on, each on its own cache lines.
    pub fn at(gpa: Gpa, size: u16) -> Self {
        let count = u64::from(size);
        let desc = gpa.next_multiple_of(64);
        let avail = (desc + 16 * count).next_multiple_of(64);
        let used = (avail + 6 + 2 * count).next_multiple_of(64);
        Self {
            desc,
            avail,
            used,
            size,
        }
    }

    /// One past the last byte of the used ring.
    pub fn end(&self) -> Gpa {
        self.avail_event() + 2
    }

    /// Descriptor `index`; may lie beyond the table.
    pub fn descriptor(&self, index: u16) -> Gpa {
        self.desc + 16 * u64::from(index)
    }

    /// `avail.flags`.
    pub fn avail_flags(&self) -> Gpa {
        self.avail
    }

    /// `avail.idx`.
    pub fn avail_idx(&self) -> Gpa {
        self.avail + 2
    }

    /// `avail.ring[slot]`.
    pub fn avail_entry(&self, slot: u16) -> Gpa {
        self.avail + 4 + 2 * u64::from(slot)
    }

    /// `avail.used_event`, behind the entries.
    pub fn used_event(&self) -> Gpa {
        self.avail_entry(self.size)
    }

    /// `used.flags`.
    pub fn used_flags(&self) -> Gpa {
        self.used
    }

    /// `used.idx`.
    pub fn used_idx(&self) -> Gpa {
        self.used + 2
    }

    /// `used.ring[slot]`.
    pub fn used_elem(&self, slot: u16) -> Gpa {
        self.used + 4 + 8 * u64::from(slot)
    }

    /// `used.avail_event`, behind the elements.
    pub fn avail_event(&self) -> Gpa {
        self.used_elem(self.size)
    }
}

mod plain {
    #![allow(unsafe_code)]
    // UNSAFETY: `vm-memory` asks for the promise that a type is plain data.

    use super::{ByteValued, Descriptor, PackedDescriptor, UsedElem};

    // SAFETY: four integers in `repr(C)` without padding (8 + 4 + 2 + 2 = 16
    // bytes, alignment 8); every bit pattern is a value.
    unsafe impl ByteValued for Descriptor {}
    // SAFETY: as above.
    unsafe impl ByteValued for PackedDescriptor {}
    // SAFETY: two u32 in `repr(C)` without padding; every bit pattern is a value.
    unsafe impl ByteValued for UsedElem {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_sizes_and_alignments_of_the_specification() {
        let ring = RingLayout::at(0x1000, 256);
        assert_eq!(ring.desc, 0x1000);
        assert_eq!(ring.avail, 0x2000);
        assert_eq!(ring.used_event(), 0x2000 + 4 + 512);
        assert_eq!(ring.used % 4, 0);
        assert!(ring.used >= ring.used_event() + 2);
        assert_eq!(ring.avail_event(), ring.used + 4 + 8 * 256);
        assert_eq!(ring.end(), ring.avail_event() + 2);
        assert_eq!(size_of::<Descriptor>(), 16);
        assert_eq!(size_of::<UsedElem>(), 8);
    }

    #[test]
    fn an_index_beyond_the_table_is_an_address_beyond_it() {
        let ring = RingLayout::at(0x1000, 16);
        assert_eq!(ring.descriptor(16), ring.avail);
    }
}

//! Groups: which buckets, and each on a copy of the packet.

use std::sync::Arc;

use crate::action::{Bucket, GroupType};
use crate::field::{Field, Subfield};
use crate::key::VLAN_PRESENT;
use crate::pipeline::Group;
use crate::program::DropCause;

use super::fields::{IPV4, IPV6, SCTP, TCP, UDP};
use super::{FRAGMENT, Note, PORTS, Then, Tracer, Way};

impl<'p, T: Tracer> Way<'p, '_, T> {
    /// Does a group's buckets. A group that is not there ends the list.
    #[inline(never)]
    pub(super) fn group(&mut self, id: u32) -> Then {
        self.out.dependencies.groups = true;
        let Some(group) = self.pipeline.group(id) else {
            let note = format_args!("output to nonexistent group {id}");
            self.tracer.note(self.level, Note::Warning, note);
            self.note_cause(DropCause::NoGroup);
            return Then::Stop;
        };
        self.count(group.stats);
        match group.spec.kind {
            GroupType::All | GroupType::Indirect => {
                for index in 0..group.spec.buckets.len() {
                    self.bucket(group, index);
                }
            }
            GroupType::Select => {
                let chosen = self.select(group);
                self.chosen_bucket(group, chosen);
            }
            GroupType::FastFailover => {
                let chosen = self.first_live(group);
                self.chosen_bucket(group, chosen);
            }
        }
        Then::GoOn
    }

    fn chosen_bucket(&mut self, group: &'p Arc<Group>, index: Option<usize>) {
        let bucket = index.and_then(|index| Some((index, group.spec.buckets.get(index)?)));
        match bucket {
            Some((index, bucket)) => {
                self.detail(format_args!("using bucket {}", bucket.id));
                self.bucket(group, index);
            }
            None => {
                self.detail(format_args!("no live bucket"));
                self.note_cause(DropCause::NoLiveBucket);
            }
        }
    }

    /// Does a bucket's actions on a copy of the packet: what they write is
    /// undone for what follows, and `exit` in them ends only them.
    fn bucket(&mut self, group: &'p Arc<Group>, index: usize) {
        if self.exit || self.failed.is_some() {
            return;
        }
        let Some(bucket) = group.spec.buckets.get(index) else {
            return;
        };
        self.tracer.bucket(self.level, bucket.id);
        if !self.may_go_on() {
            return;
        }
        if let Some(cell) = group.bucket_stats.get(index) {
            self.count(*cell);
        }
        let (flow, written, hidden) = (self.out.flow, self.written, self.hidden);
        self.nest(1, |way| way.run_set(&bucket.actions));
        (self.out.flow, self.written, self.hidden) = (flow, written, hidden);
        self.dirty = self.touched != 0;
        self.exit = false;
    }

    /// Whether a bucket is live; says so if not.
    fn is_live(&mut self, bucket: &Bucket) -> bool {
        let live = self.pipeline.is_live(bucket);
        if !live {
            let id = bucket.id;
            match (bucket.watch_port, bucket.watch_group) {
                (Some(port), Some(group)) => self.detail(format_args!(
                    "bucket {id}: not live due to port {port} and group {group}"
                )),
                (Some(port), None) => {
                    self.detail(format_args!("bucket {id}: not live due to port {port}"));
                }
                (None, Some(group)) => {
                    self.detail(format_args!("bucket {id}: not live due to group {group}"));
                }
                (None, None) => self.detail(format_args!("bucket {id}: not live")),
            }
        }
        live
    }

    fn first_live(&mut self, group: &'p Group) -> Option<usize> {
        let mut buckets = group.spec.buckets.iter();
        buckets.position(|bucket| self.is_live(bucket))
    }

    /// The bucket of a select group for this packet: every live bucket draws a
    /// number from the hash, and the one that makes most of it wins. Shares are
    /// as the weights are, and when a bucket goes only its packets move
    /// (weighted rendezvous hashing).
    fn select(&mut self, group: &'p Group) -> Option<usize> {
        let hash = match group.spec.hash_fields.as_slice() {
            [] => self.symmetric_hash(),
            fields => self.hash_of(fields),
        };
        let mut best: Option<(f64, usize)> = None;
        for (index, bucket) in group.spec.buckets.iter().enumerate() {
            if bucket.weight == 0 || !self.is_live(bucket) {
                continue;
            }
            // In (0, 1): 53 bits, and never an end.
            let drawn = (mix(hash, bucket.id.into()) >> 11) as f64 + 0.5;
            let drawn = drawn / (1_u64 << 53) as f64;
            let score = f64::from(bucket.weight) / -drawn.ln();
            self.detail(format_args!("bucket {}: score {score:.3}", bucket.id));
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// MAC addresses, VLANs, IP addresses, protocol and ports, the same both
    /// ways. Fragments hash without ports, so that all of a packet stay together.
    fn symmetric_hash(&mut self) -> u64 {
        const MAC: u64 = 0xffff_ffff_ffff << 16;
        let vlan = 0x0fff | u64::from(VLAN_PRESENT);
        let mut hash = mix(0, self.read(1, MAC) ^ self.read(2, MAC));
        if self.has_tag() {
            let tags = self.read(1, vlan) ^ self.read(2, vlan);
            hash = mix(hash, tags);
        }
        let dl_type = self.dl_type();
        hash = mix(hash, dl_type);
        match dl_type {
            IPV4 => {
                let both = self.read(3, u64::MAX);
                hash = mix(hash, both >> 32 ^ both & 0xffff_ffff);
            }
            IPV6 => {
                for (src, dst) in [(8, 10), (9, 11)] {
                    hash = mix(hash, self.read(src, u64::MAX) ^ self.read(dst, u64::MAX));
                }
            }
            _ => return hash,
        }
        let protocol = self.nw_proto();
        hash = mix(hash, protocol);
        if matches!(protocol, TCP | UDP | SCTP) && self.read(0, FRAGMENT) == 0 {
            let ports = self.read(4, PORTS);
            hash = mix(hash, ports >> 48 ^ ports >> 32 & 0xffff);
        }
        hash
    }

    /// The fields that the packet has, of those named.
    fn hash_of(&mut self, fields: &[Field]) -> u64 {
        let mut hash = 0;
        for field in fields {
            if self.has(field.info().prereq) {
                let value = self.read_field(Subfield::whole(*field));
                hash = mix(mix(hash, value as u64), (value >> 64) as u64);
            }
        }
        hash
    }
}

/// Stirs a value into a hash (the finalizer of MurmurHash3).
fn mix(hash: u64, value: u64) -> u64 {
    let mut hash = hash.rotate_left(5) ^ value;
    hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

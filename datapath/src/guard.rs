//! Stage 2: whether a packet may come in on its port at all. Only for ports
//! that have a guard; what does not pass ends here, before anything is learned
//! or looked up.
//!
//! ```text
//! rx ─┬─ no guard ───────────────────────────────────────┬─▶ parse
//!     └─ guard: MAC ─▶ VLAN ─▶ IP, ARP, ND ─▶ rates ─────┘
//! ```
//!
//! What cannot be told does not pass: a port with allowed IP addresses sends
//! IPv4, IPv6 and ARP only, with headers that are read to the end.
//!
//! Frames to many have a rate of their own ([`PortView::storm`]): whether a
//! frame is one is known when it is flooded, so it is asked then.
//!
//! [`PortView::storm`]: crate::snapshot::PortView::storm

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ringway_flow::extract::{self, HEAD_BYTES, extract};
use ringway_flow::key::PacketKey;
use ringway_vhost::{BURST, Packets};

use crate::drop_reason::DropReason;
use crate::meter::{KILOBIT, TokenBucket};
use crate::spec::{GuardSpec, RateSpec};
use crate::vlan::{Tags, VlanSet};

#[cfg(test)]
mod tests;

const ICMPV6: u64 = 58;
const UDP: u64 = 17;
/// Bits of `nw_frag`: a fragment, and not the first one.
const FRAG_ANY: u64 = 1;
const FRAG_LATER: u64 = 2;
/// ICMPv6: neighbour solicitation and advertisement (RFC 4861).
const ND_SOLICIT: u64 = 135;
const ND_ADVERT: u64 = 136;
/// ICMPv6 that is sent before there is an address: queries and reports of
/// listeners (RFC 2710, 3810), router solicitation (RFC 4861), and a neighbour
/// solicitation to see whether the address is free (RFC 4862).
const FROM_NOWHERE: [u64; 4] = [131, 133, ND_SOLICIT, 143];
/// Ports of a DHCP client and of its server.
const DHCP: (u64, u64) = (68, 67);

/// A port's guard.
#[derive(Debug, Default)]
pub struct Guard {
    /// In order; in the upper 48 bits.
    macs: Box<[u64]>,
    vlans: Option<VlanSet>,
    ips: Option<Addresses>,
    bytes: Option<TokenBucket>,
    packets: Option<TokenBucket>,
}

/// IP addresses that packets may come from.
#[derive(Debug, Default)]
struct Addresses {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl Addresses {
    /// The addresses given, and the link-local ones that stations make of the
    /// MAC addresses given (RFC 4291, appendix A).
    fn of(ips: &[IpNet], macs: &[[u8; 6]]) -> Self {
        let mut addresses = Self::default();
        for ip in ips {
            match ip {
                IpNet::V4(net) => addresses.v4.push(*net),
                IpNet::V6(net) => addresses.v6.push(*net),
            }
        }
        let own = macs.iter().map(|mac| Ipv6Net::from(link_local(*mac)));
        addresses.v6.extend(own);
        addresses
    }

    fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.iter().any(|net| net.contains(&address)),
            IpAddr::V6(address) => self.v6.iter().any(|net| net.contains(&address)),
        }
    }
}

fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let low = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from(0xfe80 << 112 | u128::from(u64::from_be_bytes(low)))
}

/// A MAC address in the upper bits.
fn mac_bits([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([a, b, c, d, e, f, 0, 0])
}

/// What is asked of a port, as a token bucket; `None`: nothing.
fn bucket(spec: RateSpec, usual: u32, units: u64, hz: u64) -> Option<TokenBucket> {
    let burst = match spec.burst {
        0 => usual,
        burst => burst,
    };
    let scaled = |number: u32| u64::from(number) * units;
    (spec.rate > 0).then(|| TokenBucket::new(scaled(spec.rate), scaled(burst), hz))
}

/// The rate of a port's frames to many. `None`: they may be any number.
pub fn storm_bucket(spec: &GuardSpec, hz: u64) -> Option<TokenBucket> {
    bucket(spec.storm, spec.storm_burst(), 1, hz)
}

impl Guard {
    /// Of a port with this `spec`. `None`: whatever it sends passes.
    pub fn of(spec: &GuardSpec, hz: u64) -> Option<Self> {
        let mut macs: Box<[u64]> = spec.allowed_macs.iter().copied().map(mac_bits).collect();
        macs.sort_unstable();
        let given = |is_given: bool| is_given.then_some(());
        let guard = Self {
            vlans: given(!spec.allowed_vlans.is_empty())
                .map(|()| VlanSet::of(spec.allowed_vlans.iter().copied())),
            ips: given(!spec.allowed_ips.is_empty())
                .map(|()| Addresses::of(&spec.allowed_ips, &spec.allowed_macs)),
            bytes: bucket(spec.ingress_kbits, GuardSpec::KBITS_BURST, KILOBIT, hz),
            packets: bucket(spec.ingress_kpkts, GuardSpec::KPKTS_BURST, 1000, hz),
            macs,
        };
        let asks = !guard.macs.is_empty()
            || guard.vlans.is_some()
            || guard.ips.is_some()
            || guard.bytes.is_some()
            || guard.packets.is_some();
        asks.then_some(guard)
    }

    /// Those packets of a list that may pass, in order; `refused` is told of
    /// every other.
    pub fn admit(
        &self,
        list: &[u8],
        packets: &Packets<'_>,
        now: u64,
        mut refused: impl FnMut(u8, DropReason),
    ) -> ArrayVec<u8, BURST> {
        let mut passed = ArrayVec::new();
        for index in list {
            let place = usize::from(*index);
            let len = packets.head(place).len();
            let frame_len = packets.frame_len(place);
            let why = self
                .spoofs(packets.head_slot(place), len, frame_len)
                .or_else(|| self.is_beyond_rate(frame_len, now));
            match why {
                None => passed.push(*index),
                Some(reason) => refused(*index, reason),
            }
        }
        passed
    }

    fn is_beyond_rate(&self, frame_len: usize, now: u64) -> Option<DropReason> {
        let takes = |bucket: &Option<TokenBucket>, units: u64| {
            bucket
                .as_ref()
                .is_none_or(|bucket| bucket.takes(units, now))
        };
        // One that is beyond the rate of packets uses up no bytes.
        let passes = takes(&self.packets, 1) && takes(&self.bytes, frame_len as u64);
        (!passes).then_some(DropReason::IngressPoliced)
    }

    /// Why a frame, of which `len` bytes are in `head`, is not one that the port
    /// may send.
    fn spoofs(&self, head: &[u8; HEAD_BYTES], len: usize, frame_len: usize) -> Option<DropReason> {
        let bytes = &head[..len.min(HEAD_BYTES)];
        if !self.macs.is_empty() {
            let source = bytes.get(6..12).and_then(|mac| mac.first_chunk());
            if !source.is_some_and(|mac| self.allows_mac(mac_bits(*mac))) {
                return Some(DropReason::SpoofedMac);
            }
        }
        if let Some(vlans) = &self.vlans
            && !Tags::read(bytes).is_some_and(|tags| tags.are_in(vlans))
        {
            return Some(DropReason::SpoofedVlan);
        }
        // IPv4 says no MAC address but the frame's own.
        let is_ipv4 = || bytes.get(12..14) == Some(&extract::IPV4.to_be_bytes()[..]);
        if self.ips.is_none() && (self.macs.is_empty() || is_ipv4()) {
            return None;
        }
        let mut key = PacketKey::default();
        extract(head, len, frame_len, 0, 0, &mut key);
        self.spoofs_inside(&key)
    }

    /// The same of a packet with this key, for who wants to know: not asked are
    /// rates.
    pub fn refuses(&self, key: &PacketKey) -> Option<DropReason> {
        let is_own = self.macs.is_empty() || self.allows_mac(key.0[2] & !0xffff);
        let vlans = self.vlans.as_ref();
        match (is_own, vlans) {
            (false, _) => Some(DropReason::SpoofedMac),
            (_, Some(vlans)) if !Tags::of_key(key).are_in(vlans) => Some(DropReason::SpoofedVlan),
            _ => self.spoofs_inside(key),
        }
    }

    /// What the packet says of its sender behind its Ethernet header.
    fn spoofs_inside(&self, key: &PacketKey) -> Option<DropReason> {
        let sender = Sender::of(key);
        if !self.macs.is_empty() && sender.macs.iter().any(|mac| !self.allows_mac(*mac)) {
            return Some(DropReason::SpoofedMac);
        }
        match &self.ips {
            Some(ips) if !sender.is_within(ips) => Some(DropReason::SpoofedIp),
            _ => None,
        }
    }

    #[inline]
    fn allows_mac(&self, mac: u64) -> bool {
        self.macs.binary_search(&mac).is_ok()
    }
}

/// What a packet says of its sender.
struct Sender {
    /// MAC addresses other than the frame's source.
    macs: ArrayVec<u64, 2>,
    ip: SenderIp,
    /// The address whose owner it says to be.
    target: Option<IpAddr>,
}

enum SenderIp {
    /// It cannot be told.
    Unknown,
    /// It has none yet, and asks for one or whether it is free.
    NotYet,
    Is(IpAddr),
}

impl Sender {
    /// Of a packet with this key (its words: [`ringway_flow::key`]).
    fn of(key: &PacketKey) -> Self {
        let words = &key.0;
        let (proto, frag) = (words[0] & 0xff, words[0] >> 8 & 0xff);
        let ports = (words[4] >> 48, words[4] >> 32 & 0xffff);
        let mut sender = Self {
            macs: ArrayVec::new(),
            ip: SenderIp::Unknown,
            target: None,
        };
        match (words[0] >> 16) as u16 {
            extract::ARP | extract::RARP => {
                // One that is not about Ethernet and IPv4 has no sender here.
                sender.macs.push(words[6]);
                sender.ip = match Ipv4Addr::from((words[3] >> 32) as u32) {
                    _ if words[6] == 0 => SenderIp::Unknown,
                    // RFC 5227, 2.1.1.
                    Ipv4Addr::UNSPECIFIED => SenderIp::NotYet,
                    address => SenderIp::Is(address.into()),
                };
            }
            extract::IPV4 => {
                sender.ip = match Ipv4Addr::from((words[3] >> 32) as u32) {
                    Ipv4Addr::UNSPECIFIED if (proto, frag, ports) == (UDP, 0, DHCP) => {
                        SenderIp::NotYet
                    }
                    // Also of headers that make no sense.
                    Ipv4Addr::UNSPECIFIED => SenderIp::Unknown,
                    address => SenderIp::Is(address.into()),
                };
            }
            extract::IPV6 => {
                let kind = ports.0;
                let source = u128::from(words[8]) << 64 | u128::from(words[9]);
                let target = u128::from(words[12]) << 64 | u128::from(words[13]);
                let is_first = frag & FRAG_LATER == 0;
                let is_icmp = proto == ICMPV6 && is_first;
                sender.ip = match Ipv6Addr::from(source) {
                    // The headers do not end within what is looked at: there may
                    // be an advertisement behind them.
                    _ if proto == 0 || is_icmp && words[4] >> 32 == 0 => SenderIp::Unknown,
                    Ipv6Addr::UNSPECIFIED if is_icmp && FROM_NOWHERE.contains(&kind) => {
                        SenderIp::NotYet
                    }
                    Ipv6Addr::UNSPECIFIED => SenderIp::Unknown,
                    address => SenderIp::Is(address.into()),
                };
                if is_icmp && matches!(kind, ND_SOLICIT | ND_ADVERT) {
                    let given = [words[6], words[7]].into_iter().filter(|mac| *mac != 0);
                    sender.macs.extend(given);
                    if kind == ND_ADVERT {
                        sender.target = Some(Ipv6Addr::from(target).into());
                    }
                    // Nobody may cut neighbour discovery (RFC 6980).
                    if frag & FRAG_ANY != 0 {
                        sender.ip = SenderIp::Unknown;
                    }
                }
            }
            _ => {}
        }
        sender
    }

    fn is_within(&self, ips: &Addresses) -> bool {
        let is_own = match self.ip {
            SenderIp::Unknown => false,
            SenderIp::NotYet => true,
            SenderIp::Is(address) => ips.has(address),
        };
        is_own && self.target.is_none_or(|target| ips.has(target))
    }
}

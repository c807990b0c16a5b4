#!/usr/bin/env python3
"""Writes mixed.pcap: what one host's NIC receives in a small office network.

    pip install scapy && ./make-capture.py mixed.pcap

Every frame comes from a neighbour and goes to the guest, to a group or to all,
so that a learning switch with the guest on another port delivers every one.
"""

import random
import sys

from scapy.all import (
    ARP, BOOTP, DHCP, DNS, DNSQR, DNSRR, ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether,
    ICMPv6EchoReply, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr, IPv6, Raw, SCTP, VXLAN, fragment, wrpcap,
)

GUEST, ROUTER, SERVER, PRINTER = (f"02:00:00:00:00:{n:02x}" for n in (0x01, 0xFE, 0x20, 0x21))
GUEST4, ROUTER4, SERVER4 = "10.0.0.5", "10.0.0.1", "10.0.0.20"
GUEST6, SERVER6, ROUTER6 = "fd00::5", "fd00::20", "fe80::fe"

random.seed(1518)
blob = random.randbytes


def from_server(packet):
    return Ether(src=SERVER, dst=GUEST) / packet


def tcp_session():
    """The server's half of an HTTP download, with options, loss and FIN."""
    ip = IP(src=SERVER4, dst=GUEST4, ttl=63)
    seq = 0x10000000
    yield ip / TCP(sport=80, dport=51000, flags="SA", seq=seq, ack=1,
                   options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0)), ("NOP", None), ("WScale", 7)])
    yield ip / TCP(sport=80, dport=51000, flags="A", seq=seq + 1, ack=120)
    seq += 1
    for size in (1448, 1448, 1448, 537):
        yield ip / TCP(sport=80, dport=51000, flags="PA", seq=seq, ack=120,
                       options=[("NOP", None), ("NOP", None), ("Timestamp", (9, 8))]) / Raw(blob(size))
        seq += size
    yield ip / TCP(sport=80, dport=51000, flags="PA", seq=seq - 537, ack=120) / Raw(blob(537))
    yield ip / TCP(sport=80, dport=51000, flags="FA", seq=seq, ack=121)
    yield ip / TCP(sport=81, dport=51001, flags="RA", seq=0, ack=9)


frames = [
    Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=ROUTER, psrc=ROUTER4, pdst=GUEST4),
    Ether(src=SERVER, dst=GUEST) / ARP(op=2, hwsrc=SERVER, psrc=SERVER4, hwdst=GUEST, pdst=GUEST4) / Raw(bytes(18)),
    # Gratuitous ARP, padded to the 60 bytes that a NIC sees.
    Ether(src=PRINTER, dst="ff:ff:ff:ff:ff:ff")
    / ARP(op=1, hwsrc=PRINTER, psrc="10.0.0.21", pdst="10.0.0.21") / Raw(bytes(18)),
]
for kind in ("offer", "ack"):
    frames.append(
        Ether(src=ROUTER, dst=GUEST) / IP(src=ROUTER4, dst=GUEST4) / UDP(sport=67, dport=68)
        / BOOTP(op=2, yiaddr=GUEST4, siaddr=ROUTER4, chaddr=bytes.fromhex(GUEST.replace(":", "")), xid=0x1D1D)
        / DHCP(options=[("message-type", kind), ("server_id", ROUTER4), ("lease_time", 3600),
                        ("subnet_mask", "255.255.255.0"), ("router", ROUTER4), ("name_server", ROUTER4), "end"]))
frames.append(  # another host's DISCOVER, heard because it is broadcast
    Ether(src=PRINTER, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    / UDP(sport=68, dport=67) / BOOTP(chaddr=bytes.fromhex(PRINTER.replace(":", "")), xid=0x2E2E)
    / DHCP(options=[("message-type", "discover"), "end"]))
frames += [
    Ether(src=ROUTER, dst=GUEST) / IP(src=ROUTER4, dst=GUEST4, proto=17) / UDP(sport=53, dport=40000)
    / DNS(id=7, qr=1, qd=DNSQR(qname="www.example.org"), an=DNSRR(rrname="www.example.org", rdata=SERVER4)),
    Ether(src=ROUTER, dst=GUEST) / IPv6(src=ROUTER6, dst=GUEST6) / UDP(sport=53, dport=40001)
    / DNS(id=8, qr=1, rcode=3, qd=DNSQR(qname="nowhere.example.org", qtype="AAAA")),
    Ether(src=PRINTER, dst="01:00:5e:00:00:fb") / IP(src="10.0.0.21", dst="224.0.0.251", ttl=255)
    / UDP(sport=5353, dport=5353) / DNS(qr=1, an=DNSRR(rrname="printer.local", rdata="10.0.0.21")),
]
frames += [from_server(packet) for packet in tcp_session()]
frames += [
    from_server(IP(src=SERVER4, dst=GUEST4) / ICMP(type=0, id=1, seq=1) / Raw(blob(56))),
    Ether(src=ROUTER, dst=GUEST) / IP(src=ROUTER4, dst=GUEST4) / ICMP(type=3, code=4, nexthopmtu=1400)
    / IP(src=GUEST4, dst=SERVER4) / UDP(sport=1, dport=2),
    from_server(IP(src=SERVER4, dst=GUEST4, tos=0xB8) / UDP(sport=5004, dport=5004) / Raw(blob(172))),
    from_server(IP(src=SERVER4, dst=GUEST4) / UDP(sport=9, dport=9, chksum=0) / Raw(b"")),
    from_server(IP(src=SERVER4, dst=GUEST4) / SCTP(sport=36412, dport=36412) / Raw(blob(40))),
    from_server(IP(src=SERVER4, dst=GUEST4, options=[]) / UDP(sport=4789, dport=4789) / VXLAN(vni=42)
                / Ether(src=PRINTER, dst=GUEST) / IP(src="10.1.0.1", dst="10.1.0.2") / ICMP()),
]
frames += [from_server(part) for part in
           fragment(IP(src=SERVER4, dst=GUEST4, id=77) / UDP(sport=2049, dport=700) / Raw(blob(4000)), fragsize=1480)]
frames += [
    Ether(src=ROUTER, dst="33:33:00:00:00:01") / IPv6(src=ROUTER6, dst="ff02::1", hlim=255)
    / ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="fd00::", prefixlen=64) / ICMPv6NDOptSrcLLAddr(lladdr=ROUTER),
    Ether(src=SERVER, dst="33:33:ff:00:00:05") / IPv6(src=SERVER6, dst="ff02::1:ff00:5", hlim=255)
    / ICMPv6ND_NS(tgt=GUEST6) / ICMPv6NDOptSrcLLAddr(lladdr=SERVER),
    from_server(IPv6(src=SERVER6, dst=GUEST6, hlim=255) / ICMPv6ND_NA(tgt=SERVER6)),
    from_server(IPv6(src=SERVER6, dst=GUEST6) / ICMPv6EchoReply(id=3, seq=4, data=blob(1392))),
    from_server(IPv6(src=SERVER6, dst=GUEST6, fl=0xBEEF) / TCP(sport=443, dport=52000, flags="PA") / Raw(blob(1428))),
    from_server(Dot1Q(vlan=100, prio=5) / IP(src="10.100.0.20", dst="10.100.0.5") / UDP(sport=5060, dport=5060)
                / Raw(blob(300))),
    from_server(Dot1Q(vlan=100) / IP(src="10.100.0.20", dst="10.100.0.5") / TCP(sport=80, dport=51002, flags="A")
                / Raw(blob(1460))),
    from_server(Dot1AD(vlan=200) / Dot1Q(vlan=100) / IPv6(src=SERVER6, dst=GUEST6) / UDP(sport=6, dport=6)),
    Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=200)
    / ARP(op=1, hwsrc=ROUTER, psrc="10.200.0.1", pdst="10.200.0.5"),
    # Neither IP nor anything that a switch knows: an experimental EtherType.
    Ether(src=SERVER, dst=GUEST, type=0x88B5) / Raw(blob(46)),
    # IEEE 802.3 length instead of a type, and LLC.
    Ether(src=PRINTER, dst="01:00:0c:cc:cc:cc", type=46) / Raw(bytes.fromhex("aaaa0300000c2000") + blob(38)),
    from_server(IP(src=SERVER4, dst=GUEST4) / UDP(sport=7, dport=7) / Raw(blob(1472))),
]

# Evenly spaced times: the file is the same on every machine.
for index, frame in enumerate(frames):
    frame.time = 1_700_000_000 + index / 1000
wrpcap(sys.argv[1], frames, linktype=1)
print(f"{len(frames)} frames, {min(map(len, frames))} to {max(map(len, frames))} bytes")

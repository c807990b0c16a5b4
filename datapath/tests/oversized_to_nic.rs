//! A guest's oversized frames leave by a DPDK device that cannot cut them:
//! net_pcap, whose file has right segments, counted as such.

use std::time::{Duration, Instant};

use ringway_datapath::Datapath;
use ringway_datapath::spec::{
    BridgeSpec, DatapathConfig, DpdkSpec, PortKind, PortSpec, SocketMode, VhostUserSpec,
};
use ringway_frontend::net::{Buffers, HEADER_LEN};
use ringway_frontend::{NetDriver, Session, SessionConfig, features};
use ringway_vhost::VnetHeader;
use ringway_vhost::gso::naive::Flow;

fn bytes(header: VnetHeader) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    (bytes[0], bytes[1]) = (header.flags, header.gso_type);
    let words = [
        header.hdr_len,
        header.gso_size,
        header.csum_start,
        header.csum_offset,
    ];
    for (place, word) in bytes[2..10].chunks_mut(2).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The frames of a capture file (libpcap's format, this machine's byte order).
fn frames(capture: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &capture[24..];
    let mut frames = Vec::new();
    while let Some((record, behind)) = rest.split_first_chunk::<16>() {
        let len = u32::from_ne_bytes([record[8], record[9], record[10], record[11]]) as usize;
        frames.push(behind[..len].to_vec());
        rest = &behind[len..];
    }
    frames
}

#[test]
fn a_device_without_segmentation_gets_segments() {
    let core = core_affinity::get_core_ids()
        .and_then(|cores| cores.last().map(|core| core.id))
        .expect("a CPU");
    let config = DatapathConfig {
        pmd_cores: vec![core],
        ..DatapathConfig::default()
    };
    let datapath = Datapath::start_on(dpdk::Eal::for_tests(), config).expect("datapath");
    let folder = tempfile::tempdir().expect("folder");
    datapath.add_bridge(BridgeSpec::new("br0")).expect("bridge");
    let capture = folder.path().join("out.pcap");
    let devargs = format!("net_pcap7,tx_pcap={}", capture.display());
    let nic = PortKind::Dpdk(DpdkSpec::new(devargs));
    datapath
        .add_port(PortSpec::new("p0", "br0", nic))
        .expect("port");
    let path = folder.path().join("vm1");
    let guest = PortKind::VhostUser(VhostUserSpec {
        path: path.clone(),
        mode: SocketMode::Server,
        queues: 1,
        owner: None,
        permissions: None,
        features: ringway_datapath::spec::GUEST_FEATURES,
    });
    datapath
        .add_port(PortSpec::new("vm1", "br0", guest))
        .expect("port");
    let session = Session::connect_within(&path, Duration::from_secs(10)).expect("socket");
    let wanted = features::CSUM | features::HOST_TSO4 | features::HOST_TSO6 | features::HOST_USO;
    let mut config = SessionConfig {
        ring_size: 64,
        ..SessionConfig::default()
    };
    config.features |= wanted;
    config.required |= wanted;
    let guest = session.bring_up(&config).expect("guest");
    let buffers = Buffers {
        transmit: 66_000,
        ..Buffers::default()
    };
    let mut guest = NetDriver::with_buffers(guest, buffers).expect("driver");

    let payload = |len: u32| (0..len).map(|i| (i * 7) as u8).collect::<Vec<_>>();
    let mut expected = Vec::new();
    for (is_ipv6, tcp, len, size) in [
        (false, true, 64_000, 1448),
        (true, true, 20_001, 1400),
        // More than fits the device's MTU of 1500: 1460 and 1440 do.
        (false, true, 9_000, 3000),
        (true, true, 9_000, 3000),
        (false, false, 5_000, 1400),
        (true, false, 1_000, 1200),
    ] {
        let mut flow = Flow::new(is_ipv6, tcp, size, payload(len));
        flow.tags = vec![0x8100_0005];
        assert!(guest.send_with_header(0, &bytes(flow.header(false)), &flow.oversized(false)));
        let most = if is_ipv6 { 1440 } else { 1460 };
        expected.extend(flow.segments(usize::from(size).min(most)));
    }
    assert!(guest.flush(0, Duration::from_secs(10)), "taken");
    let deadline = Instant::now() + Duration::from_secs(10);
    let counters = loop {
        let counters = datapath.pmds()[0].counters.clone();
        if counters.transmitted >= expected.len() as u64 || Instant::now() > deadline {
            break counters;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(counters.dropped, []);
    assert_eq!(counters.received, 6);
    assert_eq!(counters.transmitted, expected.len() as u64);
    assert_eq!(counters.replicated, expected.len() as u64 - 6);
    datapath.del_port("p0").expect("removed");
    let got = frames(&std::fs::read(&capture).expect("the capture"));
    for (nth, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "frame {nth}");
    }
    assert_eq!(got.len(), expected.len());
}

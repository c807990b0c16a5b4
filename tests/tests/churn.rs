//! Ports and guests that come and go for hours: nothing leaks, and nobody else
//! notices. `RINGWAY_CHURN` is how many cycles (`make soak`: 10,000).

use ringway_frontend::{NetDriver, SessionConfig};
use ringway_tests::daemon::Daemon;
use ringway_tests::machine;
use ringway_tests::numbered::{Layout, Listens, Numbered};
use ringway_tests::qemu::{Guest, GuestOptions, Listener, Nic};
use ringway_tests::scripted;

/// Cycles of the short form.
const SHORT: u32 = 150;
/// Resident memory that may come with the first rounds: allocators keep some.
const SLACK_KIB: u64 = 4096;

fn cycles() -> u32 {
    let asked = std::env::var("RINGWAY_CHURN").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(SHORT)
}

/// Descriptors, KiB resident, KiB of hugepages.
fn size(daemon: &mut Daemon) -> (usize, u64, u64) {
    let process = daemon.process();
    (
        process.open_fds().unwrap(),
        process.rss_kib().unwrap(),
        process.hugetlb_kib().unwrap(),
    )
}

#[test]
fn ports_and_guests_come_and_go_and_nothing_leaks() {
    let _alone = machine::exclusive().unwrap();
    let mut daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
    for port in ["by1", "by2", "still"] {
        daemon.add_vhost_port("br0", port, &[]).unwrap();
    }
    let mut traffic = Numbered::start(
        &daemon,
        ["by1", "by2"],
        [1, 2],
        Listens::Switch,
        Layout::Split,
    )
    .unwrap();
    let config = SessionConfig {
        memory_size: 4 << 20,
        ..SessionConfig::default()
    };
    let plug_in = |daemon: &Daemon, port: &str, number: u32| {
        let session = scripted::connect(daemon, port).unwrap();
        let guest = session.bring_up(&config).unwrap();
        let mut driver = NetDriver::new(guest).unwrap();
        // Everyone hears of it, and a station is learned.
        assert!(driver.send(0, &scripted::frame(0xff, 0x80, 100, number)));
    };
    let mut first = None;
    for number in 0..cycles() {
        // A port comes, its guest talks, one of them goes before the other.
        daemon.add_vhost_port("br0", "churn", &[]).unwrap();
        plug_in(&daemon, "churn", number);
        daemon.ok(&["del-port", "br0", "churn"]).unwrap();
        // A guest comes and goes on a port that stays, several times.
        for _ in 0..3 {
            plug_in(&daemon, "still", number);
        }
        if number == 20 {
            daemon.wait_state("still", "waiting-for-socket").unwrap();
            first = Some(size(&mut daemon));
        }
        if number % 1000 == 999 {
            println!("{} cycles: {:?}", number + 1, size(&mut daemon));
            traffic.go_on(1000).unwrap();
        }
    }
    daemon.wait_state("still", "waiting-for-socket").unwrap();
    let (first, last) = (first.unwrap(), size(&mut daemon));
    println!("{} cycles: from {first:?} to {last:?}", cycles());
    assert_eq!(first.0, last.0, "descriptors leak");
    assert_eq!(first.2, last.2, "hugepages leak");
    assert!(
        last.1 <= first.1 + SLACK_KIB,
        "memory leaks: {first:?} {last:?}"
    );
    traffic.go_on(1000).unwrap();
    let outcome = traffic.end().unwrap();
    println!("bystanders: {outcome:?}");
    outcome.assert_clean();
    assert_eq!((outcome.lost(), outcome.reconnects), (0, 0), "{outcome:?}");
    assert!(daemon.settled_balance().unwrap().holds());
}

#[test]
fn a_guest_that_reboots_again_and_again_leaks_nothing() {
    let _alone = machine::exclusive().unwrap();
    let mut daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0", "--no-internal"]).unwrap();
    for port in ["by1", "by2"] {
        daemon.add_vhost_port("br0", port, &[]).unwrap();
    }
    let socket = daemon.add_vhost_port("br0", "vm1", &[]).unwrap();
    let nic = Nic::new(socket, Listener::Switch, 9);
    let mut guest = Guest::start(&GuestOptions::new("vm1", nic), daemon.dir()).unwrap();
    let mut traffic = Numbered::start(
        &daemon,
        ["by1", "by2"],
        [1, 2],
        Listens::Switch,
        Layout::Split,
    )
    .unwrap();
    let mut sizes = Vec::new();
    guest.wait_ready().unwrap();
    for _ in 0..2 + cycles() / SHORT {
        guest.configure("10.0.0.9/24").unwrap();
        daemon.wait_state("vm1", "forwarding").unwrap();
        // Nobody answers; what matters is that its rings have run.
        guest.run("ping -c 1 -W 1 10.0.0.1").unwrap();
        sizes.push(size(&mut daemon));
        guest.reboot().unwrap();
    }
    println!("{sizes:?}");
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    assert_eq!(
        (first.0, first.2),
        (last.0, last.2),
        "something leaks: {sizes:?}"
    );
    assert!(last.1 <= first.1 + SLACK_KIB, "memory leaks: {sizes:?}");
    let outcome = traffic.end().unwrap();
    println!("bystanders: {outcome:?}");
    outcome.assert_clean();
    assert_eq!(outcome.lost(), 0, "{outcome:?}");
}

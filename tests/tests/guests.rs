//! Real Linux guests under QEMU talk through ringway, and come and go as
//! guests do.

use std::time::Duration;

use ringway_tests::counters;
use ringway_tests::daemon::Daemon;
use ringway_tests::machine::{self, Exclusive};
use ringway_tests::qemu::{Guest, GuestOptions, Listener, Nic};
use ringway_tests::testpmd::{Forward, Testpmd, VirtioUser};
use ringway_tests::wait;

const FILE_KIB: u32 = 2048;

/// A daemon with bridge br0 and the lock that no other test runs.
fn bridge() -> (Daemon, Exclusive) {
    let alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    (daemon, alone)
}

fn mode(listener: Listener) -> &'static str {
    match listener {
        Listener::Switch => "mode=server",
        Listener::Qemu => "mode=client",
    }
}

/// The address of the guest whose name ends in this digit.
fn address(name: &str) -> String {
    format!("10.0.0.{}", last_digit(name))
}

fn last_digit(name: &str) -> u8 {
    name.as_bytes()[name.len() - 1] - b'0'
}

/// Adds a port for a guest; its device with QEMU's defaults.
fn add_port(daemon: &Daemon, name: &str, listener: Listener) -> Nic {
    let socket = daemon
        .add_vhost_port("br0", name, &[mode(listener), "queues=1"])
        .unwrap();
    Nic::new(socket, listener, last_digit(name))
}

fn configure(guest: &mut Guest) {
    let address = format!("{}/24", address(guest.name()));
    guest.configure(&address).unwrap();
}

/// Boots guests named vm1 … side by side, each with its port and address.
fn boot<const N: usize>(daemon: &Daemon, listener: Listener) -> [Guest; N] {
    boot_with(daemon, listener, |_| {})
}

/// The same, with devices that are changed before.
fn boot_with<const N: usize>(
    daemon: &Daemon,
    listener: Listener,
    change: impl Fn(&mut Nic),
) -> [Guest; N] {
    let mut guests: [Guest; N] = std::array::from_fn(|index| {
        let name = format!("vm{}", index + 1);
        let mut nic = add_port(daemon, &name, listener);
        change(&mut nic);
        Guest::start(&GuestOptions::new(&name, nic), daemon.dir()).unwrap()
    });
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        configure(guest);
    }
    for guest in &guests {
        daemon.wait_state(guest.name(), "forwarding").unwrap();
    }
    guests
}

/// `from` reaches `to`, then gets every one of some pings and a whole file.
fn talk(from: &mut Guest, to: &mut Guest) {
    let peer = address(to.name());
    from.reach(&peer).unwrap();
    assert_eq!(from.ping(&peer, 3, 56).unwrap(), 3, "pings are lost");
    assert_eq!(from.ping(&peer, 3, 1400).unwrap(), 3, "long pings are lost");
    let served = to.serve_file(FILE_KIB).unwrap();
    assert_eq!(from.fetch_file(&peer).unwrap(), served, "the file changed");
}

/// A pair of fast guests on a bridge of their own, whose packets go round and
/// round; none may be lost while other ports come and go.
struct Bystanders(Testpmd);

impl Bystanders {
    fn start(daemon: &Daemon) -> Self {
        daemon.ok(&["add-br", "by0"]).unwrap();
        let ports = [("by1", 1), ("by2", 2)].map(|(name, last_byte)| {
            let socket = daemon
                .add_vhost_port("by0", name, &["mode=server"])
                .unwrap();
            VirtioUser::new(socket, last_byte)
        });
        let mut testpmd =
            Testpmd::start("bystanders", &ports, Forward::Mac, 64, daemon.dir()).unwrap();
        daemon.wait_forwarding(&["by1", "by2"]).unwrap();
        testpmd.start_with_bursts(1).unwrap();
        testpmd.wait_received(1000).unwrap();
        Self(testpmd)
    }

    /// Packets still go round, and the switch dropped none of them.
    fn undisturbed(&mut self, daemon: &Daemon) {
        self.0.wait_received(1000).unwrap();
        for name in ["by1", "by2"] {
            let port = daemon.port(name).unwrap();
            assert_eq!((port.rx_dropped, port.tx_dropped), (0, 0), "{port:?}");
        }
    }
}

#[test]
fn guests_ping_and_move_files_both_ways() {
    let (daemon, _alone) = bridge();
    let [mut vm1, mut vm2] = boot(&daemon, Listener::Switch);
    talk(&mut vm1, &mut vm2);
    talk(&mut vm2, &mut vm1);

    let shown = daemon.json(&["fdb", "show", "br0"]).unwrap();
    let learned = counters::list(&shown, "entries").unwrap();
    assert_eq!(learned.len(), 2, "{shown}");
    for guest in ["vm1", "vm2"] {
        let mac = format!("52:54:00:00:00:{:02x}", last_digit(guest));
        let entry = learned.iter().find(|entry| entry["mac"] == mac.as_str());
        let entry = entry.unwrap_or_else(|| panic!("{mac} was not learned: {shown}"));
        assert_eq!(entry["port_name"], guest, "learned on the wrong port");
    }
    let balance = daemon.settled_balance().unwrap();
    assert!(balance.holds(), "{balance:?}");
}

/// More memory than a guest has had at first, while it talks: the frontend tells
/// the switch slot by slot, and the guest's packets lie in all of it.
#[test]
fn memory_is_plugged_in_while_packets_pass() {
    let (daemon, _alone) = bridge();
    let mut guests: Vec<Guest> = [("vm1", 8), ("vm2", 0)]
        .map(|(name, memory_slots)| {
            let options = GuestOptions {
                memory_slots,
                ..GuestOptions::new(name, add_port(&daemon, name, Listener::Qemu))
            };
            Guest::start(&options, daemon.dir()).unwrap()
        })
        .into();
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        configure(guest);
        daemon.wait_state(guest.name(), "forwarding").unwrap();
    }
    let mut vm2 = guests.pop().unwrap();
    let mut vm1 = guests.pop().unwrap();
    talk(&mut vm1, &mut vm2);
    let regions = |daemon: &Daemon| {
        let shown = daemon.show_port("vm1").unwrap();
        let told = shown["actual"]["details"]["guest_memory"].to_string();
        println!("{told}");
        let words: Vec<_> = told.split_whitespace().collect();
        let at = words.iter().position(|word| word.starts_with("region"));
        words[at.unwrap() - 1].parse::<usize>().unwrap()
    };
    let before = regions(&daemon);
    vm1.ok("ping -i 0.2 10.0.0.2 > /tmp/pings & echo $! > /tmp/pinging")
        .unwrap();
    for nth in 0..4 {
        vm1.plug_memory(&format!("dimm{nth}"), 128).unwrap();
    }
    assert_eq!(regions(&daemon), before + 4);
    vm1.ok("kill -INT $(cat /tmp/pinging)").unwrap();
    let pings = vm1.ok("sleep 1; tail -3 /tmp/pings").unwrap();
    assert!(pings.contains(" 0% packet loss"), "{pings}");
    // More than the memory of the beginning is in use.
    vm1.ok_within(
        "mkdir -p /mnt && mount -t tmpfs -o size=400m none /mnt && dd if=/dev/zero of=/mnt/ballast bs=1M count=300 2>/dev/null",
        Duration::from_secs(60),
    )
    .unwrap();
    talk(&mut vm1, &mut vm2);
    talk(&mut vm2, &mut vm1);
    let shown = daemon.show_port("vm1").unwrap();
    assert!(
        shown["actual"]["details"]["last_disconnect"].is_null(),
        "{shown}"
    );
}

#[test]
fn jumbo_frames_pass_between_guests_with_mergeable_buffers() {
    let (daemon, _alone) = bridge();
    let [mut vm1, mut vm2] = boot(&daemon, Listener::Switch);
    for guest in [&mut vm1, &mut vm2] {
        guest.ok("ip link set eth0 mtu 9000").unwrap();
    }
    vm1.reach("10.0.0.2").unwrap();
    // 8,972 bytes of payload, 8 of ICMP and 20 of IP are 9,000.
    assert_eq!(vm1.ping("10.0.0.2", 5, 8972).unwrap(), 5);
    assert_eq!(vm2.ping("10.0.0.1", 5, 8972).unwrap(), 5);
    talk(&mut vm1, &mut vm2);
}

#[test]
fn every_feature_set_moves_files() {
    let (daemon, _alone) = bridge();
    let nic = add_port(&daemon, "vm1", Listener::Switch);
    let mut vm2 = {
        let nic = add_port(&daemon, "vm2", Listener::Switch);
        Guest::start(&GuestOptions::new("vm2", nic), daemon.dir()).unwrap()
    };
    vm2.wait_ready().unwrap();
    configure(&mut vm2);
    type Change = fn(&mut Nic);
    let variants: [(&str, Change); 8] = [
        ("one buffer per packet", |nic| nic.mergeable = false),
        ("no event index", |nic| nic.event_idx = false),
        ("no indirect descriptors", |nic| nic.indirect = false),
        ("no offloads", |nic| nic.offloads = false),
        ("nothing but the ring", |nic| {
            nic.mergeable = false;
            nic.event_idx = false;
            nic.indirect = false;
            nic.offloads = false;
        }),
        ("packed rings", |nic| nic.packed = true),
        ("packed rings, no indirect descriptors", |nic| {
            nic.packed = true;
            nic.indirect = false;
        }),
        ("nothing but the packed ring", |nic| {
            nic.packed = true;
            nic.mergeable = false;
            nic.event_idx = false;
            nic.indirect = false;
            nic.offloads = false;
        }),
    ];
    for (what, change) in variants {
        println!("{what}");
        let mut nic = nic.clone();
        change(&mut nic);
        let mut vm1 = Guest::start(&GuestOptions::new("vm1", nic), daemon.dir()).unwrap();
        vm1.wait_ready().unwrap();
        configure(&mut vm1);
        talk(&mut vm1, &mut vm2);
        talk(&mut vm2, &mut vm1);
        vm1.kill();
    }
}

#[test]
fn a_guest_with_two_queue_pairs_uses_both() {
    let (daemon, _alone) = bridge();
    let mut guests = ["vm1", "vm2"].map(|name| {
        let socket = daemon
            .add_vhost_port("br0", name, &["mode=server", "queues=2"])
            .unwrap();
        let mut nic = Nic::new(socket, Listener::Switch, last_digit(name));
        nic.queues = 2;
        Guest::start(&GuestOptions::new(name, nic), daemon.dir()).unwrap()
    });
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        configure(guest);
    }
    let [vm1, vm2] = &mut guests;
    talk(vm1, vm2);
    // The sending CPU picks the queue: send from both.
    for cpu in ["1", "2"] {
        vm1.ok(&format!("taskset {cpu} ping -c 5 -i 0.2 10.0.0.2"))
            .unwrap();
    }
    let port = daemon.port("vm1").unwrap();
    assert_eq!(port.rx_packets_by_queue.len(), 2, "{port:?}");
    assert!(
        port.rx_packets_by_queue.iter().all(|&packets| packets > 0),
        "a queue was never used: {port:?}"
    );
}

#[test]
fn guest_reboot_and_driver_reload_disturb_no_other_port() {
    let (daemon, _alone) = bridge();
    let mut bystanders = Bystanders::start(&daemon);
    let [mut vm1, mut vm2] = boot(&daemon, Listener::Switch);
    talk(&mut vm1, &mut vm2);

    vm1.reboot().unwrap();
    configure(&mut vm1);
    talk(&mut vm1, &mut vm2);
    bystanders.undisturbed(&daemon);

    for _ in 0..3 {
        vm1.reload_driver().unwrap();
        configure(&mut vm1);
        vm1.reach("10.0.0.2").unwrap();
    }
    talk(&mut vm2, &mut vm1);
    bystanders.undisturbed(&daemon);
}

#[test]
fn a_killed_guest_comes_back() {
    let (mut daemon, _alone) = bridge();
    let mut bystanders = Bystanders::start(&daemon);
    let [mut vm1, mut vm2] = boot(&daemon, Listener::Switch);
    talk(&mut vm1, &mut vm2);
    let fds = daemon.process().open_fds().unwrap();

    // Killed in the middle of sending.
    vm1.ok("ping -q 10.0.0.2 -i 0.01 -s 1400 >/dev/null & true")
        .unwrap();
    wait::until("vm1 to send", Duration::from_secs(10), || {
        let before = daemon.port("vm1")?.rx_packets;
        std::thread::sleep(Duration::from_millis(200));
        let sent = daemon.port("vm1")?.rx_packets - before;
        if sent > 5 {
            return Ok(());
        }
        Err(ringway_tests::Error::Unexpected(format!("{sent} packets")))
    })
    .unwrap();
    vm1.kill();
    daemon.wait_state("vm1", "waiting-for-socket").unwrap();
    bystanders.undisturbed(&daemon);

    let nic = Nic::new(daemon.path("vm1.sock"), Listener::Switch, 1);
    let mut vm1 = Guest::start(&GuestOptions::new("vm1", nic), daemon.dir()).unwrap();
    vm1.wait_ready().unwrap();
    configure(&mut vm1);
    talk(&mut vm1, &mut vm2);
    bystanders.undisturbed(&daemon);
    assert_eq!(
        daemon.process().open_fds().unwrap(),
        fds,
        "file descriptors of the killed guest are still open"
    );
}

/// kill -9 of the daemon, a new one on the same state file, and the same two
/// guest sessions talk again.
fn survives_the_daemon(listener: Listener, packed: bool) {
    let (mut daemon, _alone) = bridge();
    let [mut vm1, mut vm2] = boot_with(&daemon, listener, |nic| {
        nic.packed = packed;
        // Chains of several descriptors, which are the harder ones to find.
        nic.indirect = !packed;
    });
    talk(&mut vm1, &mut vm2);
    for guest in [&mut vm1, &mut vm2] {
        guest.ok("touch /tmp/session").unwrap();
    }

    daemon.kill();
    assert_eq!(
        vm1.ping("10.0.0.2", 2, 56).unwrap(),
        0,
        "packets pass without a switch"
    );
    daemon.start_again().unwrap();
    daemon.wait_forwarding(&["vm1", "vm2"]).unwrap();
    talk(&mut vm1, &mut vm2);
    talk(&mut vm2, &mut vm1);
    for guest in [&mut vm1, &mut vm2] {
        guest.ok("test -e /tmp/session").unwrap();
    }
}

#[test]
fn guests_survive_kill_9_of_ringwayd_when_qemu_listens() {
    survives_the_daemon(Listener::Qemu, false);
}

#[test]
fn guests_survive_kill_9_of_ringwayd_when_ringway_listens() {
    survives_the_daemon(Listener::Switch, false);
}

#[test]
fn guests_with_packed_rings_survive_kill_9_of_ringwayd() {
    survives_the_daemon(Listener::Qemu, true);
}

#[test]
fn a_port_deleted_under_traffic_leaves_the_others_alone() {
    let (daemon, _alone) = bridge();
    let [mut vm1, mut vm2, mut vm3] = boot(&daemon, Listener::Switch);
    vm1.reach("10.0.0.2").unwrap();
    vm3.reach("10.0.0.2").unwrap();
    // vm3 sends and receives all the while.
    vm3.ok("ping -q 10.0.0.2 -i 0.01 -s 1400 >/dev/null & true")
        .unwrap();
    vm1.ok("ping -q -c 50 -i 0.1 10.0.0.2 >/tmp/pings & true")
        .unwrap();

    for _ in 0..3 {
        daemon.ok(&["del-port", "br0", "vm3"]).unwrap();
        assert!(!daemon.ok(&["list-ports", "br0"]).unwrap().contains("vm3"));
        assert!(
            !daemon.path("vm3.sock").exists(),
            "the socket is still there"
        );
        add_port(&daemon, "vm3", Listener::Switch);
        daemon.wait_state("vm3", "forwarding").unwrap();
    }

    wait::until("vm1's pings to end", Duration::from_secs(30), || {
        vm1.ok("! pidof ping")
    })
    .unwrap();
    let pings = vm1.ok("cat /tmp/pings").unwrap();
    assert!(
        pings.contains("50 packets received"),
        "the bystander lost packets: {pings}"
    );
    vm3.ok("killall ping").unwrap();
    talk(&mut vm3, &mut vm1);
    talk(&mut vm2, &mut vm1);
}

#[test]
fn unshared_guest_memory_is_named_with_its_remedy() {
    let (daemon, _alone) = bridge();
    let nic = add_port(&daemon, "vm1", Listener::Switch);
    let mut options = GuestOptions::new("vm1", nic);
    options.share_memory = false;
    let mut guest = Guest::start(&options, daemon.dir()).unwrap();
    let reason = wait::until("`show` to name the remedy", Duration::from_secs(60), || {
        let reason = daemon.show_port("vm1")?["reason"].to_string();
        if reason.contains("share=on") {
            return Ok(reason);
        }
        guest.qemu().check_running()?;
        Err(ringway_tests::Error::Unexpected(reason))
    });
    println!("{}", reason.unwrap());
}

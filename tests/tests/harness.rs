//! The harness itself, on Open vSwitch instead of ringway. When this fails,
//! the other end-to-end tests say nothing about ringway.

use std::time::Duration;

use ringway_tests::ovs::OpenVswitch;
use ringway_tests::qemu::{Guest, GuestOptions, Listener, Nic};
use ringway_tests::testpmd::{Forward, Testpmd, VirtioUser};
use ringway_tests::{Error, machine, wait};

#[test]
fn two_guests_ping_and_move_a_file_over_open_vswitch() {
    let _alone = machine::exclusive().unwrap();
    let ovs = OpenVswitch::start().unwrap();
    let mut guests = ["vm1", "vm2"].map(|name| {
        let socket = ovs.add_client_port(name).unwrap();
        let last_byte = name.as_bytes()[2] - b'0';
        let nic = Nic::new(socket, Listener::Qemu, last_byte);
        Guest::start(&GuestOptions::new(name, nic), ovs.dir()).unwrap()
    });
    for (guest, address) in guests.iter_mut().zip(["10.0.0.1/24", "10.0.0.2/24"]) {
        guest.wait_ready().unwrap();
        guest.configure(address).unwrap();
    }
    let [vm1, vm2] = &mut guests;
    vm1.reach("10.0.0.2").unwrap();
    assert_eq!(vm1.ping("10.0.0.2", 3, 1400).unwrap(), 3);
    let served = vm2.serve_file(1024).unwrap();
    assert_eq!(vm1.fetch_file("10.0.0.2").unwrap(), served);
}

#[test]
fn testpmd_bounces_packets_over_open_vswitch() {
    let _alone = machine::exclusive().unwrap();
    let ovs = OpenVswitch::start().unwrap();
    let ports = ["vm1", "vm2"].map(|name| {
        let mut port = VirtioUser::new(
            ovs.add_client_port(name).unwrap(),
            name.as_bytes()[2] - b'0',
        );
        port.listens = true;
        port
    });
    let mut testpmd = Testpmd::start("pair", &ports, Forward::Mac, 64, ovs.dir()).unwrap();
    // Open vSwitch does not say when it takes packets from both ports, and
    // what it misses does not go round: put in flight until something does.
    wait::until("packets to go round", Duration::from_secs(30), || {
        testpmd.start_with_bursts(4)?;
        std::thread::sleep(Duration::from_millis(200));
        let moving = testpmd.received()?;
        if moving > 10_000 {
            return Ok(());
        }
        testpmd.stop()?;
        Err(Error::Unexpected(format!("{moving} packets received")))
    })
    .unwrap();
    testpmd.stop().unwrap();
    testpmd.quit().unwrap();
}

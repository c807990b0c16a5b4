//! `make demo`: two Linux guests talk through ringway, and what the datapath
//! did about it. Every step is checked; the exit status is 0 only if all were
//! seen to work.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringway_tests::daemon::Daemon;
use ringway_tests::qemu::{self, Accelerator, Guest, GuestOptions, Listener, Nic};
use ringway_tests::testpmd::{Forward, Testpmd, VirtioUser};
use ringway_tests::{Error, Result, machine, wait};

/// Size of the file that moves over TCP.
const FILE_KIB: u32 = 4096;
/// How long each rate is measured.
const MEASURE: Duration = Duration::from_secs(3);
/// Frame lengths that are measured, without CRC.
const FRAMES: [u32; 3] = [64, 256, 1514];

fn main() -> ExitCode {
    let begin = Instant::now();
    let mut narrator = Narrator::default();
    match demo(&mut narrator) {
        Ok(()) => {
            let seconds = begin.elapsed().as_secs();
            println!(
                "\nEvery step worked ({} steps, {seconds} s).",
                narrator.step
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nStep {} failed: {error}", narrator.step);
            ExitCode::FAILURE
        }
    }
}

fn demo(narrator: &mut Narrator) -> Result<()> {
    let _alone = machine::exclusive()?;
    machine_facts(narrator)?;
    let mut daemon = start_switch(narrator)?;
    let result = with_switch(narrator, &mut daemon);
    if result.is_err() {
        println!(
            "\nThe end of ringwayd's log:\n{}",
            daemon.process().log_tail()
        );
    }
    result
}

fn with_switch(narrator: &mut Narrator, daemon: &mut Daemon) -> Result<()> {
    let mut guests = boot_guests(narrator, daemon)?;
    pings(narrator, &mut guests)?;
    tcp(narrator, &mut guests)?;
    what_the_switch_says(narrator, daemon)?;
    stop_guests(narrator, daemon, guests)?;
    rates(narrator, daemon)?;
    stop_switch(narrator, daemon)
}

fn machine_facts(narrator: &mut Narrator) -> Result<()> {
    narrator.step("The machine");
    let cores = machine::cores(1)?;
    println!(
        "CPU {:?} polls for the switch, {:?} run guests; {} MiB of hugepages are free.",
        cores.pmd,
        cores.guests,
        machine::free_hugepages_mib()?
    );
    match qemu::accelerator()? {
        Accelerator::Kvm => println!("Guests run under KVM."),
        Accelerator::Tcg => println!("No guest boots under KVM here; they run under TCG, slowly."),
    }
    Ok(())
}

fn start_switch(narrator: &mut Narrator) -> Result<Daemon> {
    narrator.step("ringwayd starts; a bridge and two vhost-user ports are made");
    let begin = Instant::now();
    let daemon = Daemon::start()?;
    println!("It answers after {} ms.", begin.elapsed().as_millis());
    shell(&daemon, &["add-br", "br0"])?;
    for port in ["vm1", "vm2"] {
        let path = format!("path={}", daemon.path(&format!("{port}.sock")).display());
        shell(
            &daemon,
            &[
                "add-port",
                "br0",
                port,
                "type=vhost-user",
                &path,
                "mode=server",
                "queues=1",
            ],
        )?;
    }
    Ok(daemon)
}

fn boot_guests(narrator: &mut Narrator, daemon: &Daemon) -> Result<[Guest; 2]> {
    narrator.step("Two guests boot: Debian's kernel, busybox, virtio-net");
    let start = |number: u8| {
        let name = format!("vm{number}");
        let nic = Nic::new(
            daemon.path(&format!("{name}.sock")),
            Listener::Switch,
            number,
        );
        Guest::start(&GuestOptions::new(&name, nic), daemon.dir())
    };
    let begin = Instant::now();
    let mut guests = [start(1)?, start(2)?];
    for (guest, address) in guests.iter_mut().zip(["10.0.0.1/24", "10.0.0.2/24"]) {
        guest.wait_ready()?;
        guest.configure(address)?;
        let kernel = guest.ok("uname -r")?;
        println!("{} runs Linux {kernel} and has {address}.", guest.name());
    }
    daemon.wait_forwarding(&["vm1", "vm2"])?;
    println!(
        "Both ports forward after {:.1} s.",
        begin.elapsed().as_secs_f64()
    );
    Ok(guests)
}

fn pings(narrator: &mut Narrator, [vm1, vm2]: &mut [Guest; 2]) -> Result<()> {
    narrator.step("They ping each other");
    vm1.reach("10.0.0.2")?;
    guest_shell(vm1, "ping -c 3 -i 0.2 10.0.0.2")?;
    for guest in [&mut *vm1, &mut *vm2] {
        guest.ok("ip link set eth0 mtu 9000")?;
    }
    for (payload, what) in [
        (1400, "1,400 bytes"),
        (8972, "jumbo frames, 9,000 bytes of IP"),
    ] {
        let answers = vm2.ping("10.0.0.1", 5, payload)?;
        println!("vm2 to vm1, {what}: {answers} of 5 answered.");
        expect(answers == 5, "pings were lost")?;
    }
    Ok(())
}

fn tcp(narrator: &mut Narrator, [vm1, vm2]: &mut [Guest; 2]) -> Result<()> {
    narrator.step("A file moves over TCP, with its checksum");
    let served = vm2.serve_file(FILE_KIB)?;
    println!("vm2 serves {FILE_KIB} KiB of random bytes, SHA-256 {served}.");
    let begin = Instant::now();
    let fetched = vm1.fetch_file("10.0.0.2")?;
    println!(
        "vm1 fetched it in {:.1} s,               SHA-256 {fetched}.",
        begin.elapsed().as_secs_f64()
    );
    expect(fetched == served, "the file changed on its way")
}

fn what_the_switch_says(narrator: &mut Narrator, daemon: &Daemon) -> Result<()> {
    narrator.step("What the switch says of it");
    for command in [
        &["show"][..],
        &["fdb", "show", "br0"],
        &["dpctl", "show"],
        &["dump-ports", "br0"],
        &["pmd", "stats"],
        &["drops"],
    ] {
        shell(daemon, command)?;
    }
    let fdb = daemon.ok(&["fdb", "show", "br0"])?;
    for mac in ["52:54:00:00:00:01", "52:54:00:00:00:02"] {
        expect(fdb.contains(mac), "a guest's MAC was not learned")?;
    }
    let balance = daemon.settled_balance()?;
    println!(
        "\n{} in + {} replicated = {} out + {} dropped.",
        balance.received, balance.replicated, balance.transmitted, balance.dropped
    );
    expect(balance.holds(), "packets are not accounted for")
}

fn stop_guests(narrator: &mut Narrator, daemon: &Daemon, guests: [Guest; 2]) -> Result<()> {
    narrator.step("The guests end");
    guests.into_iter().for_each(Guest::kill);
    for port in ["vm1", "vm2"] {
        daemon.wait_state(port, "waiting-for-socket")?;
    }
    println!("Both ports wait for their next guest.");
    Ok(())
}

fn rates(narrator: &mut Narrator, daemon: &Daemon) -> Result<()> {
    narrator.step("Rates, with DPDK's virtio-user ports as guests (learning, one poll-mode core)");
    daemon.ok(&["add-br", "br1"])?;
    let mut ports = Vec::new();
    for (port, last_byte) in [("fast1", 1), ("fast2", 2)] {
        let socket = daemon.add_vhost_port("br1", port, &["mode=server"])?;
        ports.push(VirtioUser::new(socket, last_byte));
    }
    println!(
        "{:>11}  {:>12}  {:>22}",
        "frame", "Mpps", "busy cycles per packet"
    );
    for frame in FRAMES {
        let name = format!("rate-{frame}");
        let mut testpmd = Testpmd::start(&name, &ports, Forward::Mac, frame, daemon.dir())?;
        daemon.wait_forwarding(&["fast1", "fast2"])?;
        testpmd.start_with_bursts(16)?;
        testpmd.wait_received(10_000)?;
        let (rate, cycles) = measure(daemon)?;
        println!("{frame:>5} bytes  {:>12.2}  {cycles:>22.0}", rate / 1e6);
        testpmd.stop()?;
        testpmd.quit()?;
        expect(
            daemon.settled_balance()?.holds(),
            "packets are not accounted for",
        )?;
    }
    println!("Figures of a short run on a shared machine; `make bench` compares properly.");
    Ok(())
}

/// Packets per second, and busy cycles per packet.
fn measure(daemon: &Daemon) -> Result<(f64, f64)> {
    let read = || {
        let pmds = daemon.pmds()?;
        let packets: u64 = pmds.iter().map(|pmd| pmd.balance.received).sum();
        let cycles: u64 = pmds.iter().map(|pmd| pmd.busy_cycles).sum();
        Ok::<_, Error>((packets, cycles, Instant::now()))
    };
    let (packets, cycles, begin) = read()?;
    std::thread::sleep(MEASURE);
    let (more_packets, more_cycles, end) = read()?;
    let forwarded = (more_packets - packets) as f64;
    expect(forwarded > 0.0, "no packet was forwarded")?;
    Ok((
        forwarded / (end - begin).as_secs_f64(),
        (more_cycles - cycles) as f64 / forwarded,
    ))
}

fn stop_switch(narrator: &mut Narrator, daemon: &mut Daemon) -> Result<()> {
    narrator.step("ringwayd stops cleanly");
    let status = daemon.terminate()?;
    expect(status.success(), "ringwayd reported a failure")?;
    wait::until("the sockets to be gone", Duration::from_secs(1), || {
        let left: Vec<_> = ["vm1", "vm2", "fast1", "fast2", "control"]
            .into_iter()
            .filter(|name| daemon.path(&format!("{name}.sock")).exists())
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })?;
    println!("It ended with {status}; all sockets are gone.");
    Ok(())
}

/// Numbers the steps.
#[derive(Default)]
struct Narrator {
    step: u32,
}

impl Narrator {
    fn step(&mut self, what: &str) {
        self.step += 1;
        println!("\n\x1b[1m{}. {what}\x1b[0m", self.step);
    }
}

/// Shows a `ringway` command and what it prints; it must succeed.
fn shell(daemon: &Daemon, args: &[&str]) -> Result<()> {
    println!("\n$ ringway {}", args.join(" "));
    let output = daemon.ok(args)?;
    print!("{output}");
    Ok(())
}

/// Shows a command in a guest and what it prints; it must succeed.
fn guest_shell(guest: &mut Guest, command: &str) -> Result<()> {
    println!("{}# {command}", guest.name());
    println!("{}", guest.ok(command)?);
    Ok(())
}

fn expect(condition: bool, otherwise: &str) -> Result<()> {
    if condition {
        return Ok(());
    }
    Err(Error::Unexpected(otherwise.to_owned()))
}

//! libvirt starts guests on ringway from the example domains in
//! `control/libvirt`, in both socket modes.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use ringway_tests::console::Console;
use ringway_tests::daemon::Daemon;
use ringway_tests::machine;
use ringway_tests::netns::Namespace;
use ringway_tests::process::Process;
use ringway_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);
const GUEST: &str = "10.2.0.1";
const HOST: &str = "10.2.0.9";

/// A libvirtd of the test's own. What it started ends with it.
struct Libvirt(Process);

impl Libvirt {
    fn start(daemon: &Daemon) -> Self {
        let script = machine::workspace().join("tests/libvirt/libvirtd.sh");
        let args = ["--mount", "--net", "bash", &script.to_string_lossy()];
        let cpus = machine::cores(1).unwrap().guests;
        let log = daemon.path("libvirtd.log");
        let unshare = machine::find_tool("unshare").unwrap();
        let mut libvirt = Self(Process::spawn("libvirtd", &unshare, args, &cpus, &log).unwrap());
        wait::until("libvirtd to answer", LIMIT, || {
            libvirt
                .0
                .check_running()
                .map_err(|error| error.to_string())?;
            libvirt.virsh(&["version"])
        })
        .unwrap();
        libvirt
    }

    fn run(&self, args: &[&str]) -> Output {
        let mount = format!("--mount=/proc/{}/ns/mnt", self.0.pid());
        let virsh = ["virsh", "-c", "qemu:///system"];
        let run = Command::new("nsenter")
            .arg(mount)
            .args(virsh)
            .args(args)
            .output();
        run.unwrap()
    }

    fn virsh(&self, args: &[&str]) -> Result<String, String> {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // There is none if it did not start.
        self.run(&["destroy", "vm1"]);
    }
}

fn example(mode: &str) -> PathBuf {
    machine::workspace().join(format!("control/libvirt/guest-{mode}.xml"))
}

/// What stands between two texts is replaced.
fn replace(xml: &str, from: &str, to: &str, by: &str) -> String {
    let begin = xml
        .find(from)
        .unwrap_or_else(|| panic!("no {from} in {xml}"));
    let end = begin + xml[begin..].find(to).unwrap_or_else(|| panic!("no {to}")) + to.len();
    format!("{}{by}{}", &xml[..begin], &xml[end..])
}

/// The example with the test's kernel in place of a disk, and no KVM. Under
/// that, QEMU 7.2 crashes with vhost-user and MSI-X: no vectors.
fn bootable(mode: &str, daemon: &Daemon) -> String {
    let image = machine::build_dir().join("guest");
    let file = |name: &str| image.join(name).display().to_string();
    let socket = daemon.path("vm1.sock").display().to_string();
    let console = daemon.path("vm1-console.sock").display().to_string();
    let log = daemon.path("vm1.log").display().to_string();
    let xml = fs::read_to_string(example(mode)).unwrap();
    let xml = xml.replace("/run/ringway/vm1.sock", &socket);
    let namespace = "http://libvirt.org/schemas/domain/qemu/1.0";
    let xml = xml.replace(
        "<domain type='kvm'>",
        &format!("<domain type='qemu' xmlns:qemu='{namespace}'>"),
    );
    let xml = replace(
        &xml,
        "<memory unit",
        "</memory>",
        "<memory unit='MiB'>192</memory>",
    );
    let boot = format!(
        "<kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 rdinit=/init</cmdline>",
        file("vmlinuz"),
        file("initramfs.gz")
    );
    let xml = replace(&xml, "<boot", "/>", &boot);
    let serial = format!(
        "<serial type='file'><source path='{log}'/><target port='0'/></serial>\
         <serial type='unix'><source mode='bind' path='{console}'/><target port='1'/></serial>"
    );
    let xml = replace(&xml, "<disk", "</disk>", &serial);
    let xml = xml.replace("</interface>", "<alias name='ua-net0'/></interface>");
    let vectors = "<qemu:override><qemu:device alias='ua-net0'><qemu:frontend>\
                   <qemu:property name='vectors' type='unsigned' value='0'/>\
                   </qemu:frontend></qemu:device></qemu:override></domain>";
    xml.replace("</domain>", vectors)
}

fn guest_of(mode: &str, ringway: &str) {
    let _alone = machine::exclusive().unwrap();
    let daemon = Daemon::start().unwrap();
    daemon.ok(&["add-br", "br0"]).unwrap();
    daemon
        .add_vhost_port("br0", "vm1", &[&format!("mode={ringway}")])
        .unwrap();
    daemon
        .namespace()
        .configure("br0", &format!("{HOST}/24"))
        .unwrap();

    let libvirt = Libvirt::start(&daemon);
    let domain = daemon.path("vm1.xml");
    fs::write(&domain, bootable(mode, &daemon)).unwrap();
    libvirt
        .virsh(&["create", &domain.to_string_lossy()])
        .unwrap_or_else(|why| panic!("{why}\n{}", libvirt.0.log_tail()));
    let console = daemon.path("vm1-console.sock");
    let mut console = Console::connect(&console, || Ok(())).unwrap();
    console.wait_ready(Duration::from_secs(90)).unwrap();
    let line = format!("ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up");
    assert_eq!(console.run(&line, LIMIT).unwrap().status, 0);
    daemon.wait_forwarding(&["vm1"]).unwrap();
    pings(daemon.namespace());

    // The guest keeps running over a restart of the switch.
    let mut daemon = daemon;
    daemon.kill();
    daemon.start_again().unwrap();
    daemon.wait_forwarding(&["vm1"]).unwrap();
    pings(daemon.namespace());
    let there = libvirt.virsh(&["domstate", "vm1"]).unwrap();
    assert_eq!(there.trim(), "running");
}

fn pings(host: &Namespace) {
    wait::until("the guest to answer", LIMIT, || {
        match host.ping(GUEST, 3, 56) {
            Ok(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
}

#[test]
fn a_guest_that_listens_starts_and_survives_a_restart_of_the_switch() {
    guest_of("server", "client");
}

#[test]
fn a_guest_that_connects_starts_and_connects_again() {
    guest_of("client", "server");
}

#[test]
fn the_examples_are_valid_domains() {
    for mode in ["client", "server"] {
        let path = example(mode);
        let validate = ["virt-xml-validate", &path.to_string_lossy(), "domain"];
        machine::sh(validate[0], &validate[1..]).unwrap();
    }
}

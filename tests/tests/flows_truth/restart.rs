//! Flows, groups, meters and port numbers survive kill -9, and a journal whose
//! end was being written.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use ringway_tests::daemon::Daemon;
use ringway_tests::frames::{tcp, udp};
use ringway_tests::lab::{BRIDGE, Lab, Sent};
use ringway_tests::machine;

fn journal(daemon: &Daemon) -> PathBuf {
    let mut path = daemon.state_file().into_os_string();
    path.push(".flows");
    path.into()
}

/// All that must be the same, without counters and times.
fn content(daemon: &Daemon) -> Vec<String> {
    let ports = daemon.json(&["dump-ports"]).unwrap();
    let ports = ports["ports"].as_array().unwrap();
    let numbers: Vec<String> = ports
        .iter()
        .map(|port| format!("{} {}", port["number"], port["name"]))
        .collect();
    vec![
        daemon.ok(&["dump-flows", "--no-stats", BRIDGE]).unwrap(),
        daemon.ok(&["dump-groups", BRIDGE]).unwrap(),
        daemon.ok(&["dump-meters", BRIDGE]).unwrap(),
        numbers.join("\n"),
    ]
}

fn kill_and_start(daemon: &mut Daemon) {
    daemon.kill();
    daemon.start_again().unwrap();
}

#[test]
fn what_was_answered_survives_kill_9_at_any_time() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0), ("vm3", 0)]).unwrap();
    let changes: [&[&str]; 12] = [
        &[
            "add-meter",
            BRIDGE,
            "meter=3,kbps,bands=type=drop,rate=100000",
        ],
        &[
            "add-group",
            BRIDGE,
            "group_id=4,type=select,bucket=weight:5,vm2,bucket=vm3",
        ],
        &["add-flow", BRIDGE, "priority=7,udp,actions=meter:3,group:4"],
        &[
            "add-flow",
            BRIDGE,
            "cookie=0x12,table=1,priority=3,in_port=vm3,tcp,tp_dst=80/0xfff0,actions=vm2",
        ],
        &[
            "mod-flows",
            BRIDGE,
            "table=1,tcp,actions=vm3,push_vlan:0x8100,set_field:4101->vlan_vid,in_port",
        ],
        &[
            "mod-group",
            BRIDGE,
            "group_id=4,type=all,bucket=vm2,bucket=mod_dl_src:02:00:00:00:00:aa,vm3",
        ],
        // Numbers stay with their ports, also when one before them goes.
        &["del-port", BRIDGE, "vm2"],
        &[
            "add-flow",
            BRIDGE,
            "table=2,priority=1,idle_timeout=600,send_flow_rem,actions=output:vm3,note:01.02",
        ],
        &[
            "mod-meter",
            BRIDGE,
            "meter=3,kbps,bands=type=drop,rate=200000",
        ],
        &["del-flows", BRIDGE, "cookie=0x12/-1"],
        &["add-flow", BRIDGE, "priority=6,tcp,actions=vm3"],
        &["del-groups", BRIDGE, "group_id=99"],
    ];
    for change in changes {
        if let Err(error) = lab.daemon.ok(change) {
            panic!("{change:?}: {error}");
        }
        let before = content(&lab.daemon);
        kill_and_start(&mut lab.daemon);
        assert_eq!(content(&lab.daemon), before, "after {change:?}");
    }
    // And they forward.
    lab.guests.clear();
    lab.plug_in("vm1", 0).unwrap();
    lab.plug_in("vm3", 0).unwrap();
    assert_eq!((lab.number("vm1"), lab.number("vm3")), (1, 3));
    lab.expect("vm1", &Sent::from(&tcp()), &[("vm3", tcp().bytes())])
        .unwrap();
    // Deleted means deleted.
    lab.daemon.ok(&["del-flows", BRIDGE]).unwrap();
    kill_and_start(&mut lab.daemon);
    assert_eq!(lab.rules().unwrap(), []);
}

#[test]
fn a_torn_end_of_the_journal_is_what_was_never_answered() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0)]).unwrap();
    lab.daemon
        .ok(&["add-flow", BRIDGE, "udp,actions=vm2"])
        .unwrap();
    let first = content(&lab.daemon);
    let whole = fs::read(journal(&lab.daemon)).unwrap();
    lab.daemon
        .ok(&["add-flow", BRIDGE, "tcp,actions=vm2"])
        .unwrap();
    let both = content(&lab.daemon);
    let longer = fs::read(journal(&lab.daemon)).unwrap();
    assert!(
        longer.starts_with(&whole),
        "the journal is not only added to"
    );

    // Cut anywhere within the last transaction, it is not there.
    for cut in (whole.len()..longer.len() - 1).step_by(7) {
        lab.daemon.kill();
        fs::write(journal(&lab.daemon), &longer[..cut]).unwrap();
        lab.daemon.start_again().unwrap();
        assert_eq!(
            content(&lab.daemon),
            first,
            "cut at {cut} of {}",
            longer.len()
        );
    }
    // Whole, it is; also with the next one torn behind it.
    for tail in [
        "",
        "bridge br0\nflow add arp,act",
        "bridge br0\nflow delete\n",
        "\0\0\0\0",
    ] {
        lab.daemon.kill();
        fs::write(journal(&lab.daemon), &longer).unwrap();
        let mut file = OpenOptions::new()
            .append(true)
            .open(journal(&lab.daemon))
            .unwrap();
        file.write_all(tail.as_bytes()).unwrap();
        lab.daemon.start_again().unwrap();
        assert_eq!(content(&lab.daemon), both, "behind it: {tail:?}");
    }
    // Later changes are behind what was kept.
    lab.daemon
        .ok(&["add-flow", BRIDGE, "arp,actions=vm2"])
        .unwrap();
    let three = content(&lab.daemon);
    kill_and_start(&mut lab.daemon);
    assert_eq!(content(&lab.daemon), three);
    lab.guests.clear();
    lab.plug_in("vm1", 0).unwrap();
    lab.plug_in("vm2", 0).unwrap();
    lab.expect("vm1", &Sent::from(&udp()), &[("vm2", udp().bytes())])
        .unwrap();
}

/// What was committed and has no meaning is no torn end: it is named, and
/// nothing is started over it.
#[test]
fn a_damaged_journal_is_named_and_left_alone() {
    let mut lab = Lab::start(&[("vm1", 0), ("vm2", 0)]).unwrap();
    lab.daemon
        .ok(&["add-flow", BRIDGE, "udp,actions=vm2"])
        .unwrap();
    lab.daemon.kill();
    let text = fs::read_to_string(journal(&lab.daemon)).unwrap();
    let damaged = text.replace("udp", "upd");
    assert_ne!(text, damaged);
    fs::write(journal(&lab.daemon), &damaged).unwrap();
    let started = std::process::Command::new(machine::bin_dir().unwrap().join("ringwayd"))
        .arg("--socket")
        .arg(lab.daemon.socket())
        .arg("--state")
        .arg(lab.daemon.state_file())
        .args(["--pmd-cores", "0", "--hugepages", "off"])
        .output()
        .unwrap();
    assert!(!started.status.success());
    let complaint = String::from_utf8_lossy(&started.stderr).into_owned()
        + &String::from_utf8_lossy(&started.stdout);
    let line = text.lines().position(|line| line.contains("udp")).unwrap() + 1;
    for word in ["state.toml.flows", &format!("line {line}"), "upd"] {
        assert!(complaint.contains(word), "no {word:?} in {complaint}");
    }
    assert_eq!(fs::read_to_string(journal(&lab.daemon)).unwrap(), damaged);
    fs::write(journal(&lab.daemon), text).unwrap();
    lab.daemon.start_again().unwrap();
    assert_eq!(lab.rules().unwrap().len(), 1);
}

//! The same random rules and frames through ringwayd and through Open vSwitch
//! with DPDK, each between the same scripted guests: the same bytes come out of
//! the same ports. Where they differ on purpose, `tests/differential` says so.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use ringway_differential::compare::Sent;
use ringway_differential::dice::Dice;
use ringway_differential::domain::PORTS;
use ringway_differential::execute::HEAD;
use ringway_differential::oracle::{LOCAL, Outputs, hex};
use ringway_differential::rules::{Dialect, RuleSet};
use ringway_differential::subject::Subject;
use ringway_differential::unixctl::Unixctl;
use ringway_differential::{allowed, frames};
use ringway_frontend::{NetDriver, Session, SessionConfig};
use ringway_tests::lab::{self, BRIDGE, Lab};
use ringway_tests::ovs::OpenVswitch;
use ringway_tests::scripted::{LIMIT, scripted};
use ringway_tests::{machine, wait};

const SEEDS: std::ops::Range<u64> = 1000..1040;
const FRAMES: usize = 25;
/// How long a frame that has not come is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// A rule set that both accept, and frames.
struct Case {
    seed: u64,
    set: RuleSet,
    sent: Vec<Sent>,
    /// What comes out depends on what was learned before.
    learns: bool,
}

impl Case {
    fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let size = dice.of(&[3, 10, 30]);
        let set = RuleSet::random(&mut dice, size);
        let mut sent = Vec::new();
        while sent.len() < FRAMES {
            let frame = frames::random(&mut dice);
            // Beyond the head both may see different headers.
            if frame.len() <= HEAD {
                let port = dice.between(1, PORTS.into()) as u16;
                sent.push(Sent { port, frame });
            }
        }
        let texts = set.rules.iter().map(|rule| &rule.text);
        let groups = set.groups.iter().map(|group| &group.rest);
        let mut words = texts.chain(groups).map(|text| text.to_lowercase());
        let learns = words.any(|text| text.contains("normal"));
        Self {
            seed,
            set,
            sent,
            learns,
        }
    }

    /// Loads what both accept into Open vSwitch, and keeps that.
    fn load(&mut self, ovs: &OpenVswitch) {
        let target = format!("unix:{}", ovs.management().display());
        for command in ["del-flows", "del-groups"] {
            machine::sh("ovs-ofctl", &["-O", "OpenFlow15", command, &target]).unwrap();
        }
        let accepts = |version: &str, command: &str, text: &str| {
            machine::sh("ovs-ofctl", &["-O", version, command, &target, text]).is_ok()
        };
        let mut ours = subject();
        let RuleSet { groups, rules } = &mut self.set;
        groups.retain(|group| {
            ours.add_group(group.text()).is_ok() && accepts("OpenFlow15", "add-group", group.text())
        });
        rules.retain(|rule| ours.add_flow(&rule.text).is_ok());
        for dialect in Dialect::ALL {
            let mine = rules.iter().filter(|rule| rule.dialect == dialect);
            let lines: Vec<&str> = mine.map(|rule| rule.text.as_str()).collect();
            let file = ovs.dir().join("flows.txt");
            std::fs::write(&file, lines.join("\n")).unwrap();
            if accepts(dialect.version(), "add-flows", &file.to_string_lossy()) {
                continue;
            }
            // One of them is bad; adding a rule twice does no harm.
            rules.retain(|rule| {
                rule.dialect != dialect || accepts(dialect.version(), "add-flow", &rule.text)
            });
        }
    }

    /// ringway's tables as a library, with the set.
    fn subject(&self) -> Subject {
        let mut subject = subject();
        subject.add_all(&self.set);
        subject
    }

    /// The set as a bundle.
    fn bundle(&self) -> String {
        let mut text = String::new();
        for group in &self.set.groups {
            let _ = writeln!(text, "group add {}", group.text());
        }
        for rule in &self.set.rules {
            let _ = writeln!(text, "flow add {}", rule.text);
        }
        text
    }
}

fn subject() -> Subject {
    Subject::new((1..=PORTS).chain([LOCAL]))
}

fn name(port: u16) -> String {
    format!("vm{port}")
}

/// Open vSwitch with a scripted guest on each of its ports.
struct Theirs {
    guests: BTreeMap<u16, NetDriver>,
    control: Unixctl,
    ovs: OpenVswitch,
}

impl Theirs {
    fn start() -> Self {
        let ovs = OpenVswitch::start().unwrap();
        ovs.vsctl(&["set", "bridge", "br0", "fail-mode=secure"])
            .unwrap();
        let config = SessionConfig {
            memory_size: 4 << 20,
            ..SessionConfig::default()
        };
        let mut guests = BTreeMap::new();
        for port in 1..=PORTS {
            let listener = Session::listen(ovs.client_socket(&name(port))).unwrap();
            ovs.add_client_port(&name(port)).unwrap();
            let number = ovs
                .vsctl(&["get", "Interface", &name(port), "ofport"])
                .unwrap();
            assert_eq!(number.trim(), port.to_string());
            let session = listener.accept(2 * LIMIT).map_err(scripted).unwrap();
            let guest = session.bring_up(&config).map_err(scripted).unwrap();
            guests.insert(port, NetDriver::new(guest).map_err(scripted).unwrap());
        }
        let mut theirs = Self {
            guests,
            control: Unixctl::connect(&ovs.control()).unwrap(),
            ovs,
        };
        theirs.wait_ready();
        theirs
    }

    /// A port takes frames some time after its guest is up.
    fn wait_ready(&mut self) {
        let target = format!("unix:{}", self.ovs.management().display());
        machine::sh("ovs-ofctl", &["add-flow", &target, "actions=all,in_port"]).unwrap();
        let hello = ringway_tests::frames::plain().bytes();
        wait::until("Open vSwitch's ports", 3 * LIMIT, || {
            let sent = Sent {
                port: 1,
                frame: hello.clone(),
            };
            let all: Outputs = (1..=PORTS)
                .map(|port| (port, vec![hello.clone()]))
                .collect();
            match self.send(&sent, std::slice::from_ref(&all)) {
                outputs if outputs == all => Ok(()),
                outputs => Err(outputs),
            }
        })
        .unwrap();
    }

    /// Sends a frame; waits no longer than it takes for one of the outputs that
    /// are `likely` to come.
    fn send(&mut self, sent: &Sent, likely: &[Outputs]) -> Outputs {
        let from = self.guests.get_mut(&sent.port).unwrap();
        assert!(from.send(0, &sent.frame));
        assert!(from.flush(0, LIMIT));
        let (begin, mut outputs) = (Instant::now(), Outputs::new());
        loop {
            self.receive(&mut outputs);
            // That nothing comes, or too much, shows only in time.
            let patience = match (likely.contains(&outputs), outputs.is_empty()) {
                (true, false) => Duration::from_micros(200),
                (true, true) => Duration::from_millis(10),
                (false, _) => PATIENCE,
            };
            if begin.elapsed() > patience {
                return outputs;
            }
            std::thread::yield_now();
        }
    }

    fn receive(&mut self, outputs: &mut Outputs) {
        for (port, guest) in &mut self.guests {
            while let Some(frame) = guest.recv(0) {
                outputs.entry(*port).or_default().push(frame);
            }
        }
    }

    fn forget(&mut self) {
        self.control.must("revalidator/purge", &[]).unwrap();
        self.control.must("fdb/flush", &["br0"]).unwrap();
    }
}

/// Outputs without the bridge's own interface, which has no guest.
fn to_guests(mut outputs: Outputs) -> Outputs {
    outputs.remove(&LOCAL);
    outputs
}

/// What ringwayd makes of all frames of all cases.
fn ours(cases: &[Case]) -> Vec<Vec<Outputs>> {
    let names: Vec<String> = (1..=PORTS).map(name).collect();
    let ports: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 0)).collect();
    let mut lab = Lab::start(&ports).unwrap();
    let mut all = Vec::new();
    for case in cases {
        lab.load(&case.bundle())
            .unwrap_or_else(|error| panic!("seed {}: {error}", case.seed));
        let mut one = |sent: &Sent| {
            if case.learns {
                lab.daemon.ok(&["fdb", "flush", BRIDGE]).unwrap();
            }
            let frame = sent.frame.clone().into();
            let outputs = lab.send(&name(sent.port), &frame).unwrap();
            let whole = lab::whole(&outputs).into_iter();
            whole
                .map(|(port, frames)| (port[2..].parse().unwrap(), frames))
                .collect()
        };
        all.push(case.sent.iter().map(&mut one).collect());
    }
    let balance = lab.daemon.settled_balance().unwrap();
    assert!(balance.holds(), "packets were lost unseen: {balance:?}");
    all
}

/// What Open vSwitch makes of all frames of all cases, of which it keeps the
/// rules that both accept. The text is its own account.
fn theirs(cases: &mut [Case]) -> Vec<Vec<(Outputs, String)>> {
    let _alone = machine::exclusive().unwrap();
    let mut theirs = Theirs::start();
    let mut all = Vec::new();
    for case in cases {
        case.load(&theirs.ovs);
        theirs.forget();
        let mut subjects = vec![case.subject()];
        let other = case.subject();
        subjects.extend(other.with_other_choices(&case.set));
        let mut one = |sent: &Sent| {
            if case.learns {
                theirs.forget();
            }
            let likely = subjects
                .iter()
                .map(|subject| to_guests(subject.send(sent.port, &sent.frame)));
            let likely: Vec<Outputs> = likely.collect();
            let outputs = theirs.send(sent, &likely);
            let account = match outputs == likely[0] {
                true => Ok(String::new()),
                false => {
                    let flow = format!("in_port={}", sent.port);
                    let words = ["br0", &flow, &hex(&sent.frame)];
                    theirs.control.must("ofproto/trace", &words)
                }
            };
            (outputs, account.unwrap())
        };
        all.push(case.sent.iter().map(&mut one).collect());
    }
    all
}

#[test]
fn ringwayd_sends_what_open_vswitch_sends() {
    let mut cases: Vec<Case> = SEEDS.map(Case::of).collect();
    // One poll-mode core at a time.
    let theirs = theirs(&mut cases);
    let ours = ours(&cases);
    let (mut differences, mut on_purpose, mut came_out) = (Vec::new(), 0, 0);
    for (case, (theirs, ours)) in cases.iter().zip(theirs.iter().zip(&ours)) {
        let subject = case.subject();
        for (sent, ((theirs, account), ours)) in case.sent.iter().zip(theirs.iter().zip(ours)) {
            came_out += usize::from(!theirs.is_empty());
            if theirs == ours {
                continue;
            }
            // Each switch has its own hash for select groups.
            let mut others = subject.with_other_choices(&case.set);
            let chosen =
                others.any(|other| to_guests(other.send(sent.port, &sent.frame)) == *theirs);
            if chosen || allowed::outputs(&subject, &case.set, sent, [theirs, ours]).is_some() {
                on_purpose += 1;
                continue;
            }
            differences.push(format!(
                "seed {}: in_port={} {}\n  Open vSwitch {theirs:02x?}\n  ringwayd     {ours:02x?}\n{}\n{account}",
                case.seed,
                sent.port,
                hex(&sent.frame),
                case.set,
            ));
        }
    }
    let frames = cases.len() * FRAMES;
    println!("{frames} frames, {came_out} came out, {on_purpose} differ on purpose");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(
        came_out * 4 > frames,
        "most frames were dropped: {came_out} of {frames}"
    );
    assert!(
        on_purpose * 5 < frames,
        "{on_purpose} of {frames} differ on purpose"
    );
}

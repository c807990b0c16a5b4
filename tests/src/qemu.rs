//! Real Linux guests: Debian's cloud kernel and busybox under QEMU, with a
//! virtio-net device on a vhost-user socket or a tap.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::console::{Answer, Console};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::netns::Namespace;
use crate::process::Process;
use crate::{machine, wait};

/// Longest a guest takes from start or reboot to its shell. Two of them boot
/// on one busy CPU under TCG in about 10 s.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Longest an ordinary command takes in a guest.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// A kernel that boots under KVM does so in 1 to 2 s.
const KVM_PROBE_LIMIT: Duration = Duration::from_secs(15);

/// Who listens on the vhost-user socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// ringway listens (`mode=server`); QEMU connects and reconnects.
    Switch,
    /// QEMU listens; ringway connects (`mode=client`).
    Qemu,
}

/// What is at the host's end of a guest's device.
#[derive(Clone, Debug)]
pub enum Backend {
    /// A vhost-user socket.
    VhostUser {
        /// Its path.
        socket: PathBuf,
        /// Who listens on it.
        listener: Listener,
    },
    /// A tap interface, which QEMU opens and makes if it is not there.
    Tap {
        /// Its name.
        interface: String,
        /// The namespace that it is in.
        namespace: String,
    },
}

/// A guest's network device.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The host's end.
    pub backend: Backend,
    /// Its MAC address as text.
    pub mac: String,
    /// Queue pairs.
    pub queues: u16,
    /// Mergeable receive buffers (VIRTIO_NET_F_MRG_RXBUF).
    pub mergeable: bool,
    /// Notifications by event index (VIRTIO_F_EVENT_IDX).
    pub event_idx: bool,
    /// Indirect descriptor tables.
    pub indirect: bool,
    /// Segmentation and checksum offloads.
    pub offloads: bool,
    /// Packed rings instead of split ones.
    pub packed: bool,
}

impl Nic {
    /// A device as most people have it: one queue pair, QEMU's defaults.
    pub fn new(socket: impl Into<PathBuf>, listener: Listener, last_byte: u8) -> Self {
        let socket = socket.into();
        Self::on(Backend::VhostUser { socket, listener }, last_byte)
    }

    /// The same on a tap interface in a namespace.
    pub fn on_tap(interface: &str, namespace: &Namespace, last_byte: u8) -> Self {
        let (interface, namespace) = (interface.to_owned(), namespace.name().to_owned());
        Self::on(
            Backend::Tap {
                interface,
                namespace,
            },
            last_byte,
        )
    }

    fn on(backend: Backend, last_byte: u8) -> Self {
        Self {
            backend,
            mac: format!("52:54:00:00:00:{last_byte:02x}"),
            queues: 1,
            mergeable: true,
            event_idx: true,
            indirect: true,
            offloads: true,
            packed: false,
        }
    }

    fn arguments(&self, accelerator: Accelerator) -> Vec<String> {
        let on = |flag: bool| if flag { "on" } else { "off" };
        let mut device = format!(
            "virtio-net-pci,netdev=net0,romfile=,mac={},mrg_rxbuf={},event_idx={},indirect_desc={},packed={}",
            self.mac,
            on(self.mergeable),
            on(self.event_idx),
            on(self.indirect),
            on(self.packed),
        );
        if !self.offloads {
            for name in ["csum", "guest_csum", "gso"] {
                device += &format!(",{name}=off");
            }
            for name in ["tso4", "tso6", "ecn", "ufo"] {
                device += &format!(",host_{name}=off,guest_{name}=off");
            }
        }
        if self.queues > 1 {
            device += ",mq=on";
        }
        // MSI-X crashes QEMU 7.2 with vhost-user under TCG.
        device += match accelerator {
            Accelerator::Tcg => ",vectors=0".into(),
            Accelerator::Kvm => format!(",vectors={}", 2 * self.queues + 2),
        }
        .as_str();
        let mut arguments = match &self.backend {
            Backend::VhostUser { socket, listener } => {
                let listens = match listener {
                    Listener::Switch => "reconnect=1",
                    Listener::Qemu => "server=on,wait=off",
                };
                let chardev = format!("socket,id=chr0,path={},{listens}", socket.display());
                let netdev = format!("vhost-user,id=net0,chardev=chr0,queues={}", self.queues);
                vec!["-chardev".to_owned(), chardev, "-netdev".to_owned(), netdev]
            }
            Backend::Tap { interface, .. } => {
                let tap = format!("tap,id=net0,ifname={interface},script=no,downscript=no");
                vec!["-netdev".to_owned(), tap]
            }
        };
        arguments.extend(["-device".to_owned(), device]);
        arguments
    }

    /// The namespace that QEMU has to run in, if any.
    fn namespace(&self) -> Option<&str> {
        match &self.backend {
            Backend::VhostUser { .. } => None,
            Backend::Tap { namespace, .. } => Some(namespace),
        }
    }
}

/// What kind of guest.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Its name, for messages and log files.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Whether the switch may map the memory (`share=on`). Off is a mistake
    /// that users make.
    pub share_memory: bool,
    /// Slots for memory that is plugged in later ([`Guest::plug_memory`]).
    pub memory_slots: u16,
    /// Virtual CPUs.
    pub cpus: u16,
    /// Its device.
    pub nic: Nic,
    /// It does not boot but comes from another QEMU, over this socket.
    pub comes_over: Option<PathBuf>,
}

impl GuestOptions {
    /// 192 MiB of shared memory, and one CPU for each queue pair.
    pub fn new(name: &str, nic: Nic) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 192,
            share_memory: true,
            memory_slots: 0,
            cpus: nic.queues,
            nic,
            comes_over: None,
        }
    }
}

/// A running guest. Killed when dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    qemu: Process,
    console: Console,
    monitor: PathBuf,
    hmp: PathBuf,
}

impl Guest {
    /// Starts QEMU; the guest boots by itself. Sockets and logs go to `dir`.
    pub fn start(options: &GuestOptions, dir: &Path) -> Result<Self> {
        let accelerator = accelerator()?;
        let mut args = vec!["-smp".to_owned(), options.cpus.to_string()];
        let memory = format!("{}M", options.memory_mib);
        let slots = match options.memory_slots {
            0 => String::new(),
            slots => format!(",slots={slots},maxmem=2G"),
        };
        args.extend(["-m".to_owned(), memory.clone() + &slots]);
        if options.share_memory {
            let object = format!("memory-backend-memfd,id=mem,size={memory},share=on");
            args.extend(["-object", &object, "-numa", "node,memdev=mem"].map(str::to_owned));
        }
        args.extend(options.nic.arguments(accelerator));
        if let Some(socket) = &options.comes_over {
            args.extend(["-incoming".to_owned(), format!("unix:{}", socket.display())]);
        }
        let image = image()?;
        let namespace = options.nic.namespace();
        launch(&options.name, accelerator, &image, &args, namespace, dir)
    }

    /// Waits until the guest's shell answers, after a start or a reboot.
    pub fn wait_ready(&mut self) -> Result<()> {
        let result = self.console.wait_ready(BOOT_LIMIT);
        self.qemu.check_running()?;
        result
    }

    /// The guest's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// QEMU's process.
    pub fn qemu(&mut self) -> &mut Process {
        &mut self.qemu
    }

    /// Gives QEMU's monitor for people a command; what it answers.
    fn tell_qemu(&self, command: &str) -> Result<String> {
        let io = |what: &str| Error::io(format!("{what} the monitor of {}", self.name));
        let mut stream = UnixStream::connect(&self.hmp).map_err(io("connect to"))?;
        let limit = Some(COMMAND_LIMIT);
        stream.set_read_timeout(limit).map_err(io("talk to"))?;
        let until_prompt = |stream: &mut UnixStream| {
            let (mut text, mut byte) = (Vec::new(), [0]);
            while !text.ends_with(b"(qemu) ") {
                stream.read_exact(&mut byte).map_err(io("read"))?;
                text.push(byte[0]);
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        until_prompt(&mut stream)?;
        let line = format!("{command}\n");
        stream.write_all(line.as_bytes()).map_err(io("write to"))?;
        until_prompt(&mut stream)
    }

    /// Plugs in shared memory of this many MiB, and waits until the guest's
    /// kernel uses it.
    pub fn plug_memory(&mut self, id: &str, mib: u32) -> Result<()> {
        let before = self.memory_kib()?;
        let backend = format!("memory-backend-memfd,id=mem-{id},size={mib}M,share=on");
        let device = format!("pc-dimm,id={id},memdev=mem-{id}");
        for command in [
            format!("object_add {backend}"),
            format!("device_add {device}"),
        ] {
            let answer = self.tell_qemu(&command)?;
            if answer.contains("rror") {
                return Err(Error::Unexpected(format!("QEMU said: {answer}")));
            }
        }
        wait::until("the guest to use its new memory", COMMAND_LIMIT, || {
            // Some kernels wait to be told.
            let online = "for m in /sys/devices/system/memory/memory*/state; do \
                          grep -q offline $m && echo online > $m; done; true";
            let _ = self.run(online);
            match self.memory_kib() {
                Ok(now) if now >= before + u64::from(mib) * 1024 * 9 / 10 => Ok(()),
                now => Err(now.map_err(|error| error.to_string())),
            }
        })
    }

    /// What the guest's kernel has in all, in KiB.
    fn memory_kib(&mut self) -> Result<u64> {
        let told = self.ok("grep MemTotal /proc/meminfo")?;
        let number = told.split_whitespace().find_map(|word| word.parse().ok());
        number.ok_or_else(|| Error::Unexpected(format!("the guest's memory: {told}")))
    }

    /// QEMU's monitor; one connection at a time.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.monitor)
    }

    /// Runs a shell command (one line); its exit status and output.
    pub fn run(&mut self, command: &str) -> Result<Answer> {
        self.run_within(command, COMMAND_LIMIT)
    }

    /// As [`Guest::run`], with its own limit.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        let answer = self.console.run(command, limit);
        if answer.is_err() {
            self.qemu.check_running()?;
        }
        answer
    }

    /// Runs a command that must succeed; its output.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        self.ok_within(command, COMMAND_LIMIT)
    }

    /// As [`Guest::ok`], with its own limit.
    pub fn ok_within(&mut self, command: &str, limit: Duration) -> Result<String> {
        let answer = self.run_within(command, limit)?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        Err(Error::Guest {
            guest: self.name.clone(),
            command: command.to_owned(),
            status: answer.status,
            output: answer.output,
        })
    }

    /// Gives the guest an address (`10.0.0.1/24`) and brings its device up.
    pub fn configure(&mut self, address: &str) -> Result<()> {
        self.ok(&format!(
            "ip address add {address} dev eth0 && ip link set eth0 up"
        ))
        .map(drop)
    }

    /// Pings with frames of this payload until one answer comes: for the
    /// first contact, while the switch still connects or learns.
    pub fn reach(&mut self, address: &str) -> Result<()> {
        let what = format!("{} to reach {address}", self.name);
        wait::until(&what, Duration::from_secs(30), || {
            self.ok(&format!("ping -c 1 -W 1 {address}"))
        })
        .map(drop)
    }

    /// Sends `count` echo requests with `payload` bytes each, 0.2 s apart,
    /// and gives the number of answers.
    pub fn ping(&mut self, address: &str, count: u32, payload: u32) -> Result<u32> {
        let command = format!("ping -i 0.2 -c {count} -W 2 -s {payload} {address}");
        let answer = self.run_within(&command, COMMAND_LIMIT)?;
        // "3 packets transmitted, 3 packets received, 0% packet loss"
        answer
            .output
            .lines()
            .find_map(|line| {
                let (_, rest) = line.split_once("packets transmitted, ")?;
                rest.split_whitespace().next()?.parse().ok()
            })
            .ok_or_else(|| Error::Unexpected(format!("ping said: {}", answer.output)))
    }

    /// Makes a file of random bytes and serves it over TCP port 80; gives its
    /// SHA-256.
    pub fn serve_file(&mut self, kib: u32) -> Result<String> {
        let limit = Duration::from_secs(60);
        self.ok_within(
            &format!("dd if=/dev/urandom of=/www/blob bs=1024 count={kib} 2>/dev/null"),
            limit,
        )?;
        let sum = self.ok_within("sha256sum /www/blob", limit)?;
        self.ok("pidof httpd >/dev/null || httpd -h /www")?;
        first_word(&sum)
    }

    /// Fetches the file that [`Guest::serve_file`] of another guest serves;
    /// gives its SHA-256.
    pub fn fetch_file(&mut self, address: &str) -> Result<String> {
        let limit = Duration::from_secs(120);
        self.ok_within(
            &format!("wget -q -O /tmp/blob http://{address}/blob"),
            limit,
        )?;
        let sum = self.ok_within("sha256sum /tmp/blob", limit)?;
        first_word(&sum)
    }

    /// Reboots the guest's kernel and waits for its shell. The machine and so
    /// the virtio device are reset; QEMU stays.
    pub fn reboot(&mut self) -> Result<()> {
        self.console.send("reboot -f")?;
        self.wait_ready()
    }

    /// Unloads the virtio-net driver and loads it again.
    pub fn reload_driver(&mut self) -> Result<()> {
        self.ok("rmmod virtio_net && modprobe virtio_net").map(drop)
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.qemu.kill();
    }
}

fn first_word(text: &str) -> Result<String> {
    text.split_whitespace()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| Error::Unexpected("sha256sum printed nothing".into()))
}

/// How QEMU runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// On the processor.
    Kvm,
    /// By translation.
    Tcg,
}

/// KVM where a guest really boots under it: /dev/kvm may be there and hang
/// (nested machines). Probed once per boot of this machine and remembered.
pub fn accelerator() -> Result<Accelerator> {
    let image = image()?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let cache = image.join("accelerator");
    let known = fs::read_to_string(&cache).unwrap_or_default();
    if let Some(answer) = known.strip_prefix(boot_id.trim()) {
        return Ok(match answer.trim() {
            "kvm" => Accelerator::Kvm,
            _ => Accelerator::Tcg,
        });
    }
    let found = probe_kvm(&image)?;
    let word = match found {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    };
    fs::write(&cache, format!("{} {word}\n", boot_id.trim()))
        .map_err(Error::io(format!("write {}", cache.display())))?;
    Ok(found)
}

fn probe_kvm(image: &Path) -> Result<Accelerator> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let dir = tempfile::tempdir().map_err(Error::io("make a temporary folder"))?;
    let args = ["-m", "128M"].map(str::to_owned);
    let booted = launch(
        "kvm-probe",
        Accelerator::Kvm,
        image,
        &args,
        None,
        dir.path(),
    )
    .and_then(|mut guest| guest.console.wait_ready(KVM_PROBE_LIMIT));
    Ok(match booted {
        Ok(()) => Accelerator::Kvm,
        Err(_) => Accelerator::Tcg,
    })
}

/// The folder with the guest's kernel and initramfs; made when needed.
fn image() -> Result<PathBuf> {
    let dir = machine::build_dir().join("guest");
    let script = machine::workspace().join("tests/guest/make-image.sh");
    machine::sh("bash", &[&script.to_string_lossy(), &dir.to_string_lossy()])?;
    Ok(dir)
}

fn launch(
    name: &str,
    accelerator: Accelerator,
    image: &Path,
    extra: &[String],
    namespace: Option<&str>,
    dir: &Path,
) -> Result<Guest> {
    let qemu = machine::find_tool("qemu-system-x86_64")?;
    let console = dir.join(format!("{name}-console.sock"));
    let monitor = dir.join(format!("{name}-monitor.sock"));
    let hmp = dir.join(format!("{name}-hmp.sock"));
    // A guest that comes back under its old name replaces the old sockets.
    for socket in [&console, &monitor, &hmp] {
        let _ = fs::remove_file(socket);
    }
    let kernel = image.join("vmlinuz");
    let initramfs = image.join("initramfs.gz");
    let mut args: Vec<String> = vec![
        "-accel".into(),
        match accelerator {
            Accelerator::Kvm => "kvm".into(),
            Accelerator::Tcg => "tcg".into(),
        },
        "-nodefaults".into(),
        "-no-user-config".into(),
        "-display".into(),
        "none".into(),
        "-kernel".into(),
        kernel.to_string_lossy().into_owned(),
        "-initrd".into(),
        initramfs.to_string_lossy().into_owned(),
        "-append".into(),
        "console=ttyS0 quiet panic=-1 rdinit=/init".into(),
        "-serial".into(),
        "stdio".into(),
        "-chardev".into(),
        format!(
            "socket,id=console,path={},server=on,wait=off",
            console.display()
        ),
        "-serial".into(),
        "chardev:console".into(),
        "-monitor".into(),
        format!("unix:{},server=on,wait=off", hmp.display()),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", monitor.display()),
    ];
    args.extend_from_slice(extra);
    let cores = machine::cores(1)?;
    let log = dir.join(format!("{name}.log"));
    let (program, args) = match namespace {
        None => (qemu, args),
        Some(namespace) => {
            let enter = [
                format!("--net=/run/netns/{namespace}"),
                qemu.to_string_lossy().into_owned(),
            ];
            let nsenter = machine::find_tool("nsenter")?;
            (nsenter, enter.into_iter().chain(args).collect())
        }
    };
    let name_of_process = format!("guest {name}");
    let mut process = Process::spawn(&name_of_process, &program, &args, &cores.guests, &log)?;
    let console = Console::connect(&console, || process.check_running())?;
    Ok(Guest {
        name: name.to_owned(),
        qemu: process,
        console,
        monitor,
        hmp,
    })
}

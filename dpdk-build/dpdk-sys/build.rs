//! Finds DPDK through pkg-config, generates the bindings, compiles the shim and
//! links DPDK's static archives.
//!
//! Static and whole-archive: poll-mode drivers register themselves in
//! constructors which the linker would otherwise leave out, and a process with
//! its drivers inside does not make EAL load the whole plugin directory
//! (over a hundred shared objects) at every start.
//!
//! Environment:
//! - `PKG_CONFIG_PATH`: where another DPDK's `libdpdk.pc` lies.
//! - `RINGWAY_DPDK_DRIVERS`: further archives to link, comma-separated, without
//!   `librte_` and `.a` (`net_ixgbe` or `common_iavf,net_iavf`).
//! - `LIBCLANG_PATH`: the libclang for bindgen; chosen here when unset.

// UNSAFETY: only `env::set_var`, before this script starts any thread.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Libraries every program of ours needs. Those that only some releases have
/// (`log` since 23.11, `argparse` since 24.07) are linked where they exist.
const LIBRARIES: &[&str] = &[
    "log",
    "kvargs",
    "argparse",
    "telemetry",
    "eal",
    "ring",
    "rcu",
    "mempool",
    "mbuf",
    "net",
    "meter",
    "ethdev",
    "pci",
    "hash",
    "gso",
    "bus_pci",
    "bus_vdev",
    "mempool_ring",
];

/// A poll-mode driver: its archive, the device names it answers to, and the
/// system libraries (pkg-config names) without which it is left out.
struct Driver {
    archive: &'static str,
    devices: &'static [&'static str],
    needs: &'static [&'static str],
}

const DRIVERS: &[Driver] = &[
    driver("net_af_packet", &["net_af_packet"], &[]),
    driver("net_af_xdp", &["net_af_xdp"], &["libxdp", "libbpf"]),
    driver("net_null", &["net_null"], &[]),
    driver("net_pcap", &["net_pcap"], &["libpcap"]),
    driver("net_ring", &["net_ring"], &[]),
    driver("net_tap", &["net_tap", "net_tun"], &[]),
    driver("net_virtio", &["net_virtio_user"], &[]),
];

const fn driver(
    archive: &'static str,
    devices: &'static [&'static str],
    needs: &'static [&'static str],
) -> Driver {
    Driver {
        archive,
        devices,
        needs,
    }
}

fn main() {
    for file in ["shim/shim.h", "shim/shim.c", "build.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for variable in ["RINGWAY_DPDK_DRIVERS", "LIBCLANG_PATH", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let dpdk = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|error| {
            panic!("DPDK's development files were not found; run dpdk-build/setup.sh\n{error}")
        });
    let flags = compiler_flags(&dpdk);
    generate_bindings(&flags);
    compile_shim(&flags);
    link(&dpdk);
}

/// `-I`, `-include rte_config.h` and `-march` as DPDK was built with.
fn compiler_flags(dpdk: &pkg_config::Library) -> Vec<String> {
    let output = std::process::Command::new(
        env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into()),
    )
    .args(["--cflags-only-other", "libdpdk"])
    .output()
    .expect("pkg-config ran a moment ago");
    let other = String::from_utf8_lossy(&output.stdout);
    dpdk.include_paths
        .iter()
        .map(|path| format!("-I{}", path.display()))
        .chain(other.split_whitespace().map(str::to_owned))
        .collect()
}

fn generate_bindings(flags: &[String]) {
    choose_libclang();
    bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(flags)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .allowlist_function("rw_.*")
        .allowlist_type("rw_.*")
        .allowlist_var("RW_.*")
        .allowlist_function("rte_eal_init")
        .allowlist_function("rte_memzone_free|rte_mempool_(free|avail_count)")
        .allowlist_function("rte_eth_dev_(start|stop|get_mtu|set_mtu)")
        // DPDK's own structures are only ever pointed at.
        .opaque_type("rte_.*")
        .blocklist_type("rte_(mbuf|mempool|memzone)(__bindgen_ty.*)?")
        .raw_line("/// A packet buffer; its fields are read at the `RW_MBUF_` offsets.")
        .raw_line("#[repr(C)] pub struct rte_mbuf { _opaque: [u8; 0] }")
        .raw_line("#[repr(C)] pub struct rte_mempool { _opaque: [u8; 0] }")
        .raw_line("#[repr(C)] pub struct rte_memzone { _opaque: [u8; 0] }")
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(true)
        .generate()
        .expect("bindgen over shim/shim.h")
        .write_to_file(out("bindings.rs"))
        .expect("write bindings.rs");
}

/// With several LLVMs installed, bindgen may load one release's libclang and
/// give it another's headers, and then `emmintrin.h` does not parse. Takes both
/// from the newest release that is complete.
fn choose_libclang() {
    if env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let newest = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version: u32 = name.to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            let complete = entry.path().join("lib/libclang.so.1").exists()
                && has_builtin_headers(&entry.path());
            complete.then(|| (version, entry.path()))
        })
        .max();
    if let Some((_, llvm)) = newest {
        // SAFETY: this script has started no thread yet.
        unsafe {
            env::set_var("LIBCLANG_PATH", llvm.join("lib"));
            let clang = llvm.join("bin/clang");
            if clang.exists() && env::var_os("CLANG_PATH").is_none() {
                env::set_var("CLANG_PATH", clang);
            }
        }
    }
}

fn has_builtin_headers(llvm: &Path) -> bool {
    fs::read_dir(llvm.join("lib/clang"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.path().join("include/emmintrin.h").exists())
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    build
        .file("shim/shim.c")
        .opt_level(3)
        .flag("-Wno-deprecated-declarations")
        .warnings(true);
    for flag in flags {
        build.flag(flag);
    }
    build.compile("ringway_dpdk_shim");
}

fn link(dpdk: &pkg_config::Library) {
    let folder = PathBuf::from(
        pkg_config::get_variable("libdpdk", "libdir").expect("libdpdk.pc names its libdir"),
    );
    println!("cargo:rustc-link-search=native={}", folder.display());
    assert!(
        archive(&folder, "eal").exists(),
        "{} has no librte_eal.a: ringway links DPDK statically; build DPDK with \
         -Ddefault_library=static or both",
        folder.display()
    );
    let mut linked: Vec<String> = Vec::new();
    let mut devices: Vec<&str> = Vec::new();
    for library in LIBRARIES {
        if archive(&folder, library).exists() {
            linked.push((*library).to_owned());
        }
    }
    // EAL finds out about NUMA nodes through libnuma, and borrows strlcpy from libbsd where it was built so.
    let mut system = vec!["numa".to_owned()];
    if dpdk.libs.iter().any(|library| library == "bsd") || static_needs_bsd() {
        system.push("bsd".to_owned());
    }
    for driver in DRIVERS {
        match system_libraries(driver, &folder) {
            Ok(libraries) => {
                linked.push(driver.archive.to_owned());
                devices.extend(driver.devices);
                system.extend(libraries);
            }
            Err(reason) => println!("cargo:warning=no {} driver: {reason}", driver.archive),
        }
    }
    let more = env::var("RINGWAY_DPDK_DRIVERS").unwrap_or_default();
    for name in more
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        assert!(
            archive(&folder, name).exists(),
            "RINGWAY_DPDK_DRIVERS names {name}, but there is no {}",
            archive(&folder, name).display()
        );
        linked.push(name.to_owned());
    }
    for library in &linked {
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=rte_{library}");
    }
    for library in &system {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    let list = format!(
        "/// Device name prefixes of the virtual drivers linked in.\n\
         pub const VDEV_DRIVERS: &[&str] = &{devices:?};\n"
    );
    fs::write(out("drivers.rs"), list).expect("write drivers.rs");
}

/// The system libraries a driver needs, or why it cannot be linked.
fn system_libraries(driver: &Driver, folder: &Path) -> Result<Vec<String>, String> {
    let archive = archive(folder, driver.archive);
    if !archive.exists() {
        return Err(format!("{} does not exist", archive.display()));
    }
    let mut libraries = Vec::new();
    for package in driver.needs {
        let found = pkg_config::Config::new()
            .cargo_metadata(false)
            .probe(package)
            .map_err(|_| format!("it needs {package}'s development files"))?;
        libraries.extend(found.libs);
    }
    Ok(libraries)
}

fn static_needs_bsd() -> bool {
    pkg_config::Config::new()
        .statik(true)
        .cargo_metadata(false)
        .probe("libdpdk")
        .is_ok_and(|dpdk| dpdk.libs.iter().any(|library| library == "bsd"))
}

fn archive(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("librte_{name}.a"))
}

fn out(file: &str) -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(file)
}

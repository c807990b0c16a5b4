//! What hugepages the machine has free, asked before DPDK starts: a failed
//! `rte_eal_init` cannot be repeated in the same process.

// UNSAFETY: maps and unmaps an untouched region to learn whether the kernel
// would give it.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, ptr};

const SIZES: &str = "/sys/kernel/mm/hugepages";

/// One page size that the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSize {
    pub bytes: u64,
    /// Free pages that nobody has reserved.
    pub free: u64,
}

/// All page sizes, smallest first.
pub(crate) fn sizes() -> Vec<PageSize> {
    read_sizes(Path::new(SIZES))
}

fn read_sizes(folder: &Path) -> Vec<PageSize> {
    let mut sizes: Vec<PageSize> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let number = |file: &str| -> u64 {
                fs::read_to_string(entry.path().join(file))
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .unwrap_or(0)
            };
            let free = number("free_hugepages").saturating_sub(number("resv_hugepages"));
            Some(PageSize {
                bytes: kib * 1024,
                free,
            })
        })
        .collect();
    sizes.sort_by_key(|size| size.bytes);
    sizes
}

/// Why `bytes` of memory cannot be had in pages of `size`, if so.
pub(crate) fn shortage(size: PageSize, bytes: u64) -> Option<String> {
    let needed = bytes.div_ceil(size.bytes);
    if size.free == 0 {
        return Some(format!("no hugepages of {} are free", human(size.bytes)));
    }
    if size.free < needed {
        return Some(format!(
            "{} hugepages of {} are free, {needed} are needed for {}",
            size.free,
            human(size.bytes),
            human(bytes)
        ));
    }
    (!mappable(size.bytes, needed)).then(|| {
        format!(
            "the kernel shows {} free hugepages of {} but does not give {needed} to this process \
             (a cgroup or container limit?)",
            size.free,
            human(size.bytes)
        )
    })
}

/// Whether the kernel would give this process `pages` pages.
fn mappable(page_bytes: u64, pages: u64) -> bool {
    let Ok(length) = usize::try_from(page_bytes * pages) else {
        return false;
    };
    let Ok(log2) = i32::try_from(page_bytes.trailing_zeros()) else {
        return false;
    };
    let flags = libc::MAP_PRIVATE
        | libc::MAP_ANONYMOUS
        | libc::MAP_HUGETLB
        | (log2 << libc::MAP_HUGE_SHIFT);
    // SAFETY: a fresh anonymous mapping, never touched, only reserved.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { libc::munmap(address, length) };
    true
}

/// Where a hugetlbfs with this page size is mounted.
pub(crate) fn mount_point(page_bytes: u64) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    find_mount(&mounts, page_bytes)
}

fn find_mount(mounts: &str, page_bytes: u64) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = kind == "hugetlbfs"
            && options
                .split(',')
                .filter_map(|option| option.strip_prefix("pagesize="))
                .any(|size| parse_size(size) == Some(page_bytes));
        fits.then(|| PathBuf::from(path))
    })
}

fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    match &text[split..] {
        "K" => number.checked_mul(1 << 10),
        "M" => number.checked_mul(1 << 20),
        "G" => number.checked_mul(1 << 30),
        _ => None,
    }
}

/// "2 MiB"
pub(crate) fn human(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_shows() {
        let folder = tempfile::tempdir().unwrap();
        for (name, free, reserved) in [
            ("hugepages-1048576kB", "1", "0"),
            ("hugepages-2048kB", "7", "2"),
        ] {
            let size = folder.path().join(name);
            fs::create_dir(&size).unwrap();
            fs::write(size.join("free_hugepages"), format!("{free}\n")).unwrap();
            fs::write(size.join("resv_hugepages"), format!("{reserved}\n")).unwrap();
        }
        let sizes = read_sizes(folder.path());
        assert_eq!(
            sizes[0],
            PageSize {
                bytes: 2 << 20,
                free: 5
            }
        );
        assert_eq!(
            sizes[1],
            PageSize {
                bytes: 1 << 30,
                free: 1
            }
        );
    }

    #[test]
    fn a_shortage_says_how_many_are_needed() {
        let few = PageSize {
            bytes: 2 << 20,
            free: 3,
        };
        let said = shortage(few, 64 << 20).unwrap();
        assert_eq!(
            said,
            "3 hugepages of 2 MiB are free, 32 are needed for 64 MiB"
        );
        let none = PageSize {
            bytes: 1 << 30,
            free: 0,
        };
        assert_eq!(shortage(none, 1).unwrap(), "no hugepages of 1 GiB are free");
    }

    #[test]
    fn finds_the_mount_of_a_page_size() {
        let mounts = "proc /proc proc rw 0 0\n\
                      none /mnt/a hugetlbfs rw,relatime,pagesize=2M 0 0\n\
                      none /mnt/b hugetlbfs rw,pagesize=1024M 0 0\n";
        assert_eq!(find_mount(mounts, 1 << 30), Some(PathBuf::from("/mnt/b")));
        assert_eq!(find_mount(mounts, 2 << 20), Some(PathBuf::from("/mnt/a")));
        assert_eq!(find_mount(mounts, 16 << 20), None);
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(512 << 20), "512 MiB");
        assert_eq!(human(1 << 30), "1 GiB");
        assert_eq!(human(1000), "1000 bytes");
    }
}

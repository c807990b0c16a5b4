//! Hugepages.

use super::{Facts, Found};

/// What tables and packets need beside each poll-mode core, in KiB.
const NEEDED_KIB: u64 = 256 << 10;

/// Tables in ordinary memory, or hugepages on another node than the cores.
pub fn hugepages(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(why) = &facts.ordinary_memory {
        let what = format!("tables and packets lie in ordinary memory: {why}");
        let remedy = [
            "sysctl -w vm.nr_hugepages=512",
            "systemctl restart ringwayd",
        ];
        found.push(
            Found::warning(
                "host",
                what,
                "lookups cost more, for each page needs its own TLB entry",
            )
            .mended_by(remedy.map(str::to_owned).to_vec()),
        );
        return found;
    }
    let elsewhere = facts.nodes.iter().filter(|pages| {
        let polls = facts.cores.iter().any(|core| core.node == pages.node);
        polls && pages.total_kib < NEEDED_KIB
    });
    for pages in elsewhere {
        let (node, mib) = (pages.node, pages.total_kib >> 10);
        let what =
            format!("NUMA node {node}, where poll-mode cores are, has {mib} MiB of hugepages");
        let why = "tables and packets lie on another node: each access crosses between them";
        let file =
            format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages");
        let remedy = vec![
            format!("echo 512 > {file}"),
            "systemctl restart ringwayd".to_owned(),
        ];
        found.push(Found::warning("host", what, why).mended_by(remedy));
    }
    found
}

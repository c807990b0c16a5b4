//! Memory of dropped mempools comes back. A process of its own, for it takes
//! all the memory there is.

use dpdk::{BURST, Eal, MbufBurst, Mempool};

#[test]
fn dropped_mempools_make_room_for_new_ones() {
    let eal = Eal::for_tests();
    // 40 times 24 MiB through 256 MiB.
    for _ in 0..40 {
        let pool = Mempool::create(&eal, "same name", 10_000, 2048, 64).unwrap();
        assert!(pool.memory_bytes() > 20 << 20);
        let mut burst = MbufBurst::new();
        assert_eq!(pool.alloc_burst(&mut burst, BURST), BURST);
    }
}

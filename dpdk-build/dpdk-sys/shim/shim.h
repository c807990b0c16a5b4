/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ringway calls in DPDK, as plain functions and constants.
 *
 * DPDK's burst functions are static inline and its structures change from
 * release to release. Everything of that kind is behind this header: one C
 * call per burst (never per packet), structures of our own for what is
 * reported, and field offsets as constants, so that the Rust side names no
 * DPDK structure's field. Differences between releases live in shim.c alone.
 *
 * Functions that return int give 0 (or a count) or a negative errno.
 */
#ifndef RINGWAY_DPDK_SHIM_H
#define RINGWAY_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_memzone.h>

/* Where a packet buffer's fields lie, and the limits of names. */
enum rw_layout {
	RW_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	RW_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	RW_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	RW_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	RW_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	RW_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	RW_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	RW_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	RW_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
	RW_HEADROOM = RTE_PKTMBUF_HEADROOM,
	RW_MAX_SEGS = RTE_MBUF_MAX_NB_SEGS,
	RW_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	RW_MEMZONE_NAME_MAX = RTE_MEMZONE_NAMESIZE,
	RW_MEMPOOL_NAME_MAX = RTE_MEMPOOL_NAMESIZE,
	RW_DEV_NAME_MAX = RTE_DEV_NAME_MAX_LEN,
};

/* Where the lengths lie in a packet buffer's tx_offload word, in bits. */
enum rw_tx_lengths {
	RW_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS,
	RW_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS,
	RW_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS,
	RW_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS,
	RW_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS,
	RW_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS,
	RW_TSO_SEGSZ_SHIFT = RTE_MBUF_TSO_SEGSZ_OFS,
	RW_TSO_SEGSZ_BITS = RTE_MBUF_TSO_SEGSZ_BITS,
};

/* What is asked for one packet: bits of ol_flags. */
static const uint64_t RW_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t RW_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t RW_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t RW_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t RW_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t RW_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;

/* ---- EAL ---- */

/* Receives each piece of log text with DPDK's level (1 emergency … 8 debug). */
typedef void (*rw_log_sink)(uint32_t level, const char *text, size_t len);

/* Sends DPDK's log to `sink`; critical messages also to stderr, for DPDK
 * aborts after them. Call before rte_eal_init. */
int rw_log_capture(rw_log_sink sink);
int rw_errno(void);
/* "DPDK 22.11.11" */
const char *rw_version(void);
uint64_t rw_tsc_hz(void);
/* Makes the calling thread known to DPDK (its own lcore id). */
int rw_thread_register(void);
void rw_thread_unregister(void);

/* ---- memory ---- */

/* The memzone's address and length go to the out parameters. */
const struct rte_memzone *rw_memzone_reserve(const char *name, size_t len,
		uint32_t align, uint8_t **addr, size_t *actual);
struct rte_mempool *rw_mempool_create(const char *name, uint32_t count,
		uint32_t cache, uint16_t data_room);
/* Bytes of memory under a pool: the objects' chunks and its own structure. */
size_t rw_mempool_memory(struct rte_mempool *pool);

/* All `n` or none: 0 or negative errno. */
int rw_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t n);
/* One buffer or NULL. */
struct rte_mbuf *rw_mbuf_alloc(struct rte_mempool *pool);
void rw_mbuf_free_bulk(struct rte_mbuf **mbufs, uint32_t n);

/* ---- ports ---- */

struct rw_port_info {
	char device[RTE_DEV_NAME_MAX_LEN];
	char driver[RTE_DEV_NAME_MAX_LEN];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	uint16_t min_mtu;
	uint16_t max_mtu;
	/* It gives frames that do not fit one buffer as a chain. */
	bool rx_scatter;
	/* What it can do to packets that it sends. */
	bool tx_ipv4_cksum;
	bool tx_tcp_cksum;
	bool tx_udp_cksum;
	bool tx_tcp_tso;
	bool tx_multi_segs;
	/* The most buffers of one packet. */
	uint16_t tx_max_segs;
};

struct rw_port_config {
	uint16_t rx_queues;
	uint16_t tx_queues;
	/* Per queue; set to what the driver takes. */
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint16_t mtu; /* 0: leave the device's own */
	/* Set: what packets are spread over several receive queues by. */
	bool rss_ip, rss_tcp, rss_udp;
	/* Set: the device tells changes of its link. */
	bool link_events;
	struct rte_mempool *pool;
};

struct rw_port_stats {
	uint64_t rx_packets, tx_packets, rx_bytes, tx_bytes;
	uint64_t rx_missed, rx_errors, tx_errors, rx_no_mbuf;
};

struct rw_port_link {
	bool up;
	bool full_duplex;
	bool speed_known;
	uint32_t speed_mbps;
};

struct rw_xstat {
	char name[RTE_ETH_XSTATS_NAME_SIZE];
	uint64_t value;
};

enum rw_event {
	RW_EVENT_LINK = 1, /* the link changed */
	RW_EVENT_REMOVED, /* the device is going or gone */
};

/* Told on one of DPDK's own threads, which must not be kept waiting. */
typedef void (*rw_event_sink)(void *arg, uint32_t event);

/* Which step of rw_port_configure failed. */
enum rw_configure_step {
	RW_STEP_DEVICE = 1,
	RW_STEP_MTU,
	RW_STEP_RX_QUEUE,
	RW_STEP_TX_QUEUE,
};

/* Creates a virtual device (name "net_pcap0", args "rx_pcap=…" or ""). */
int rw_vdev_attach(const char *name, const char *args);
int rw_vdev_detach(const char *name);
/* Probes a device on a bus ("0000:01:00.0,key=value"). */
int rw_bus_attach(const char *devargs);
/* The first port of the device called `name`; -ENODEV when there is none. */
int rw_port_of_device(const char *name);
/* Closes the port; then removes its device from its bus when `bus_device` and
 * no other port is on it. */
int rw_port_close(uint16_t port, bool bus_device);
int rw_port_info_get(uint16_t port, struct rw_port_info *info);
int rw_port_configure(uint16_t port, struct rw_port_config *config, int *step);
/* Tells `sink`, the same for all ports, what happens to a port, until
 * rw_port_unwatch has returned. */
int rw_port_watch(uint16_t port, rw_event_sink sink, void *arg);
void rw_port_unwatch(uint16_t port, void *arg);
/* The same for the device on its bus. Only some buses tell. */
int rw_device_watch(const char *name, rw_event_sink sink, void *arg);
void rw_device_unwatch(const char *name, void *arg);
/* 0, also where the driver knows no such mode. */
int rw_port_promiscuous(uint16_t port, bool on);
int rw_port_mac(uint16_t port, uint8_t mac[6]);
int rw_port_stats_get(uint16_t port, struct rw_port_stats *stats);
/* The device's own counters: how many it has; the first `n` go to `stats`. */
int rw_port_xstats_get(uint16_t port, struct rw_xstat *stats, uint32_t n);
int rw_port_link_get(uint16_t port, struct rw_port_link *link);

uint16_t rw_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
/* Makes packets ready that ask for offloads: how many, from the front; the one
 * behind them is not possible. */
uint16_t rw_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);
uint16_t rw_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
/* rte_dev_event_callback_register has been experimental since 2018. */
#define ALLOW_EXPERIMENTAL_API
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_cycles.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_version.h>

#include "shim.h"

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "ringway needs DPDK 22.11 or newer"
#endif

/* ---- EAL ---- */

static rw_log_sink log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	int level = rte_log_cur_msg_loglevel();

	(void)cookie;
	if (level <= (int)RTE_LOG_CRIT)
		fwrite(text, 1, len, stderr);
	log_sink((uint32_t)level, text, len);
	return (ssize_t)len;
}

int rw_log_capture(rw_log_sink sink)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -ENOMEM;
	return rte_openlog_stream(stream);
}

int rw_errno(void)
{
	return rte_errno;
}

const char *rw_version(void)
{
	return rte_version();
}

uint64_t rw_tsc_hz(void)
{
	return rte_get_tsc_hz();
}

int rw_thread_register(void)
{
	return rte_thread_register() == 0 ? 0 : -rte_errno;
}

void rw_thread_unregister(void)
{
	rte_thread_unregister();
}

/* ---- memory ---- */

const struct rte_memzone *rw_memzone_reserve(const char *name, size_t len,
		uint32_t align, uint8_t **addr, size_t *actual)
{
	const struct rte_memzone *zone;

	/* No size hint: whatever page size the heap has. */
	zone = rte_memzone_reserve_aligned(name, len, SOCKET_ID_ANY,
			RTE_MEMZONE_SIZE_HINT_ONLY, align);
	if (zone == NULL)
		return NULL;
	*addr = zone->addr;
	*actual = zone->len;
#ifdef RTE_MALLOC_DEBUG
	/* Such a DPDK poisons freed memory; every other one clears it. */
	memset(zone->addr, 0, zone->len);
#endif
	return zone;
}

struct rte_mempool *rw_mempool_create(const char *name, uint32_t count,
		uint32_t cache, uint16_t data_room)
{
	return rte_pktmbuf_pool_create(name, count, cache, 0, data_room, SOCKET_ID_ANY);
}

static void add_chunk(struct rte_mempool *pool, void *total,
		struct rte_mempool_memhdr *chunk, unsigned int index)
{
	(void)pool;
	(void)index;
	*(size_t *)total += chunk->len;
}

size_t rw_mempool_memory(struct rte_mempool *pool)
{
	size_t total = sizeof(*pool);

	rte_mempool_mem_iter(pool, add_chunk, &total);
	return total;
}

int rw_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t n)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, n);
}

struct rte_mbuf *rw_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void rw_mbuf_free_bulk(struct rte_mbuf **mbufs, uint32_t n)
{
	rte_pktmbuf_free_bulk(mbufs, n);
}

/* ---- ports ---- */

int rw_vdev_attach(const char *name, const char *args)
{
	return rte_vdev_init(name, args);
}

int rw_vdev_detach(const char *name)
{
	return rte_vdev_uninit(name);
}

int rw_bus_attach(const char *devargs)
{
	return rte_dev_probe(devargs);
}

int rw_port_of_device(const char *name)
{
	struct rte_eth_dev_info info;
	uint16_t port;

	RTE_ETH_FOREACH_DEV(port) {
		if (rte_eth_dev_info_get(port, &info) == 0 && info.device != NULL &&
				strcmp(rte_dev_name(info.device), name) == 0)
			return port;
	}
	return -ENODEV;
}

int rw_port_close(uint16_t port, bool bus_device)
{
	struct rte_eth_dev_info info;
	struct rte_device *device = NULL;
	uint16_t sibling;
	int ret;

	if (bus_device && rte_eth_dev_info_get(port, &info) == 0)
		device = (struct rte_device *)(uintptr_t)info.device;
	ret = rte_eth_dev_close(port);
	if (ret != 0 || device == NULL)
		return ret;
	RTE_ETH_FOREACH_DEV(sibling) {
		if (rte_eth_dev_info_get(sibling, &info) == 0 && info.device == device)
			return 0;
	}
	return rte_dev_remove(device);
}

/* What of a device's transmit offloads is used. */
static uint64_t tx_offloads(const struct rte_eth_dev_info *info)
{
	uint64_t used = RTE_ETH_TX_OFFLOAD_MULTI_SEGS | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM |
			RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM |
			RTE_ETH_TX_OFFLOAD_TCP_TSO;

	/* net_tap cuts segments in software, and refuses those that are as long
	 * as its MTU allows: it counts the Ethernet header too. */
	if (info->driver_name != NULL && (strcmp(info->driver_name, "net_tap") == 0 ||
			strcmp(info->driver_name, "net_tun") == 0))
		used &= ~RTE_ETH_TX_OFFLOAD_TCP_TSO;
	return info->tx_offload_capa & used;
}

/* The largest MTU as rte_eth_dev_configure checks it: many drivers give only
 * the longest frame. */
static uint16_t max_mtu(const struct rte_eth_dev_info *info)
{
	uint32_t overhead = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;

	if (info->max_mtu != UINT16_MAX && info->max_rx_pktlen > info->max_mtu)
		overhead = info->max_rx_pktlen - info->max_mtu;
	if (info->max_rx_pktlen <= overhead)
		return info->max_mtu;
	return RTE_MIN(info->max_mtu, info->max_rx_pktlen - overhead);
}

int rw_port_info_get(uint16_t port, struct rw_port_info *out)
{
	struct rte_eth_dev_info info;
	uint64_t offloads;
	int ret = rte_eth_dev_info_get(port, &info);

	if (ret != 0)
		return ret;
	offloads = tx_offloads(&info);
	memset(out, 0, sizeof(*out));
	if (info.device != NULL)
		snprintf(out->device, sizeof(out->device), "%s", rte_dev_name(info.device));
	if (info.driver_name != NULL)
		snprintf(out->driver, sizeof(out->driver), "%s", info.driver_name);
	out->max_rx_queues = info.max_rx_queues;
	out->max_tx_queues = info.max_tx_queues;
	out->min_mtu = info.min_mtu;
	out->max_mtu = max_mtu(&info);
	out->rx_scatter = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	out->tx_ipv4_cksum = offloads & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
	out->tx_tcp_cksum = offloads & RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
	out->tx_udp_cksum = offloads & RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	out->tx_tcp_tso = offloads & RTE_ETH_TX_OFFLOAD_TCP_TSO;
	out->tx_multi_segs = offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	/* Drivers that say nothing leave zero. */
	out->tx_max_segs = info.tx_desc_lim.nb_seg_max != 0 ?
			info.tx_desc_lim.nb_seg_max : RTE_MBUF_MAX_NB_SEGS;
	return 0;
}

/* Configures with the interrupts that the driver has; without, should it take
 * them back. */
static int configure(uint16_t port, const struct rw_port_config *config,
		const struct rte_eth_dev_info *info, struct rte_eth_conf *conf)
{
	int ret;

	conf->intr_conf.lsc = (*info->dev_flags & RTE_ETH_DEV_INTR_LSC) != 0;
	conf->intr_conf.rmv = (*info->dev_flags & RTE_ETH_DEV_INTR_RMV) != 0;
	ret = rte_eth_dev_configure(port, config->rx_queues, config->tx_queues, conf);
	if (ret == 0 || (!conf->intr_conf.lsc && !conf->intr_conf.rmv))
		return ret;
	conf->intr_conf.lsc = 0;
	conf->intr_conf.rmv = 0;
	return rte_eth_dev_configure(port, config->rx_queues, config->tx_queues, conf);
}

int rw_port_configure(uint16_t port, struct rw_port_config *config, int *step)
{
	const uint64_t spread = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
	struct rte_eth_conf conf = { 0 };
	struct rte_eth_dev_info info;
	struct rte_eth_rxconf rxconf;
	struct rte_eth_txconf txconf;
	uint16_t room = rte_pktmbuf_data_room_size(config->pool) - RTE_PKTMBUF_HEADROOM;
	uint16_t mtu = config->mtu;
	uint64_t hashes = 0;
	uint16_t queue;
	int socket = rte_eth_dev_socket_id(port);
	int ret;

	*step = RW_STEP_DEVICE;
	ret = rte_eth_dev_info_get(port, &info);
	if (ret != 0)
		return ret;
	if (mtu == 0) {
		ret = rte_eth_dev_get_mtu(port, &mtu);
		if (ret != 0)
			return ret;
	}
	conf.rxmode.mtu = mtu;
	/* Frames that do not fit one buffer come as a chain, where the device can. */
	if ((uint32_t)mtu + RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN + 2 * RTE_VLAN_HLEN > room)
		conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	/* Nothing else is asked for: VLAN tags stay in the frame, checksums are
	 * whole, nothing is joined. */
	conf.txmode.offloads = tx_offloads(&info);
	if (config->rx_queues > 1)
		hashes = info.flow_type_rss_offloads & spread;
	if (hashes != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = hashes;
	}
	ret = configure(port, config, &info, &conf);
	if (ret != 0)
		return ret;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(port, &config->rx_descriptors,
			&config->tx_descriptors);
	if (ret != 0)
		return ret;
	config->rss_ip = hashes & RTE_ETH_RSS_IP;
	config->rss_tcp = hashes & RTE_ETH_RSS_TCP;
	config->rss_udp = hashes & RTE_ETH_RSS_UDP;
	config->link_events = conf.intr_conf.lsc;

	if (config->mtu != 0) {
		*step = RW_STEP_MTU;
		/* A driver that knows no MTU passes every size. */
		ret = rte_eth_dev_set_mtu(port, config->mtu);
		if (ret != 0 && ret != -ENOTSUP)
			return ret;
	}

	*step = RW_STEP_RX_QUEUE;
	rxconf = info.default_rxconf;
	rxconf.offloads = conf.rxmode.offloads;
	for (queue = 0; queue < config->rx_queues; queue++) {
		ret = rte_eth_rx_queue_setup(port, queue, config->rx_descriptors,
				(unsigned int)socket, &rxconf, config->pool);
		if (ret != 0)
			return ret;
	}

	*step = RW_STEP_TX_QUEUE;
	txconf = info.default_txconf;
	txconf.offloads = conf.txmode.offloads;
	for (queue = 0; queue < config->tx_queues; queue++) {
		ret = rte_eth_tx_queue_setup(port, queue, config->tx_descriptors,
				(unsigned int)socket, &txconf);
		if (ret != 0)
			return ret;
	}
	return 0;
}

static rw_event_sink event_sink;

static int port_event(uint16_t port, enum rte_eth_event_type type, void *arg, void *result)
{
	(void)port;
	(void)result;
	event_sink(arg, type == RTE_ETH_EVENT_INTR_LSC ? RW_EVENT_LINK : RW_EVENT_REMOVED);
	return 0;
}

static void device_event(const char *name, enum rte_dev_event_type type, void *arg)
{
	(void)name;
	if (type == RTE_DEV_EVENT_REMOVE)
		event_sink(arg, RW_EVENT_REMOVED);
}

int rw_port_watch(uint16_t port, rw_event_sink sink, void *arg)
{
	int ret;

	event_sink = sink;
	ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_LSC, port_event, arg);
	if (ret != 0)
		return ret;
	ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RMV, port_event, arg);
	if (ret != 0)
		rw_port_unwatch(port, arg);
	return ret;
}

void rw_port_unwatch(uint16_t port, void *arg)
{
	static const enum rte_eth_event_type types[] = {
		RTE_ETH_EVENT_INTR_LSC, RTE_ETH_EVENT_INTR_RMV,
	};

	for (size_t i = 0; i < RTE_DIM(types); i++)
		/* -EAGAIN: it is being called right now. */
		while (rte_eth_dev_callback_unregister(port, types[i], port_event, arg) == -EAGAIN)
			usleep(100);
}

int rw_device_watch(const char *name, rw_event_sink sink, void *arg)
{
	event_sink = sink;
	return rte_dev_event_callback_register(name, device_event, arg);
}

void rw_device_unwatch(const char *name, void *arg)
{
	while (rte_dev_event_callback_unregister(name, device_event, arg) == -EAGAIN)
		usleep(100);
}

int rw_port_promiscuous(uint16_t port, bool on)
{
	int ret = on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);

	return ret == -ENOTSUP ? 0 : ret;
}

int rw_port_mac(uint16_t port, uint8_t mac[6])
{
	struct rte_ether_addr address;
	int ret = rte_eth_macaddr_get(port, &address);

	if (ret == 0)
		memcpy(mac, address.addr_bytes, 6);
	return ret;
}

int rw_port_stats_get(uint16_t port, struct rw_port_stats *out)
{
	struct rte_eth_stats stats;
	int ret = rte_eth_stats_get(port, &stats);

	if (ret != 0)
		return ret;
	*out = (struct rw_port_stats){
		.rx_packets = stats.ipackets,
		.tx_packets = stats.opackets,
		.rx_bytes = stats.ibytes,
		.tx_bytes = stats.obytes,
		.rx_missed = stats.imissed,
		.rx_errors = stats.ierrors,
		.tx_errors = stats.oerrors,
		.rx_no_mbuf = stats.rx_nombuf,
	};
	return 0;
}

int rw_port_xstats_get(uint16_t port, struct rw_xstat *stats, uint32_t n)
{
	struct rte_eth_xstat_name *names = NULL;
	struct rte_eth_xstat *values = NULL;
	int count = rte_eth_xstats_get_names(port, NULL, 0);
	int got;

	if (count <= 0 || n == 0)
		return count;
	names = calloc((size_t)count, sizeof(*names));
	values = calloc((size_t)count, sizeof(*values));
	if (names == NULL || values == NULL) {
		count = -ENOMEM;
		goto out;
	}
	got = rte_eth_xstats_get_names(port, names, (unsigned int)count);
	if (got < 0 || got > count) {
		count = got < 0 ? got : -EAGAIN;
		goto out;
	}
	count = got;
	got = rte_eth_xstats_get(port, values, (unsigned int)count);
	if (got < 0) {
		count = got;
		goto out;
	}
	count = RTE_MIN(count, got);
	for (int i = 0; i < count && (uint32_t)i < n; i++) {
		if (values[i].id < (uint64_t)count)
			snprintf(stats[i].name, sizeof(stats[i].name), "%s",
					names[values[i].id].name);
		stats[i].value = values[i].value;
	}
out:
	free(names);
	free(values);
	return count;
}

int rw_port_link_get(uint16_t port, struct rw_port_link *out)
{
	struct rte_eth_link link;
	int ret = rte_eth_link_get_nowait(port, &link);

	if (ret != 0)
		return ret;
	*out = (struct rw_port_link){
		.up = link.link_status == RTE_ETH_LINK_UP,
		.full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX,
		.speed_known = link.link_speed != RTE_ETH_SPEED_NUM_NONE &&
				link.link_speed != RTE_ETH_SPEED_NUM_UNKNOWN,
		.speed_mbps = link.link_speed,
	};
	return 0;
}

uint16_t rw_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, mbufs, n);
}

uint16_t rw_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_prepare(port, queue, mbufs, n);
}

uint16_t rw_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, mbufs, n);
}

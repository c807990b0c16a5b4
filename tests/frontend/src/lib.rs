//! A scripted vhost-user frontend and virtio driver for tests and pktgen.

//! A guest's port: vhost-user session, guest memory and virtio rings.

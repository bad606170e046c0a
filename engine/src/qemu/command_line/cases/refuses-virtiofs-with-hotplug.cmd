error: Memory hotplug does not work in combination with virtio-fs.

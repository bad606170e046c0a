error: NUMA needs to be enabled for memory hotplug

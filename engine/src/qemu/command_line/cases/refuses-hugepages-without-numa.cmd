error: numa needs to be enabled to use hugepages

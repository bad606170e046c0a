error: memory size (1300) must be aligned to 512 for hotplugging

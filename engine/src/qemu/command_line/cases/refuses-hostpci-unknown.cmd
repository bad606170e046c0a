error: no PCI device found for '0a:00.0'

error: vga type serial0 is not compatible with VNC clipboard

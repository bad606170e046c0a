error: Installed QEMU version '10.1.2' is too old to run machine type 'pc-i440fx-11.0+pve0', please upgrade node 'pve1'

error: Installed qemu-server (max feature level for 9.2 is pve1) is too old to run machine type 'pc-i440fx-9.2+pve5', please upgrade node 'pve1'

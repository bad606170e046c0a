error: OVMF (UEFI) BIOS is not supported on 32-bit CPU types

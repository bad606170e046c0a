error: To use AMD SEV, you need to change the BIOS to OVMF.

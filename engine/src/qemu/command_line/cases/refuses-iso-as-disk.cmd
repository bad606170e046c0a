error: scsi0: explicit media parameter is required for iso images

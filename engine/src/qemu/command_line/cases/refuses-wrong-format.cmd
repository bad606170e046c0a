error: drive 'scsi0' - volume 'local:8006/vm-8006-disk-0.raw' - 'format=qcow2' option different from storage format 'raw'

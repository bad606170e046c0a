error: Please disable ACLs for virtiofs on Windows VMs, otherwise the virtiofs shared directory cannot be mounted.

error: Missing cid for vsock.

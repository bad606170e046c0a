error: bridge 'vmbr9' does not exist

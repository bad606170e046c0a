error: 'snapshot' option is not yet supported for '-blockdev'

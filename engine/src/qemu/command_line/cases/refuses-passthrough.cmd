error: option 'hostpci0' is not supported yet

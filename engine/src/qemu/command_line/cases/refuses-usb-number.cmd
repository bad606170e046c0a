error: using usb5 is only possible with machine type >= 7.1 and ostype l26 or windows > 7

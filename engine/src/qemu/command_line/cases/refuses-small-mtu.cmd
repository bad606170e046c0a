error: netdev net0: MTU '500' is smaller than the IP minimum MTU '576'

error: CPU model 'cortex-a72' does not exist for configured vCPU architecture 'x86_64'

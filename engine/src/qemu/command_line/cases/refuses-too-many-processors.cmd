error: MAX 16 vcpus allowed per VM on this node

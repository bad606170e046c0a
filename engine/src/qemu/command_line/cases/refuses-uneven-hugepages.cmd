error: Memory size 1536 is not a multiple of the requested hugepages size 1024

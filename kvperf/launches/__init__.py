"""What a stack really runs for an operation: kernel, tiles, splits, waves, bytes and FLOPs. One room a family."""

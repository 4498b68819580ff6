"""How the kernels are compiled: policy and cache, intrinsics, and loops called by their address."""

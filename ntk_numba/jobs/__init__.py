"""What a person starts: kernels in memory, kernels to disk, plans, checks, pictures."""

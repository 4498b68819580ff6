"""Computing on many machines: parts, workers, schedulers and merging."""

"""Computing on one machine: plan, sweep over the tiles, in memory or streamed to a file."""

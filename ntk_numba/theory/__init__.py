"""The theory of deep networks before any data: fixed points and criticality."""

"""What the theory predicts about networks before any data: criticality."""

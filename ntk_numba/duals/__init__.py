"""What a dual is, and the mathematics that the families of activations share."""

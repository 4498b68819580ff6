"""The base class of duals, and the mathematics that the families of activations share."""

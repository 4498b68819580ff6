"""All pictures that the package draws."""

"""Every picture the package draws."""

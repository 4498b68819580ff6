"""What lies on disk: the data that is read, the Gram files that are written."""

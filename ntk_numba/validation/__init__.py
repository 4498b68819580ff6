"""The statistical check of the exact kernels against networks of finite width."""

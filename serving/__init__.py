"""The dehazer as an HTTP service on Ray Serve."""

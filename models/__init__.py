"""Networks, physics and the image contract: everything that has weights or equations, in plain torch."""

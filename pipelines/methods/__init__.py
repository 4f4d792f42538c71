"""Training methods, without Ray: what one training step computes and what it takes to go on."""

"""What a machine or a cluster has and lacks: ``dehaze doctor``."""

"""Ray jobs, one file per job: ``python -m pipelines.<job> --help``."""

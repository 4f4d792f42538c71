"""Dehaze photographs, folders and videos: on this machine, or as a job on a Ray cluster."""

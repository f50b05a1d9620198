"""The catalogue and its playable sources."""

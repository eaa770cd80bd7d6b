"""Loggers: metrics.csv, which every run writes, and the trackers that the configuration names."""

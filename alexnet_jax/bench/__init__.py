"""Measurements of speed, each beside other programs that do the same work."""

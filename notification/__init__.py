"""Consumes events and tells people."""

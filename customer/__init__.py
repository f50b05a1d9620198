"""Profiles and memberships."""

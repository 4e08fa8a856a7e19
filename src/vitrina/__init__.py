"""Vitrina: an event log becomes a measured, served feed."""

__version__ = "0.1.0"

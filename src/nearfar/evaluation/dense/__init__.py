"""Segmentation by a linear probe of frozen maps: the protocol, and its pictures in the report."""

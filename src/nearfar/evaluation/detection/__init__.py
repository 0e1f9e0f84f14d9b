"""Regions and detections, against boxes that are known."""

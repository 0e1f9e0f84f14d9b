"""Decoding with several image conditions: RITUAL (arXiv 2405.17821), VCD (arXiv 2311.16922) and M3ID, part by part."""

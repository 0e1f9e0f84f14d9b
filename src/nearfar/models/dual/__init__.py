"""Dual encoders: two towers and the heads that join them."""

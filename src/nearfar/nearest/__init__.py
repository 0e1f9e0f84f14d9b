"""The nearest of many vectors by inner product, exactly."""

from nearfar.nearest.streamed import nearest

__all__ = ["nearest"]

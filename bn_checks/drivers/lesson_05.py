"""Drivers of lesson 05, normalization variants."""

from . import by_hand

__all__ = ["by_hand"]

"""Admin pages. Facts and rollups are shown, never edited."""

from usage.admin import facts, pricing, rollups, sync

__all__ = ["facts", "pricing", "rollups", "sync"]

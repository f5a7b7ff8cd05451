"""Admin pages. Facts and rollups are shown, never edited."""

from usage.admin import disputes, facts, pricing, rollups, sync

__all__ = ["disputes", "facts", "pricing", "rollups", "sync"]

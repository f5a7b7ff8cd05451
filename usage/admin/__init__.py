"""Admin pages. Facts and rollups are shown, never edited."""

from usage.admin import disputes, facts, pricing, rollups, sync
from usage.desk import admin as desk

__all__ = ["desk", "disputes", "facts", "pricing", "rollups", "sync"]

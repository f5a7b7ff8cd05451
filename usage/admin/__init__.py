"""Admin pages. Facts and rollups are shown, never edited."""

from usage.admin import disputes, facts, pricing, rollups, sync
from usage.desk import admin as desk
from usage.desk import attribution_admin as attribution

__all__ = ["attribution", "desk", "disputes", "facts", "pricing", "rollups", "sync"]

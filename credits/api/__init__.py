"""The credits API (api.md)."""

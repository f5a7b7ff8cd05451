"""The Langfuse side, the sync, the facts and rollups, the analytics queries, the API and the
dashboards.
"""

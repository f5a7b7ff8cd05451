"""The built rollups: what is stale, how they are built from the facts, and what of them merges over
periods.
"""

"""From Langfuse's pages to facts, prices, rollups, stats and charges: always all of them together,
or none.
"""

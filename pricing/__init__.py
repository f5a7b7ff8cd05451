"""How usage becomes cost, and cost becomes credits.

No other app knows either (domain.md, Price).
"""

"""Pricing stored usage again: what it would come to (preview, what if), and making it so
(domain.md, Price).
"""

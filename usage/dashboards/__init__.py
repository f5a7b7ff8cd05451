"""The rendered pages: platform, tenant and user, each from the queries that the API answers
with.
"""

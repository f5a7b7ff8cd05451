"""Takes over what the host application knows: tiers, tenants, projects, flows and users
(docs/directory.md).
"""

"""Who: tenants, users, and the projects and flows that the host application has told us about."""

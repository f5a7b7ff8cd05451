"""The Django project: settings, URLs, Celery, and the app that knows tenants and users."""

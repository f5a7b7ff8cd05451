"""The Django project: settings, URLs, Celery, and the app that knows tenants and users."""

from kluisz_analytics.celery import app as celery_app

__all__ = ["celery_app"]

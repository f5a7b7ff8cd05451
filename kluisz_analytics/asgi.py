"""The ASGI entry point, for an asynchronous server."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")

application = get_asgi_application()

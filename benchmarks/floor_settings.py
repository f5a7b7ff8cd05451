"""The application's settings, with the floor's address beside its own."""

from kluisz_analytics.settings import *  # noqa: F403

ROOT_URLCONF = "benchmarks.floor_urls"

"""Settings, all from the environment; with nothing set, the embedded size runs (architecture.md,
Two sizes).
"""

import secrets
import sys
from pathlib import Path
from typing import Any

import environ
from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from kombu import Exchange, Queue

from kluisz_analytics.queues import DELIVERIES, HOUSEKEEPING, LONGEST_SECONDS, QUEUES
from usage.environments import billed_environments

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
if (BASE_DIR / ".env").exists():
    environ.Env.read_env(BASE_DIR / ".env")

VAR_DIR = Path(env.str("KLUISZ_VAR_DIR", default=str(BASE_DIR / "var")))
VAR_DIR.mkdir(parents=True, exist_ok=True)

EMBEDDED = not env.str("DATABASE_URL", default="")
DEBUG = env.bool("KLUISZ_DEBUG", default=False)


def embedded_secret_key() -> str:
    """A random key of this installation's own, made at its first start.

    Collecting static files needs none, so an image that is built has none in it.
    """
    if sys.argv[1:2] == ["collectstatic"]:
        return secrets.token_urlsafe(50)
    path = VAR_DIR / "secret-key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(50))
    return path.read_text()


SECRET_KEY = env.str("KLUISZ_SECRET_KEY", default="") or (embedded_secret_key() if EMBEDDED else "")
if not SECRET_KEY:
    raise ImproperlyConfigured(
        "DATABASE_URL is set, so this is production: set KLUISZ_SECRET_KEY to 50 random characters."
    )
# Secrets of Langfuse connections are encrypted with the first key and read with any: prepend a new
# one to rotate.
ENCRYPTION_KEYS: list[str] = env.list("KLUISZ_ENCRYPTION_KEYS", default=[])

ALLOWED_HOSTS = env.list("KLUISZ_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("KLUISZ_CSRF_TRUSTED_ORIGINS", default=[])
HTTPS_ONLY = env.bool("KLUISZ_HTTPS_ONLY", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS_ONLY else 0
if HTTPS_ONLY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
    "kluisz_analytics.tenants",
    "pricing",
    "credits",
    "usage",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "kluisz_analytics.urls"
WSGI_APPLICATION = "kluisz_analytics.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

if EMBEDDED:
    DATABASES: dict[str, Any] = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": VAR_DIR / "kluisz.sqlite3",
            "OPTIONS": {
                # A writer takes the lock at BEGIN and waits for it, so no transaction fails
                # half-way with "database is locked".
                "transaction_mode": "IMMEDIATE",
                "timeout": 30,
                "init_command": (
                    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-64000;"
                    " PRAGMA temp_store=MEMORY;"
                ),
            },
        }
    }
else:
    DATABASES = {"default": env.db("DATABASE_URL")}
    DATABASES["default"]["CONN_MAX_AGE"] = env.int("KLUISZ_CONN_MAX_AGE", default=60)
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL", default="")
if REDIS_URL:
    CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
    }
else:
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

AUTH_USER_MODEL = "tenants.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

# smtp://user:password@host:587 (also smtp+tls://); without it, mail is written to the log.
EMAIL_CONFIG = env.email("EMAIL_URL", default="consolemail://")
vars().update(EMAIL_CONFIG)
# How long a webhook may take for all of its answer, and a mail server for each step.
DELIVERY_SECONDS = env.int("KLUISZ_DELIVERY_SECONDS", default=10)
if not 1 <= DELIVERY_SECONDS < DELIVERIES.soft_seconds:
    raise ImproperlyConfigured(
        f"KLUISZ_DELIVERY_SECONDS is {DELIVERY_SECONDS}: write 1 to {DELIVERIES.soft_seconds - 1};"
        f" after {DELIVERIES.soft_seconds} s an attempt is interrupted."
    )
EMAIL_TIMEOUT = DELIVERY_SECONDS
DEFAULT_FROM_EMAIL = env.str("KLUISZ_MAIL_FROM", default="kluisz-analytics@localhost")

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
USE_THOUSAND_SEPARATOR = True

STATIC_URL = "static/"
STATIC_ROOT = env.str("KLUISZ_STATIC_ROOT", default=str(VAR_DIR / "static"))
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "usage.dashboards.plotlyjs.PlotlyFinder",
]
Path(STATIC_ROOT).mkdir(parents=True, exist_ok=True)
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# Served straight from the apps, so a fresh machine needs no collectstatic; production collects and
# compresses.
WHITENOISE_USE_FINDERS = env.bool("KLUISZ_STATIC_FROM_APPS", default=EMBEDDED)
WHITENOISE_AUTOREFRESH = DEBUG

# --- Langfuse
# Each name is also accepted without the prefix, and the host as ..._BASE_URL (architecture.md,
# Configuration).


def langfuse_setting(*names: str) -> str:
    """The first of the names that is set, with the prefix before without it; "" when none is."""
    candidates = [f"KLUISZ_{name}" for name in names] + list(names)
    return next((value for name in candidates if (value := env.str(name, default="").strip())), "")


LANGFUSE_PUBLIC_KEY = langfuse_setting("LANGFUSE_PUBLIC_KEY")
LANGFUSE_SECRET_KEY = langfuse_setting("LANGFUSE_SECRET_KEY")
LANGFUSE_HOST = (
    langfuse_setting("LANGFUSE_HOST", "LANGFUSE_BASE_URL") or "https://cloud.langfuse.com"
)
# Of the runs that the tracer sends; "" is Langfuse's default.
LANGFUSE_TRACING_ENVIRONMENT = langfuse_setting("LANGFUSE_TRACING_ENVIRONMENT")
if bool(LANGFUSE_PUBLIC_KEY) != bool(LANGFUSE_SECRET_KEY):
    missing = "KLUISZ_LANGFUSE_SECRET_KEY" if LANGFUSE_PUBLIC_KEY else "KLUISZ_LANGFUSE_PUBLIC_KEY"
    raise ImproperlyConfigured(
        f"Only one of the two Langfuse keys is set: set {missing} too, or neither for the sandbox."
    )
USES_SANDBOX = not LANGFUSE_PUBLIC_KEY

# How many requests Langfuse allows (its Cloud plans; a self-hosted one has no limits).
LANGFUSE_PLAN = env.str(
    "KLUISZ_LANGFUSE_PLAN",
    default="hobby" if LANGFUSE_PUBLIC_KEY and "langfuse.com" in LANGFUSE_HOST else "self_hosted",
)
if LANGFUSE_PLAN not in ("self_hosted", "hobby", "core", "pro"):
    raise ImproperlyConfigured(
        f"KLUISZ_LANGFUSE_PLAN is “{LANGFUSE_PLAN}”: write self_hosted, hobby, core or pro (also"
        " for team, enterprise)."
    )

# Which environments are billed; "" is all but Langfuse's own (usage.environments).
LANGFUSE_BILLED_ENVIRONMENTS = env.str("KLUISZ_LANGFUSE_BILLED_ENVIRONMENTS", default="")
try:
    billed_environments(LANGFUSE_BILLED_ENVIRONMENTS)
except ValueError as error:
    raise ImproperlyConfigured(f"KLUISZ_LANGFUSE_BILLED_ENVIRONMENTS: {error}") from None

SANDBOX_PORT = env.int("KLUISZ_SANDBOX_PORT", default=8799)
SANDBOX_PUBLIC_KEY = "pk-lf-sandbox"
SANDBOX_SECRET_KEY = "sk-lf-sandbox"

# Whether what a run says that it used is charged where its trace does not come within two days.
CHARGE_UNTRACED = env.bool("KLUISZ_CHARGE_UNTRACED", default=False)
# Langfuse's cost and the price lists' are on the desk where they are further apart than so many
# percent.
COST_RATIO_PERCENT = env.int("KLUISZ_COST_RATIO_PERCENT", default=150)
if COST_RATIO_PERCENT <= 100:
    raise ImproperlyConfigured(
        f"KLUISZ_COST_RATIO_PERCENT is {COST_RATIO_PERCENT}: write more than 100, such as 150."
    )
SYNC_BACKFILL_DAYS = env.int("KLUISZ_SYNC_BACKFILL_DAYS", default=90)
SYNC_OVERLAP_HOURS = env.int("KLUISZ_SYNC_OVERLAP_HOURS", default=3)
# How much is applied in one transaction: enough to be set-based, little enough to stay in memory.
SYNC_BATCH_OBSERVATIONS = env.int("KLUISZ_SYNC_BATCH_OBSERVATIONS", default=20_000)
# How many requests to one Langfuse a worker has under way.
SYNC_FETCHERS = env.int("KLUISZ_SYNC_FETCHERS", default=6)
# How long a worker may be silent before its windows are another's.
SYNC_LEASE_SECONDS = env.int("KLUISZ_SYNC_LEASE_SECONDS", default=600)
SYNC_EVERY_SECONDS = env.int("KLUISZ_SYNC_EVERY_SECONDS", default=180)

# --- Credits
# What credits asks of usage, which it knows nothing of.
CREDITS_ESTIMATE_OF_FLOW = "usage.analytics.estimates.estimate_of_flow"
CREDITS_USAGE = "usage.facts.posting.CHARGED_USAGE"
CREDITS_USED = "usage.analytics.spending.used"

# --- Celery
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = "UTC"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A task that names no queue of ours is refused when it is sent, not lost where nobody looks.
CELERY_TASK_QUEUES = [
    Queue(queue.name, Exchange(queue.name), routing_key=queue.name) for queue in QUEUES
]
CELERY_TASK_DEFAULT_QUEUE = HOUSEKEEPING.name
CELERY_TASK_CREATE_MISSING_QUEUES = False
# Most of a task's time is waiting, so there are as many processes on a small machine, too.
CELERY_WORKER_CONCURRENCY = env.int("KLUISZ_WORKER_PROCESSES", default=4)
# A worker takes what it has a process for, and leaves the rest to others.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BEAT_SCHEDULE_FILENAME = str(VAR_DIR / "celerybeat-schedule")
# No message expires (kluisz_analytics.repeated).
CELERY_BEAT_SCHEDULE = {
    "sync-usage": {"task": "usage.tasks.sync_usage", "schedule": SYNC_EVERY_SECONDS},
    "reconcile-usage": {
        "task": "usage.tasks.reconcile_usage",
        "schedule": crontab(hour=3, minute=20),
    },
    "charge-untraced": {"task": "usage.tasks.charge_untraced_runs", "schedule": 300},
    "continue-rulings": {"task": "usage.tasks.continue_rulings", "schedule": 60},
    "continue-attributions": {"task": "usage.tasks.continue_attributions", "schedule": 60},
    "continue-repricings": {"task": "usage.tasks.continue_repricings", "schedule": 60},
    "estimate-flows": {"task": "usage.tasks.estimate_flows", "schedule": crontab(minute=35)},
    "catch-up-grants": {"task": "credits.tasks.catch_up_grants", "schedule": 60},
    "top-up-month": {"task": "credits.tasks.top_up_month", "schedule": crontab(minute=5)},
    "expire-holds": {"task": "credits.tasks.expire_holds", "schedule": 300},
    "evaluate-alerts": {"task": "credits.tasks.evaluate_alerts", "schedule": 60},
    "evaluate-all-alerts": {
        "task": "credits.tasks.evaluate_all_alerts",
        "schedule": crontab(minute=50),
    },
    "send-deliveries": {"task": "credits.tasks.send_deliveries", "schedule": 60},
    "update-shipped-prices": {
        "task": "pricing.tasks.update_shipped_prices",
        "schedule": crontab(hour=4, minute=40),
    },
}
if REDIS_URL:
    CELERY_BROKER_URL = REDIS_URL
    # Redis gives a task to another worker after that time, whether or not the first one is alive.
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {"visibility_timeout": 2 * LONGEST_SECONDS}
else:
    CELERY_BROKER_URL = "filesystem://"
    CELERY_BROKER_TRANSPORT = "kluisz_analytics.broker:Transport"
    BROKER_DIR = VAR_DIR / "broker"
    for folder in ("messages", "control"):
        (BROKER_DIR / folder).mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(BROKER_DIR / "messages"),
        "data_folder_out": str(BROKER_DIR / "messages"),
        "control_folder": str(BROKER_DIR / "control"),
        # Seconds between two messages of a queue.
        "polling_interval": 0.2,
    }

# --- API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "kluisz_analytics.tenants.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["kluisz_analytics.tenants.permissions.Undeclared"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "kluisz_analytics.tenants.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    "COERCE_DECIMAL_TO_STRING": True,
}
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": None}
KNOX_TOKEN_MODEL = "tenants.ApiToken"
# Its migrations would make the table of the model that ApiToken stands in for.
MIGRATION_MODULES = {"knox": None}
DRF_STANDARDIZED_ERRORS = {"ALLOWED_ERROR_STATUS_CODES": ["400", "401", "403", "404"]}
SPECTACULAR_SETTINGS = {
    "TITLE": "Kluisz Analytics",
    "DESCRIPTION": "Usage, cost and credits of LLM flows, by tenant, user, flow and model.",
    "VERSION": "2.0.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v2",
    "ENUM_NAME_OVERRIDES": {
        "ValidationErrorEnum": (
            "drf_standardized_errors.openapi_serializers.ValidationErrorEnum.choices"
        ),
        "ClientErrorEnum": "drf_standardized_errors.openapi_serializers.ClientErrorEnum.choices",
        "ServerErrorEnum": "drf_standardized_errors.openapi_serializers.ServerErrorEnum.choices",
    },
    "POSTPROCESSING_HOOKS": ["drf_standardized_errors.openapi_hooks.postprocess_schema_enums"],
}

# --- Admin


UNFOLD = {
    "SITE_TITLE": "Kluisz Analytics",
    "SITE_HEADER": "Kluisz Analytics",
    "SITE_SUBHEADER": "Times in UTC",
    "SITE_SYMBOL": "monitoring",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("kluisz/icon.svg")}
    ],
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "usage.dashboards.admin_index.add_platform_view",
    "STYLES": [lambda request: static("kluisz/dashboard.css")],
    "COLORS": {
        "primary": {
            "50": "240 253 250",
            "100": "204 251 241",
            "200": "153 246 228",
            "300": "94 234 212",
            "400": "45 212 191",
            "500": "20 184 166",
            "600": "13 148 136",
            "700": "15 118 110",
            "800": "17 94 89",
            "900": "19 78 74",
            "950": "4 47 46",
        },
    },
    "SIDEBAR": {
        "show_search": True,
        "navigation": "kluisz_analytics.navigation.sidebar",
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("KLUISZ_LOG_LEVEL", default="WARNING")},
    # httpx logs every request at INFO; the sync reports its own progress.
    "loggers": {"httpx": {"level": "WARNING"}},
}

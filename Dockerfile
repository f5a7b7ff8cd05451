FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 KLUISZ_VAR_DIR=/var/lib/kluisz KLUISZ_STATIC_ROOT=/srv/static
WORKDIR /srv/app
RUN useradd --system --create-home kluisz && mkdir -p /var/lib/kluisz /srv/static && chown kluisz /var/lib/kluisz /srv/static
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
USER kluisz
# Needs no secret, and leaves none behind.
RUN python manage.py collectstatic --noinput
EXPOSE 8000
CMD ["gunicorn", "kluisz_analytics.wsgi", "--bind", "0.0.0.0:8000", "--worker-class", "gthread", "--workers", "2", "--threads", "4"]

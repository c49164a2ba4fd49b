"""Celery's configuration (`AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS` in deploy/airflow.env): Airflow's own, and what workers load first."""

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

CELERY_CONFIG = DEFAULT_CELERY_CONFIG | {"imports": ["include.preloaded"]}

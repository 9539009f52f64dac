"""Metrics: counted in each worker (`recorder`, `gauges`), shown by any of them for all (`worker_metrics`).

gunicorn's master imports `directory` and `status` only, so that nothing else is loaded before the fork.
"""

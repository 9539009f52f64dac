"""How each resource is shown as JSON: one function a resource, for the admin API and for `--json` alike.

The types beside them are what OpenAPI tells. Dates are ISO 8601 in UTC, amounts USD, secrets masked. A record
of the request log is shown by `app.records.shown_record`, which exports use as well.
"""

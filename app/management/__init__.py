"""What administrators do, whoever asks: the admin API, the `weir` commands, the dashboard.

Each action is checked, leaves an entry in the audit log, and is made here only.
"""

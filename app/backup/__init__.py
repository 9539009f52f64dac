"""Backups: the whole database as one file, made while the proxy runs, and restored into an empty one."""

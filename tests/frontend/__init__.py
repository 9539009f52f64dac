"""Checks of the dashboard's scripts: their types, and what they compute."""

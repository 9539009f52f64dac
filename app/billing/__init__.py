"""Statements: what each user had, was given, used and has left in a month; and months that are closed."""

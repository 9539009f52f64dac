"""The edge towards clients and operators: parse, call, render."""

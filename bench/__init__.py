"""The benchmark: `make bench` measures this proxy beside others, in one run, with everything on.

Load client and upstream are its own, in C (`native/`), so that the load side is never what is measured.
What is measured and how: docs/performance.md.
"""

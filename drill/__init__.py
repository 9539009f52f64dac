"""Shows that every request leaves one record and one charge, by breaking things and counting twice.

`python -m drill` (`make drill`) runs the product as it is deployed, against the simulated upstream, kills its
processes, takes its database and its disk away, and then compares four books: the load client's, the
simulator's, `request_logs`, and the sums charged to users and keys. docs/durability.md says what it found.
"""

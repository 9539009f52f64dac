"""Moving a database of earlier software over, in steps that can be looked at first and repeated.

`weir migrate` is the way in; docs/migrating.md says what the steps change and why.
"""

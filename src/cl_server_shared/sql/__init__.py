"""The repository's statements, a file per subject, each under a name.

They are SQL with `:name` parameters, turned into each driver's form once (`statement.py`), and
run on the driver's own cursor (`..database`): going through the ORM costs ten times as much.
"""

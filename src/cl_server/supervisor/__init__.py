"""Keeping several processes of ours running as one: what `cl-server up` stands on.

    supervisor.py   starts children in stages, starts again what dies, stops all in time
    child.py        the first code of each child: ends it when the supervisor is gone
    reporting.py    what a child tells the supervisor: that it is ready, and more
    readiness.py    whether a port is free, and whether something listens on it

Nothing is imported here: a child's first moments count.
"""

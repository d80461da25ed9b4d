"""The worker: a supervisor that claims jobs, and warm child processes that run them.

    loop.py            Worker: claims, gives each job to a child, writes how it ended
    attempt.py         one job from its claim to its end
    completions.py     completions, many in one transaction
    watching.py        what may end an attempt from outside: its memory, a cancel
    lease.py           the instance's lease: kept, or lost, and then every child is killed in time
    reconciliation.py  what runs here beside what the database knows
    pool.py            as many children as the worker's concurrency, each replaced when it ends
    process.py         one child as the supervisor sees it: started, spoken to, killed
    child.py           the same child from inside; imports no database and no broker
    messages.py        what the two say to each other
    output.py          what a child prints: log lines, and what is kept with the attempt
    memory.py          how much memory a child holds, with all that it started
    presence.py        the retained MQTT message, its last will
    lane.py            one thread for calls that may wait for the database

Nothing is imported here: a child imports this package, too.
"""

"""Whatever dies, nothing is lost and nothing is done twice: `python -m chaos` kills, and counts.

Real stores, workers, brokers and databases; see `troubles` for what happens to them, and `verdict`
for what must hold at the end.
"""

"""A broker under a seed: agents, time, sockets and the store's faults are one stream of random choices.

`PYTHONPATH=tests python -m simulation --seeds 10000` runs many; a seed that breaks a promise is said with the command
that runs it again, step by step the same.
"""

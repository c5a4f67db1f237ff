"""The promises of gptpipe under faults, hostile input and real surroundings: ``make torture``, beside ``make check``.

Each module but ``frame`` is a kind of trouble. It has a ``TITLE`` and a function ``cases(rig)`` that yields what was
tried and what came out. Everything stays on this machine, and is bounded in time and number.
"""

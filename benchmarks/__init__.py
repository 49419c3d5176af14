"""The same small programs on obsray and on what people use today, alternating in one run. See ``docs/benchmarks.md``.

``suite`` holds the programs, ``targets`` what they run on, ``sample`` runs one group of them in a fresh process,
``runner`` alternates those processes, ``table`` and ``budgets`` say what came out.
"""

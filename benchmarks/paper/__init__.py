"""The experiments of the Ray paper (OSDI'18), small enough for one machine: the same curves with smaller numbers.

``python -m benchmarks.paper`` runs all of them and writes docs/paper.md; with ``locality --quick`` it tries one in a
few seconds. Each is a module with ``body(run)``, uses nothing but the public interface of obsray, checks
its own answers, and returns what it measured as a ``Result``.
"""

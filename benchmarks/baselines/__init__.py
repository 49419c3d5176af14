"""Other libraries behind the names the benchmarks use: ``init shutdown remote get``, and what else each offers."""

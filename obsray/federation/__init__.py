"""Telemetry of a whole cluster in one place: the head's collector takes what those of the other nodes have stored.

Collectors talk to each other, over the nodes' ports but not through the nodes: neither scheduler nor control store has
a part in it. What is taken over becomes part of the head's own store, so everything that reads one session reads the
cluster. Each node keeps its own segments as well.
"""

"""What watches the GPUs of a node: a process of its own, so that a driver in trouble keeps nobody else waiting.

It samples them through NVML, finds whose processes hold their memory, and tells the node when one is not to be used.
"""

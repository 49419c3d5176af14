"""``multiprocessing.Pool`` whose processes are actors."""

from multiprocessing import JoinableQueue, TimeoutError

from obsray.util.multiprocessing.pool import AsyncResult, Pool

__all__ = ["AsyncResult", "JoinableQueue", "Pool", "TimeoutError"]

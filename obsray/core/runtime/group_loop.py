"""The event loop of one concurrency group of an async actor, on a thread of its own.

A coroutine that blocks its loop holds up the calls of its own group and of no other. Everything of one group (its async
and its plain methods, the constructor too for the default group) runs on that one thread.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from obsray.core.runtime.executor import call_user_code
from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.running import Running
from obsray.errors import AsyncioActorExit
from obsray.telemetry.events import Outcome

if TYPE_CHECKING:
    from obsray.core.runtime.actor import ActorRunner


class GroupLoop:
    """The loop of the group ``name`` ("" for the default one), with room for ``size`` calls at a time."""

    def __init__(self, runner: ActorRunner, name: str, size: int) -> None:
        self.runner = runner
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_tell_unless_exit)
        #: Calls that have been given to the loop and have not ended: attempt and asyncio task, by task id.
        self.coroutines: dict[bytes, tuple[Running, asyncio.Task[None]]] = {}
        self._room = asyncio.Semaphore(size)
        #: Calls that the loop has not seen yet, and whether it has been woken for them.
        self._arrived: deque[Running] = deque()
        self._spawning = False
        self._flush_scheduled = False
        suffix = f"-{name}" if name else ""
        self.thread = threading.Thread(target=self._run, name=f"obsray-actor-loop{suffix}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                return
            except (SystemExit, KeyboardInterrupt) as error:
                # From a coroutine that belongs to no call. asyncio lets these two end the loop; the calls need it.
                self.runner.ended_outside(error)

    def construct(self, cls: Any, args: Any, kwargs: Any) -> Any:
        """Make the actor's object on this loop, so that its constructor may start what goes on there, and await."""

        async def make() -> tuple[Any, BaseException | None]:
            try:
                if not inspect.iscoroutinefunction(cls.__init__):
                    return call_user_code(cls, args, kwargs), None
                instance = cls.__new__(cls) if cls.__new__ is object.__new__ else cls.__new__(cls, *args, **kwargs)
                await call_user_code(instance.__init__, args, kwargs)
                return instance, None
            except BaseException as error:
                # SystemExit would end the loop itself.
                return None, error

        made, error = asyncio.run_coroutine_threadsafe(make(), self.loop).result()
        if error is not None:
            raise error
        return made

    def put(self, running: Running) -> None:
        """Run the call as soon as there is room. From any thread."""
        self._arrived.append(running)
        if not self._spawning:
            # Waking the loop is a system call: one for all that arrive until it looks.
            self._spawning = True
            self.loop.call_soon_threadsafe(self._spawn)

    def _spawn(self) -> None:
        """Begin what has arrived."""
        # Before the look, so that whatever comes behind it wakes the loop again.
        self._spawning = False
        while self._arrived:
            running = self._arrived.popleft()
            if running.task in self.runner.waiting:
                self.coroutines[running.task] = (running, self.loop.create_task(self._run_async(running)))

    async def _run_async(self, running: Running) -> None:
        runner, executor = self.runner, self.runner.executor
        try:
            async with self._room:
                runner.waiting.pop(running.task, None)
                if runner.leaving:
                    return
                slot = runner.next_slot()
                function, args, kwargs = executor.begin(running, slot)
                running.cpu_started = -1
                # The slot table is for threads; on the loop many calls share one.
                executor.slots.pop(slot, None)
                result = call_user_code(function, args, kwargs)
                if inspect.isawaitable(result) and type(result) is not ObjectRef:
                    result = await result
                if running.returns < 0:
                    await executor.producers.stream_on_loop(running, result, self._flush_soon)
                    result = None
                elif type(result) is GeneratorType and running.returns > 0:
                    result = executor.producers.fill(running, result)
            if executor.exiting and runner.has_left(running.task):
                raise AsyncioActorExit
            ended_at = time.time_ns()
            values, extra = executor.store_results(running, result)
            executor.end(running, Outcome.OK, values, extra, ended_at)
        except asyncio.CancelledError:
            if runner.leaving:
                # Its caller will hear of the actor's end.
                return
            running.cancelled = True
            if running.loaded is None:
                running.loaded = running.link.state[running.number]
                running.started_at = running.fetched_at = running.ready_at = time.time_ns()
                running.cpu_started = -1
            executor.fail(running, KeyboardInterrupt(), time.time_ns())
        except BaseException as error:
            executor.fail(running, error, time.time_ns())
        finally:
            self.coroutines.pop(running.task, None)
            runner.waiting.pop(running.task, None)
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Results of calls that end in the same turn of the loop leave together."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        with self.runner.executor.session.lock:
            self.runner.executor.session.send_everything()

    def cancel(self, task: bytes) -> bool:
        """Cancel a call that was given to this loop. False if it was not."""
        found = self.coroutines.get(task)
        if found is None:
            return False
        found[0].cancelled = True
        self.loop.call_soon_threadsafe(found[1].cancel)
        return True

    def cancel_all(self) -> None:
        """Cancel every call: the actor ends. From any thread."""
        self.loop.call_soon_threadsafe(lambda: [task.cancel() for _, task in list(self.coroutines.values())])

    def on_loop(self) -> Running | None:
        """The call whose code runs now; of a task that user code made, the call if there is only one."""
        current = asyncio.current_task(self.loop)
        if current is None:
            return None
        calls = list(self.coroutines.values())
        for running, task in calls:
            if task is current:
                return running
        return calls[0][0] if len(calls) == 1 else None

    def drain(self, deadline: float) -> None:
        """Wait for calls until ``deadline`` (monotonic), then end the loop."""
        while self.coroutines and time.monotonic() < deadline:
            time.sleep(0.005)
        self.loop.call_soon_threadsafe(self.loop.stop)


def _tell_unless_exit(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A task that belongs to no call may ask for the end of the actor as well."""
    if not isinstance(context.get("exception"), AsyncioActorExit):
        loop.default_exception_handler(context)

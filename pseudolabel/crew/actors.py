"""Workers of a crew as Ray actors; thin shells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

from pseudolabel.crew.dispatch import UnitFailed, WorkerGone


class ActorWorkers:
    """:class:`pseudolabel.crew.dispatch.Workers` as Ray actors; tickets are object references.

    Args:
        actor: their class. It has a method `ready` that loads what its work needs: an error there is a sentence, in a
            constructor it would be the death of the actor.
        arguments: of its constructor.
        size: how many.
        options: what each asks of Ray.
        explain: the exception to raise for what a call raised: `UnitFailed` where another worker may do better.
    """

    def __init__(
        self,
        actor: type,
        arguments: Sequence[Any],
        *,
        size: int,
        options: Mapping[str, Any],
        explain: Callable[[RayTaskError], BaseException],
    ) -> None:
        remote: Any = ray.remote(actor)
        self._hire: Callable[..., Any] = lambda **more: remote.options(max_restarts=-1, **options, **more).remote(
            *arguments
        )
        self.size, self._explain = size, explain
        self._workers = [self._hire() for _ in range(size)]
        self._nodes: dict[int, str] = {}
        # Tickets of `call_up`; their answers say on which node a worker is.
        self._called: dict[Any, int] = {}

    def call(self, index: int, method: str, *arguments: Any) -> Any:
        """Call a method of worker `index`; the ticket."""
        return getattr(self._workers[index], method).remote(*arguments)

    def call_up(self, index: int) -> Any:
        """Ask worker `index` to get ready, and where it is."""
        # Runs a function in the actor, which the class need not know of.
        waits = self._workers[index].__ray_call__.options(max_task_retries=-1)  # while Ray restarts it
        ticket = waits.remote(_get_ready)
        self._called[ticket] = index
        return ticket

    def replace(self, index: int) -> None:
        """Kill worker `index` and start another: not on the node where it was, if there are others, as that may be
        what is sick.
        """
        ray.kill(self._workers[index])
        node = self._nodes.pop(index, None)
        elsewhere = None
        if node is not None:  # one that never got ready has told none
            # A wish: on a cluster of one node it starts there again.
            others: Any = {"ray.io/node-id": NotIn(node)}  # type: ignore[no-untyped-call]  # Ray has no hint here
            elsewhere = NodeLabelSchedulingStrategy({}, soft=others)
        self._workers[index] = self._hire(scheduling_strategy=elsewhere)

    def retire(self, index: int) -> None:
        """Kill worker `index`."""
        ray.kill(self._workers[index])

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return a ticket that is answered, if there is one within `seconds`."""
        return ray.wait(list(tickets), num_returns=1, timeout=seconds)[0]

    def answer(self, ticket: Any) -> Any:
        """Return what the call did; raise `WorkerGone`, `UnitFailed`, or what `explain` makes of its error."""
        index = self._called.pop(ticket, None)
        try:
            answer = ray.get(ticket)
        except RayTaskError as problem:
            raise self._explain(problem) from problem
        except RayActorError as problem:
            raise WorkerGone(str(problem), for_good=not isinstance(problem, ActorUnavailableError)) from None
        except RayError as problem:
            raise UnitFailed(str(problem)) from None
        if index is not None:
            self._nodes[index] = answer
        return answer

    def dismiss(self) -> None:
        """Kill all of them."""
        for worker in self._workers:
            ray.kill(worker)


def _get_ready(worker: Any) -> str:
    worker.ready()
    return str(ray.get_runtime_context().get_node_id())

"""The processes of one training run: this one alone, or those that torchrun or Ray Train started, joined by torch.distributed.

Legend: P values of all gradients laid end to end.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist

from textsmooth.schemas.errors import UsageError, WorkerError, first_line

WAIT = timedelta(minutes=10)  # for a process that does not answer: in an update all are about equally far
REST = timedelta(hours=2)  # for the first process: as long as an evaluation, or preparing a run, may take
OVER_GPUS = "cpu:gloo,cuda:nccl"  # gradients by NCCL, what processes say to each other by gloo, which notices at once that one has gone
_PLACE = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))  # as torchrun sets them


class LostError(WorkerError):
    """Another process of the run has gone; why, that one has said."""


class World(AbstractContextManager["World"]):
    """This process's place among `size` equal ones. Alone (size 1) it needs no torch.distributed, and every call is free.

    All processes have to make the same calls in the same order. LostError, not an endless wait, where one of them has gone: at once if
    it has ended, after WAIT if it does not answer.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._patient: Any = None  # the same processes, as a group that waits for REST
        self._joined = False  # by this object: whoever joins leaves

    @classmethod
    def from_environment(cls) -> Self:
        """The world that torchrun's variables describe (RANK, WORLD_SIZE, LOCAL_RANK); without them, a world of one."""
        try:
            rank, size, local = (int(os.environ.get(name, default)) for name, default in _PLACE)
        except ValueError:
            raise UsageError("RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them; unset them otherwise") from None
        if not 0 <= rank < size:
            raise UsageError(f"RANK {rank} is not below WORLD_SIZE {size}; start the processes with torchrun")
        return cls(rank, size, local)

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates, logs and saves."""
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """The device of this process: on a machine with several GPUs each takes its own."""
        if self.size > 1 and asked in (None, "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return asked

    def join(self, device: torch.device) -> None:
        """Meet the others: over NCCL and gloo where the student is on a GPU, over gloo elsewhere."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.size == 1:
            return
        if not dist.is_initialized():
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                if name not in os.environ:
                    raise UsageError(f"WORLD_SIZE is {self.size}, but {name} is not set; start the processes with torchrun")
            self._wait(lambda: dist.init_process_group(OVER_GPUS if device.type == "cuda" else "gloo", timeout=WAIT))
            self._joined = True
        self._patient = self._wait(lambda: dist.new_group(backend="gloo", timeout=REST))

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # after an error too, and then Ray Train's group as well: the others notice, instead of waiting
        if self.size > 1 and dist.is_initialized() and (self._joined or kind is not None):
            dist.destroy_process_group()

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all processes, in float64; equal in each of them."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        self._wait(lambda: dist.all_reduce(total))
        found: list[float] = total.tolist()
        return found

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes, as one buffer [P]; one that is missing everywhere stays missing."""
        if self.size == 1:
            return
        learning = list(parameters)
        has_gradient = torch.tensor([float(p.grad is not None) for p in learning], device=learning[0].device)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in learning]
        buffer = torch.cat([*parts, has_gradient])
        if buffer.is_cuda:
            self.sum([0.0])  # over gloo: one that failed on its way here is missed now, over NCCL after WAIT
        self._wait(lambda: dist.all_reduce(buffer))
        start = 0
        for p, has_one in zip(learning, buffer[-len(learning) :].tolist(), strict=True):
            p.grad = buffer[start : start + p.numel()].view_as(p) if has_one else None
            start += p.numel()

    def gather(self, values: list[int], length: int) -> list[int]:
        """At most `length` numbers of each process, all of at least 0, one process after the other."""
        if self.size == 1:
            return values[:length]
        own = torch.full((length,), -1, dtype=torch.int64)
        own[: len(values)] = torch.tensor(values[:length], dtype=torch.int64)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(lambda: dist.all_gather(parts, own))
        return [value for part in parts for value in part.tolist() if value >= 0]

    def share(self, value: Any) -> Any:
        """What the first process has (anything that is JSON), in all of them; all wait for each other, for REST."""
        if self.size == 1:
            return value
        data = torch.tensor(list(json.dumps(value).encode() if self.first else b""), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        self._wait(lambda: dist.broadcast(length, 0, self._patient))
        if not self.first:
            data = torch.empty(int(length), dtype=torch.uint8)
        self._wait(lambda: dist.broadcast(data, 0, self._patient))
        self._wait(lambda: dist.barrier(self._patient))  # whoever has it would else wait for a slow one only as long as WAIT
        return json.loads(bytes(data.tolist()))

    def _wait(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RuntimeError as error:  # gloo's and NCCL's own
            raise LostError(f"process {self.rank} of {self.size} lost the others ({first_line(error)[:160]}); see what they said") from None

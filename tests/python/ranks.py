"""Processes that are ranks of a gloo group for as long as one function runs."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable

import torch
import torch.distributed as dist


class Ranks:
    """``most`` processes. They are started once, since importing torch takes longer than what a test runs in them."""

    def __init__(self, most: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp", "detent"])
        self._folder = tempfile.TemporaryDirectory()
        self._runs = 0
        self._workers = []
        for _ in range(most):
            mine, its = context.Pipe()
            process = context.Process(target=_serve, args=(its,), daemon=True)
            process.start()
            its.close()
            self._workers.append((process, mine))

    def run(self, world: int, function: Callable, *args) -> list:
        """``function(rank, world, *args)`` in each of ``world`` ranks; what each returned, in their order.

        The function is one of a module, the rest anything that pickles. What one raises is an AssertionError here.
        """
        self._runs += 1
        store = os.path.join(self._folder.name, str(self._runs))
        for rank, (_, pipe) in enumerate(self._workers[:world]):
            pipe.send_bytes(pickle.dumps((function, store, rank, world, args)))
        answers = []
        for rank, (_, pipe) in enumerate(self._workers[:world]):
            assert pipe.poll(60), f"rank {rank} of {world} hangs in {function.__name__}"
            answers.append(pickle.loads(pipe.recv_bytes()))
        failures = [f"rank {rank}: {text}" for rank, (ok, text) in enumerate(answers) if not ok]
        assert not failures, "\n".join(failures)
        return [result for _, result in answers]

    def stop(self) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.join(1)
            process.kill()
        self._folder.cleanup()


def _serve(pipe) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    while True:
        try:
            function, store, rank, world, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            torch.manual_seed(0)
            dist.init_process_group(
                "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world,
                timeout=datetime.timedelta(seconds=20),
            )  # fmt: skip
            answer = True, function(rank, world, *args)
        except BaseException:
            answer = False, traceback.format_exc()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        pipe.send_bytes(pickle.dumps(answer))

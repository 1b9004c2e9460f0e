"""``torchrun`` in small: imports torch once, forks the ranks, and lets them live or die on their own.

``python forked.py RANKS ROUNDS LOGS SCRIPT [ARGUMENT ...]`` runs the same command ROUNDS times, writes each rank's output
to LOGS/0, LOGS/1, ..., and ends with the highest exit code of the last round. As under torchrun, the store is in the parent and outlives the ranks; other than torchrun it tells no rank that
another one has died.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

import understudy  # noqa: F401  # imported before the fork, once for all ranks


def be_rank(rank: int, ranks: int, port: int, logs: Path, script: str, arguments: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
    )
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    code = 1
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what is left of the parent's life is not the child's to clean up


def one_round(ranks: int, logs: Path, script: str, arguments: list[str]) -> int:
    """Fork the ranks and wait for them all; returns the highest exit code."""
    logs.mkdir(parents=True, exist_ok=True)
    listening = socket.create_server(("localhost", 0))
    port = listening.getsockname()[1]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if not child:
            listening.close()
            be_rank(rank, ranks, port, logs, script, arguments)
        children.append(child)
    store = dist.TCPStore(
        "localhost", port, ranks, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    try:
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    (logs / "over.json").write_text(json.dumps({"codes": codes, "at": time.time(), "pids": children}))
    del store
    return max(map(abs, codes))


def main() -> int:
    """All rounds; returns the last one's exit code."""
    ranks, rounds, logs, script, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    return [one_round(int(ranks), Path(logs) / str(i), script, arguments) for i in range(int(rounds))][-1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

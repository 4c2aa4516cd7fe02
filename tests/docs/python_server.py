"""A Python that has imported torch and Lightning once and forks for each command, so that a command starts at once.

``python_server.py SOCKET`` serves; ``python_server.py SOCKET COMMAND...`` runs ``python COMMAND...`` in a fork of the
server, with the caller's folder, environment and output, and ends with its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path


def serve(address: str) -> None:
    """Run one command after another, until killed."""
    import lightning  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    from shell import smaller

    import siamese.command.hydra_app
    import siamese.protocols.evaluate
    import siamese.training.train  # noqa: F401

    # Trainings and evaluations that several pages have -> the newest run after them.
    finished: dict[tuple[str, ...], Path | None] = {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        while True:
            caller, _ = listening.accept()
            message, outputs, *_ = socket.recv_fds(caller, 1_000_000, 2)
            if not message:  # somebody who waits for the server to start
                caller.close()
                continue
            request = json.loads(message)
            words, latest = request["words"], Path(request["folder"]) / "outputs/latest"
            if tuple(words) in finished:
                code = 0
                if newest := finished[tuple(words)]:
                    latest.unlink()
                    latest.symlink_to(newest)
            else:
                child = os.fork()
                if child == 0:
                    listening.close()
                    caller.close()
                    os.dup2(outputs[0], 1)
                    os.dup2(outputs[1], 2)
                    os._exit(run(smaller(words), request["folder"], request["environment"]))
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if code == 0 and words[0].endswith(".py") and "resume=true" not in words:
                    finished[tuple(words)] = latest.readlink() if latest.is_symlink() else None
            for descriptor in outputs:
                os.close(descriptor)
            caller.sendall(str(code).encode())
            caller.close()


def run(words: list[str], folder: str, environment: dict[str, str]) -> int:
    """Do what ``python WORDS...`` does; returns the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def ask(address: str, words: list[str]) -> int:
    """Have the server run a command."""
    request = {"words": words, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(request).encode()], [1, 2])
        return int(server.recv(100) or b"1")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))

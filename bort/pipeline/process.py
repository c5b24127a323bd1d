"""A command as a process of its own, which hears the signals that its parent gets."""

import ctypes
import signal
import subprocess
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # Linux's number of the request for a signal when the parent is gone


def follow(command: list[str], lock: int) -> int:
    """Run a command and hand signals on to it, each once; return its exit code.

    It has a process group of its own: a terminal would send it a second Ctrl-C, which stops a
    training at once. lock: a file descriptor that stays open, and locked, as long as it runs.
    """
    process, received = None, []

    def forward(number: int, _) -> None:
        received.append(number)
        if process:
            process.send_signal(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heard}  # nohup ignores some
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        if received:  # before there was a process to send it to
            process.send_signal(received[0])
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return 128 - code if code < 0 else code


def _end_with_parent() -> None:
    """Ask for SIGTERM when the parent is killed, so that a training saves and ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

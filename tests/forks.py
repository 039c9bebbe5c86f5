"""Commands in many processes at once, or killed at any moment, without the seconds that each would take to start."""

import json
import subprocess
import sys

RUNNER = """
import json, os, random, signal, sys, time
import unetcli.image.new_store as store
store.SHARD, store.CHUNK = 32, 16
import unetcli.image.pyramid
unetcli.image.pyramid.SMALLEST = 20
import unetcli.stages.tile_predict
from unetcli.cli import main

def start(arguments):
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

AT_ONCE = """
print(json.dumps([ended(pid) for pid in [start(arguments) for arguments in json.loads(sys.argv[1])]]))
"""

KILLED = """
(warm_up, arguments), n = json.loads(sys.argv[1]), int(sys.argv[2])
began = time.monotonic()
assert ended(start(warm_up)) == 0
seconds = time.monotonic() - began
random.seed(0)
codes = []
for k in range(n):
    pid = start(arguments)
    time.sleep(seconds * random.random())
    os.kill(pid, signal.SIGKILL)
    codes.append(ended(pid))
print(json.dumps(codes))
"""


def at_once(commands):
    """Run command lines at once, each in a process of its own; return their exit codes."""
    return _run(AT_ONCE, [[str(a) for a in command] for command in commands])


def killed(warm_up, command, n):
    """Run a command `n` times; kill it at random moments of the time that `warm_up` takes. Return the exit codes."""
    return _run(KILLED, [[str(a) for a in arguments] for arguments in (warm_up, command)], str(n))


def _run(script, *arguments):
    texts = [a if isinstance(a, str) else json.dumps(a) for a in arguments]
    command = [sys.executable, "-c", RUNNER + script, *texts]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])

"""The first words of commands that talk to a running server, and their help. What they do stands in
commands.py, which a server that starts need not load.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """One first word. help: one line; text: what `--help` begins with, with examples."""

    help: str
    text: str


SUBJECTS = {
    "status": Subject(
        "what a running server does: its pools and workers",
        """\
Show a running server: who it is, its pools with their queues, and its worker processes.

  kernelq status                   of the only server on this machine
  kernelq status --control /run/kernelq/0.0.0.0-80.sock
  kernelq status --json | jq '.pools[] | {name, waiting: .queue.length}'

QUEUE is what waits and how much may, OLDEST how long the first has waited, BUSY what is executed,
WORKERS how many processes there are and may be.
""",
    ),
    "top": Subject(
        "the same, live: rates, and what each worker executes now",
        """\
Show live what a server does: rates, queues, and what each worker executes. q ends it.

  kernelq top                      one screen, each second anew
  kernelq top --interval 5
  kernelq top --frames 1           one picture, for a ticket or a log
  kernelq top --json --frames 60   a minute, one line of JSON each second

Rates are of the last interval. It goes on when the server is restarted meanwhile.
""",
    ),
    "requests": Subject(
        "every request that is queued or executed now",
        """\
Show every request that is queued or executed now, the oldest first in each pool.

  kernelq requests
  kernelq requests --pool shop
  kernelq requests --json | jq '.requests[] | select(.elapsed_ms > 5000) | .target'
""",
    ),
    "pools": Subject(
        "the application pools",
        """\
Show the application pools: state, queue, workers, what has happened last.

  kernelq pools
  kernelq pools --json | jq -r '.pools[] | select(.state == "DISABLED") | .name'
""",
    ),
    "sites": Subject(
        "the sites, or which one answers a URL",
        """\
Show the sites with their bindings and applications, or which one answers a URL.

  kernelq sites
  kernelq sites --match http://shop.example/cart
""",
    ),
    "recycle": Subject(
        "replace the workers of a pool",
        """\
Replace the worker processes of pools by new ones, which load the code as it is now. Requests do not
notice: the old ones finish what they have.

  kernelq recycle shop
  kernelq recycle shop news
  kernelq recycle --all
""",
    ),
    "start": Subject(
        "start a pool or site",
        """\
Start pools or sites that were stopped, or pools that were taken offline after crashes.

  kernelq start shop
  kernelq start pool:shop          where a pool and a site are called so
  kernelq start site:shop site:news
""",
    ),
    "stop": Subject(
        "stop a pool or site",
        """\
Stop pools or sites. What runs finishes; what comes is answered 503, until they are started again.

  kernelq stop shop
  kernelq stop site:shop           where a pool and a site are called so
""",
    ),
    "stacks": Subject(
        "what the threads of a worker are doing",
        """\
Show the Python stacks of a living worker process: what each of its threads is doing now. The worker
goes on meanwhile.

  kernelq stacks 4711              its process id, from `kernelq status` or `kernelq top`
""",
    ),
    "reload": Subject(
        "apply the changed configuration",
        """\
Read the configuration again, check it, and apply what has changed: pools that have not changed do
not notice. Waits until it serves. If anything is wrong, nothing changes, and all errors are shown.

  kernelq check && kernelq reload
""",
    ),
    "upgrade": Subject(
        "go on with the kernelq that is installed now",
        """\
Hand all work to a new service process with the kernelq that is installed now. No connection is
refused or reset: the old process finishes what it has.

  pip install --upgrade kernelq && kernelq upgrade
""",
    ),
    "events": Subject(
        "what has happened, and what happens",
        """\
Show the last events: workers started, recycled, crashed, pools taken offline (docs/events.md).

  kernelq events
  kernelq events --since 10m       not older than ten minutes
  kernelq events --follow          and all that come; goes on when the server is restarted
  kernelq events --follow --json | jq 'select(.level == "error")'
""",
    ),
    "cache": Subject(
        "show or flush the response cache",
        """\
Show and drop what the response cache of a running server holds.

  kernelq cache list https://example.org/news/      what is stored below a prefix
  kernelq cache show https://example.org/news/7     every stored variant of one URL
  kernelq cache counters                            what it has done
  kernelq cache flush https://example.org/news/     drop all below a prefix
  kernelq cache flush --group articles              drop what has this name in its Cache-Groups
""",
    ),
}


def overview() -> str:
    """A line for each, for the help of `kernelq`."""
    return "".join(f"  kernelq {name:<10}{subject.help}\n" for name, subject in SUBJECTS.items())

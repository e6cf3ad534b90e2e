"""The command line of the benchmarks."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import connections, core, create, drain, fanout, fetch, flat, limit, push, sends, subscriptions, tools
from benchmarks.report import Report
from benchmarks.servers import Server, ServerError, mq9_broker, nats_server
from benchmarks.targets import JetStream, Mq9, Target
from benchmarks.wire import WireError

COMPARED: dict[str, Callable[[Report, list[Target]], None]] = {
    "sends": sends.run,
    "core": core.run,
    "fanout": fanout.run,
    "subscriptions": subscriptions.run,
    "connections": connections.run,
    "create": create.run,
    "drain": drain.run,
    "fetch": fetch.run,
    "push": push.run,
}
WORKLOADS = ("limit", *COMPARED, "tools")
#: Only when it is named: it takes a quarter of an hour and 10 GB.
_LONG = "flat"
_SERVERS = ("mq9", "nats-server")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures mq9 beside nats-server with JetStream (file storage, default sync) on this machine. "
        "Each figure is the median and the best of alternating rounds; a ratio above 1 is in favour of mq9.",
    )
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD",
        help=f"one or more of {', '.join(WORKLOADS)}, all by default; "
        f"or {_LONG}, which takes a quarter of an hour and 10 GB, and compares a broker that holds a lot with one "
        "that holds little",
    )
    parser.add_argument(
        "--mailboxes", type=int, default=1_000_000, metavar="N", help=f"of {_LONG}, with ten messages each; 1,000,000"
    )
    parser.add_argument("--server", choices=_SERVERS, help="measure this server alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round to this file")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.workloads if name not in (*WORKLOADS, _LONG)]:
        parser.error(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)} and {_LONG}")
    report = Report()
    try:
        for name in arguments.workloads or WORKLOADS:
            _run(name, report, [arguments.server] if arguments.server else list(_SERVERS), arguments.mailboxes)
            print(report.table(name), end="\n\n", flush=True)
    except (ServerError, WireError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        report.write_json(arguments.json)
    return 0


def _run(workload: str, report: Report, names: list[str], mailboxes: int) -> None:
    """One workload with servers of its own, so that no workload finds what another one left."""
    started = time.monotonic()
    if workload == "connections":
        connections.allow_files()
    with tempfile.TemporaryDirectory(prefix="mq9-benchmark-") as folder, ExitStack() as stack:
        if workload == "limit":
            limit.run(report)
        elif workload == _LONG:
            flat.run(report, Path(folder), mailboxes)
        elif workload == "tools":
            tools.run(report, stack.enter_context(mq9_broker(Path(folder) / "mq9")))
        else:
            COMPARED[workload](report, [_target(name, Path(folder), stack) for name in names])
    print(f"{workload}: {time.monotonic() - started:.1f} s", file=sys.stderr)


def _target(name: str, folder: Path, stack: ExitStack) -> Target:
    if name == "mq9":
        return Mq9(stack.enter_context(mq9_broker(folder / "mq9")))
    server: Server = stack.enter_context(nats_server(folder / "nats"))
    return JetStream(server)


if __name__ == "__main__":
    sys.exit(main())

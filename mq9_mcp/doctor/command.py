"""`mq9-mcp doctor` as a person or a script uses it. Exit codes: 0 nothing is wrong, 1 something is."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mq9_mcp import autostart
from mq9_mcp.doctor.agents import check_agent
from mq9_mcp.doctor.broker import check_broker
from mq9_mcp.doctor.finding import Finding
from mq9_mcp.doctor.machine import check_data, check_environment, check_program
from mq9_mcp.doctor.servers import brokers
from mq9_mcp.endpoint import public_url
from mq9_mcp.install import agents
from mq9_mcp.install.files import Refused
from mq9_mcp.screen import Screen, one_line

_MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "problem": ("✗", "bold red")}
EXAMPLES = """\
examples:
  mq9-mcp doctor                           this machine: programs, data, broker, agents and their settings
  mq9-mcp doctor --json | jq .findings     the same for scripts

It changes nothing, starts nothing, and shows no secret: what it says can be pasted into a bug report. A broker that
runs is asked for a mailbox, which a message goes through and which is dropped again.

exit code: 0 nothing is wrong, 1 something is"""


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    findings = asyncio.run(_examine(options.url or os.environ.get("MQ9_URL")))
    healthy = all(finding.kind != "problem" for finding in findings)
    screen = Screen(as_json=options.json)
    if options.json:
        shown = [
            {"area": one.area, "kind": one.kind, "text": one.text, **({"mend": one.mend} if one.mend else {})}
            for one in findings
        ]
        screen.record({"healthy": healthy, "findings": shown})
        return 0 if healthy else 1
    width = max(len(finding.area) for finding in findings)
    area = ""
    for finding in findings:
        label = finding.area if finding.area != area else ""
        area = finding.area
        screen.line(f"{label:{width}}  ", _MARKS[finding.kind], f" {one_line(finding.text)}")
        if finding.mend:
            screen.line(f"{'':{width}}    → {one_line(finding.mend)}")
    return 0 if healthy else 1


async def _examine(url: str | None) -> list[Finding]:
    folder = autostart.data_dir()
    findings = [*check_program(), *check_environment(os.environ), *check_data(folder)]
    findings += [finding async for finding in check_broker(url, folder)]
    asked = {url}
    for agent in agents.known().values():
        findings += check_agent(agent, Path.cwd(), os.environ)
        with suppress(Refused):  # said already
            for named in sorted(set(brokers(agent, Path.cwd())) - asked):
                asked.add(named)
                findings += [replace(one, area=agent.name) async for one in check_broker(named, folder)]
    return findings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mq9-mcp doctor",
        description="Says what is installed, running and reachable, what is wrong, and how to mend it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object: healthy, findings")
    parser.add_argument("--url", type=public_url, metavar="URL", help="the broker to try, instead of MQ9_URL")
    return parser

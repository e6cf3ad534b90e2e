"""`mq9-mcp install AGENT` and `mq9-mcp uninstall AGENT` as a person uses them.

Exit codes: 0 it is as was asked, 1 something was left as it is, 2 it cannot be done like this.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mq9_mcp.endpoint import public_url
from mq9_mcp.install import agents, plans, program
from mq9_mcp.install.agents import PROJECT, USER, Agent
from mq9_mcp.install.files import Refused
from mq9_mcp.install.plans import Plan, Wish
from mq9_mcp.screen import Screen, one_line, visible

INSTALL, UNINSTALL = "install", "uninstall"
_DONE = {
    "claude-code": "New sessions of Claude Code have it: `claude mcp list` shows plugin:mq9:mq9.",
    "codex": "New sessions of Codex have it. Codex asks you once to trust its hooks: `/hooks` in a session shows them.",
}


def main(verb: str, argv: Sequence[str]) -> int:
    known = agents.known()
    options = _parser(verb, known).parse_args(argv)
    if verb == INSTALL and program.passes():
        return _cannot(
            verb,
            f"{sys.prefix} is gone when its cache is emptied, and agents need a program that stays: "
            f"`uv tool install mq9-mcp` or `pipx install mq9-mcp`, then this again",
        )
    if getattr(options, "wake", False) and "codex" not in options.agents:
        return _cannot(verb, "--wake is for Codex: the plugin wakes Claude Code, and other agents cannot be woken")
    screen = Screen(as_json=False)
    left = 0
    for name in options.agents:
        agent = known[name]
        scope = PROJECT if options.project is not None else USER
        if scope not in agent.files:
            return _cannot(verb, f"{agent.title} has no settings of a project: leave out --project")
        wish = Wish(
            scope,
            Path(options.project or ".").absolute(),
            getattr(options, "url", None),
            getattr(options, "hooks", True),
            getattr(options, "wake", False) and name == "codex",
            options.force,
        )
        try:
            plan = (plans.install if verb == INSTALL else plans.uninstall)(agent, wish)
            left |= _carry_out(verb, agent, plan, screen, yes=options.yes, print_only=options.print_only)
        except Refused as error:
            return _cannot(verb, str(error))
    return left


def _carry_out(verb: str, agent: Agent, plan: Plan, screen: Screen, *, yes: bool, print_only: bool) -> int:
    """Shows the plan, asks, and does it. Raises Refused. The exit code so far."""
    for words in plan.kept:
        screen.line((f"{agent.title}: ", "bold"), one_line(words))
    if plan.kept and verb == INSTALL:
        return 1
    for words in plan.notes:
        screen.line((f"{agent.title}: ", "bold"), one_line(words))
    if not plan.edits:
        if plan.kept:
            return 1
        there = "mq9 is installed already" if verb == INSTALL else "mq9 is not installed"
        screen.line((f"{agent.title}: ", "bold"), f"{there}; nothing to change.")
        return 0
    if verb == INSTALL and not agent.is_here():
        screen.line((f"{agent.title}: ", "bold"), f"it was not found on this machine (there is no {agent.home}).")
    screen.line((f"{agent.title}: ", "bold"), "this would change" if print_only else "this will change", ":")
    for edit in plan.edits:
        for line in edit.show().splitlines():
            screen.line((visible(line), _COLOURS.get(line[:1], "")))
    screen.flush()
    if print_only:
        return 0
    if not yes:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            print(f"mq9-mcp {verb}: nothing was changed: add --yes to do it", file=sys.stderr)
            return 1
        if not _agreed():
            screen.line("Nothing was changed.")
            return 1
    for edit in plan.edits:
        edit.do()
    screen.line((f"{agent.title}: ", "bold"), "done. ", _after(verb, agent))
    return 1 if plan.kept else 0


def _agreed() -> bool:
    try:
        return input("Do it? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def _after(verb: str, agent: Agent) -> str:
    if verb == UNINSTALL:
        return "Mailboxes and mail stay where they are."
    return _DONE.get(agent.name, f"Start {agent.title} anew to have it.")


def _cannot(verb: str, words: str) -> int:
    print(f"mq9-mcp {verb}: {one_line(words)}", file=sys.stderr)
    return 2


_EXAMPLES = {
    INSTALL: """\
examples:
  mq9-mcp install claude-code              for all projects: tools, hooks that tell of mail, waking when idle
  mq9-mcp install codex --print            shows what would be written, and nothing else
  mq9-mcp install cursor vscode --yes      does it without asking
  mq9-mcp install vscode --project         for those who work on this folder, by .vscode/mcp.json
  mq9-mcp install codex --url nats://mail.example:4222

What is to change is shown first, as a diff; without a terminal nothing is written unless --yes is given. A second
install changes nothing. `mq9-mcp uninstall AGENT` takes out what was put in, byte for byte where nobody else has
changed the file since; `mq9-mcp doctor` says whether it works.

exit code: 0 it is installed, 1 nothing was changed, 2 it cannot be done like this""",
    UNINSTALL: """\
examples:
  mq9-mcp uninstall claude-code
  mq9-mcp uninstall cursor vscode --yes
  mq9-mcp uninstall vscode --project       .vscode/mcp.json of this folder

It takes out what `mq9-mcp install` put in, and nothing else. Mailboxes and mail stay where they are.

exit code: 0 it is not installed any more, 1 nothing was changed, 2 it cannot be done like this""",
}


def _parser(verb: str, known: Mapping[str, Agent]) -> argparse.ArgumentParser:
    adds = verb == INSTALL
    here = [agent.name for agent in known.values() if agent.is_here()]
    parser = argparse.ArgumentParser(
        prog=f"mq9-mcp {verb}",
        description=f"{'Adds mq9 to' if adds else 'Takes mq9 out of'} the settings of agents: {', '.join(known)}.\n"
        f"On this machine: {', '.join(here) or 'none of them'}.",
        epilog=_EXAMPLES[verb],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("agents", nargs="+", choices=[*known], metavar="AGENT", help="one or more of those above")
    parser.add_argument(
        "--project",
        nargs="?",
        const=".",
        metavar="DIR",
        help="the settings of a project (default: of this folder), not those of its user; not for all agents",
    )
    if adds:
        parser.add_argument(
            "--url", type=public_url, metavar="URL", help="the broker that agents are to use (default: this machine's)"
        )
        parser.add_argument(
            "--wake", action="store_true", help="Codex: wake idle sessions, too; they get a line as if you had typed it"
        )
        parser.add_argument("--no-hooks", dest="hooks", action="store_false", help="only the tools, no hooks")
    parser.add_argument("--yes", action="store_true", help="do it without asking")
    parser.add_argument("--print", dest="print_only", action="store_true", help="show the change and do nothing")
    parser.add_argument(
        "--force", action="store_true", help=f"{'replace' if adds else 'remove'} what was not written from here, too"
    )
    return parser

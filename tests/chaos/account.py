"""The journals of all agents, and whether every message is accounted for."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

#: The clocks of the processes are one clock, but what is written down is a moment old.
_MOMENT = 1.0


@dataclass
class Account:
    """What happened to all messages. `got` and `kills` hold (seconds, agent), where the broker is ""."""

    ack_wait: float
    kills: list[tuple[float, str]]
    tried: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    got: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    done: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: list[str] = field(default_factory=list)

    def read(self, journals: Iterable[Path]) -> None:
        for journal in journals:
            for line in journal.read_text().splitlines():
                when, event, message, *more = line.split(" ", 3)
                if event == "try":
                    self.tried.add(message)
                elif event == "sent":
                    self.sent.add(message)
                elif event == "got":
                    self.got[message].append((float(when), journal.stem))
                elif event == "done":
                    self.done[message].append(float(when))
                elif event == "refused":
                    self.refused.append(f"{message}: {' '.join(more)}")
        self.kills.sort()

    def problems(self, left: Iterable[str], stored: Mapping[str, list[str]], retained: set[str]) -> list[str]:
        """What is wrong. `left` was still given out at the end; `stored` is what each mailbox holds; those in
        `retained` keep what is handled."""
        left = list(left)
        found = [f"refused: {text}" for text in self.refused]
        everywhere = [message for messages in stored.values() for message in messages]
        found += [f"never sent: {message}" for message in {*self.got, *left, *everywhere} - self.tried]
        found += [f"lost: {message}" for message in self.sent - self.got.keys() - {*left}]
        found += [f"stored twice: {message}" for message, times in Counter(everywhere).items() if times > 1]
        found += (
            [f"given to two readers at the end: {message}" for message in left] if len(left) != len({*left}) else []
        )
        found += [f"acknowledged, and it comes again: {message}" for message in left if message in self.done]
        for mailbox, messages in stored.items():
            there = {*messages}
            mine = {message for message in self.sent if message[0] == mailbox[-1]}
            if mailbox in retained:
                found += [f"not kept: {message}" for message in mine - there]
            else:
                found += [
                    f"neither there nor handled: {message}"
                    for message in mine - there - self.done.keys() - self.got.keys()
                ]
                found += [f"acknowledged, and still there: {message}" for message in there & self.done.keys()]
        for message, times in self.got.items():
            found += self._doubled(message, sorted(times))
        return found

    def _doubled(self, message: str, times: list[tuple[float, str]]) -> list[str]:
        done = min(self.done.get(message, [float("inf")]))
        found = [f"given out after it was acknowledged: {message}" for when, _ in times if when > done]
        for (first, agent), (second, _) in pairwise(times):
            if second - first < self.ack_wait - _MOMENT and not self._killed(agent, first - _MOMENT, second):
                found.append(f"twice within one lease: {message} at {first:.3f} and {second:.3f}")
        return found

    def _killed(self, agent: str, start: float, end: float) -> bool:
        at = bisect_left(self.kills, (start, ""))
        return any(who in ("", agent) for when, who in self.kills[at:] if when <= end)

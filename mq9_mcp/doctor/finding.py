"""What the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about `area` (program, broker, data, or an agent's name). A problem, and a note where one can do
    something about it, says in `mend` what. Neither text holds a secret."""

    area: str
    kind: Kind
    text: str
    mend: str = ""

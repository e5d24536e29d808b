"""What a look through a data set's files finds, recording by recording, before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["ok", "absent", "warning", "fault"]
"""From best to worst; ``absent`` is a part that a recording does not have, which is said and nothing more."""


YES_OR_NO = "yes or no"
"""The unit of a fact that is 1 or 0."""


class Checked(NamedTuple):
    """One part (a stream) of one recording (a video).

    ``facts``: numbers by the names of :class:`Validation`'s columns; what could not be found out is missing.
    ``warnings`` are sentences; ``fault``, "" where there is none, is why the part cannot be used.
    """

    recording: str
    part: str
    facts: dict[str, float]
    warnings: tuple[str, ...] = ()
    fault: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.fault:
            return "fault"
        if not self.facts.get("samples", 1):
            return "absent"
        return "warning" if self.warnings else "ok"


class Validation(NamedTuple):
    """All parts of all recordings in ``where``.

    ``columns``: of each fact its unit, "" without one. ``faults`` are of no single part; ``notes`` tell what else was
    noticed.
    """

    where: str
    columns: dict[str, str]
    checked: tuple[Checked, ...]
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, *verdicts: Verdict) -> list[Checked]:
        """The parts of these verdicts."""
        return [one for one in self.checked if one.verdict in verdicts]

    @property
    def sound(self) -> bool:
        """Whether everything can be used."""
        return not self.faults and not self.of("fault")

    def told(self) -> str:
        """The outcome in a sentence.

        >>> Validation("here", {}, (Checked("a", "audio", {}), Checked("b", "audio", {}, fault="torn"))).told()
        'here: 2 streams of 2 recordings: 1 ok, 1 with a fault'
        """
        recordings = len({one.recording for one in self.checked})
        names: Sequence[tuple[Verdict, str]] = (
            ("ok", "ok"),
            ("absent", "absent"),
            ("warning", "with warnings"),
            ("fault", "with a fault"),
        )
        counts = ", ".join(f"{len(self.of(of))} {name}" for of, name in names if self.of(of))
        more = f"; {len(self.faults)} faults of the folder" if self.faults else ""
        return f"{self.where}: {len(self.checked)} streams of {recordings} recordings: {counts or 'none'}{more}"

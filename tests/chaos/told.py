"""What came of a run. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger import Entries, Verdict


@dataclass(frozen=True)
class Told:
    """What came of a run.

    Attributes:
        seed: of the run.
        began, ended: of the faults, Unix time in seconds.
        entries: the ledger.
        verdict: on it.
        samples: (time, workers that are well, workers that there are).
    """

    seed: int
    began: float
    ended: float
    entries: Entries
    verdict: Verdict
    samples: Sequence[tuple[float, int, int]]

    def kinds(self) -> set[str]:
        """Kinds of faults that came."""
        return {fault.kind for fault in self.entries.faults}

"""Shows live transcription in a terminal: the newest hypothesis, above it the finals."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Screen:
    """The text of the open segment, replaced as it changes, and below each other all finals.

    If output is not a terminal, only finals are printed.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Rich cuts off what is too high at its end, which is where the newest words are.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="visible"
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.update(Text(""))
        self._live.__exit__(kind, error, traceback)

    def show(self, committed: str, tentative: str) -> None:
        """Show the text of the open segment: what is certain, and behind it what may change."""
        space = " " if committed and tentative else ""
        text = Text.assemble(committed, space, (tentative, "dim"))
        lines = text.wrap(self._console, self._console.width)
        self._live.update(Text("\n").join(lines[1 - self._console.height :]), refresh=True)

    def keep(self, seconds: float, text: str, note: str = "") -> None:
        """Print a final for good.

        Args:
            seconds: Where it starts in the audio.
            text: The final.
            note: What is shown behind it.
        """
        self._live.update(Text(""), refresh=True)
        clock = f"{int(seconds // 60):02}:{seconds % 60:04.1f}"
        self._console.print(
            Text.assemble((clock, "cyan"), "  ", text, (f"  {note}" if note else "", "dim")),
            soft_wrap=not self._console.is_terminal,
        )

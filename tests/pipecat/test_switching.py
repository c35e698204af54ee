"""Services in Pipecat's ServiceSwitcher: what a switch in the midst of speech does."""

from __future__ import annotations

from collections.abc import Sequence

from pipecat.frames.frames import Frame, ManuallySwitchServiceFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.tests.utils import SleepFrame

from tests.support.recordings import CLEAR
from tests.support.services import START, STOP, audio, finals, run, service


def switch(target: FrameProcessor) -> list[Frame]:
    """Switch after everything before has been processed, and before what follows."""
    return [
        SleepFrame(sleep=0.2),
        ManuallySwitchServiceFrame(service=target),
        SleepFrame(sleep=0.2),
    ]


async def texts(switcher: ServiceSwitcher, frames: Sequence[Frame]) -> list[str]:
    return [final.text for final in finals(await run(switcher, frames))]


async def test_selecting_the_active_service_again_does_not_split_its_segment() -> None:
    one, two = service(), service()
    speech = audio(CLEAR[0].samples())
    middle = len(speech) // 2
    frames = [START(), *speech[:middle], *switch(one), *speech[middle:], STOP()]
    assert await texts(ServiceSwitcher(services=[one, two]), frames) == [CLEAR[0].text]


async def test_selecting_a_service_twice_after_a_switch_does_not_split_its_segment() -> None:
    one, two = service(), service()
    speech = audio(CLEAR[1].samples())
    middle = len(speech) // 2
    frames = [
        START(),
        *audio(CLEAR[0].samples()),
        *switch(two),
        *speech[:middle],
        *switch(two),
        *speech[middle:],
        STOP(),
    ]
    switcher = ServiceSwitcher(services=[one, two])
    assert await texts(switcher, frames) == [CLEAR[0].text, CLEAR[1].text]


async def test_a_switch_away_and_back_ends_the_segment() -> None:
    one, two = service(), service()
    frames = [
        START(),
        *audio(CLEAR[0].samples()),
        *switch(two),
        *switch(one),
        *audio(CLEAR[1].samples()),
        STOP(),
    ]
    switcher = ServiceSwitcher(services=[one, two])
    assert await texts(switcher, frames) == [CLEAR[0].text, CLEAR[1].text]


async def test_a_switch_to_a_service_of_another_kind_and_back_ends_the_segment() -> None:
    ours, other = service(), IdentityFilter()  # type: ignore[no-untyped-call]
    frames = [
        START(),
        *audio(CLEAR[0].samples()),
        *switch(other),
        *audio(CLEAR[2].samples()),  # Our service does not get it.
        *switch(ours),
        *audio(CLEAR[1].samples()),
        STOP(),
    ]
    switcher = ServiceSwitcher(services=[ours, other])
    assert await texts(switcher, frames) == [CLEAR[0].text, CLEAR[1].text]

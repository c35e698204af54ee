"""A Pipecat speech-to-text service over Parakeet models on this machine.

Translates Pipecat's frames to a :class:`~parakeet_stt.engine.engine.Session` and its events back to
frames: audio and VAD frames in, interim and final transcription frames out. Knows nothing of
models; inference never runs on the event loop.
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ServiceSwitcherRequestMetadataFrame,
    SpeechControlParamsFrame,
    STTMuteFrame,
    SystemFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import (
    FrameCallback,
    FrameDirection,
    FrameProcessor,
    FrameProcessorSetup,
)
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_stt
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from parakeet_stt.audio import SAMPLE_RATE, Converter, pcm16
from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.events import Failed, Final, SegmentEnded, SpeechStarted
from parakeet_stt.engine.locator import VAD_START_SECONDS
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.preroll import HISTORY_SECONDS
from parakeet_stt.engine.session import MAX_BACKLOG_SECONDS, Session
from parakeet_stt.errors import (
    AudioError,
    BacklogError,
    ConfigurationError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
    ParakeetError,
)
from parakeet_stt.model.stream import StreamOptions
from parakeet_stt.pipecat.vad_progress import VADProgress
from parakeet_stt.settings import ContextSize, ParakeetSettings, load_settings
from parakeet_stt.transcript import Hypothesis, Transcript

PARAKEET_TTFS_P99 = 0.35
"""Seconds from the end of speech to the final, at the 99th percentile, with a VAD that stops after
0.2 s: 0.24 was measured with the bundled model on two CPU cores (docs/benchmarks.md), and a tenth
is added for larger models. ``parakeet-stt bench pipecat`` prints your machine's."""

SETUP_SECONDS = 10.0
"""Maximum time that :meth:`ParakeetSTTService.setup` waits for the model, in seconds. Pipecat
cancels a pipeline whose setup takes 20 s. Loading continues after it, and audio is kept."""

STALL_SECONDS = 1.0
"""If the next frame of audio is late by this time in the middle of speech, the segment ends."""

_FINISH_SECONDS = 30.0  # Most that the end of a pipeline waits for the last final.
_FAILURES_IN_A_ROW = 3  # So many, and the service says that it is no longer usable.
_VAD_EXPECTED_SECONDS = 10.0  # Audio without a frame from any VAD, before a warning.
# After an overflow, audio is accepted again below this share of the maximum backlog: one long gap
# instead of one after every frame.
_RESUME_SHARE = 0.9

_MODEL_FIELDS = ("model", "backend", "precision", "device")


@dataclass
class ParakeetMLXSTTSettings(STTSettings):
    """What can be set at construction and changed at run time.

    Everything that is not given comes from the environment variable of the same name
    (``PARAKEET_MODEL`` and so on), whose table is in docs/configuration.md.

    Parameters:
        backend: ``auto``, ``mlx`` or ``onnx``.
        precision: ``auto``, ``bf16`` or ``fp32``.
        device: ``auto``, ``gpu`` or ``cpu``.
        context_size: Left and right context in encoder frames of 80 ms.
        attention_mode: ``local`` or ``full``.
        streaming: ``windowed`` or ``upstream``.
        boost: Phrases to expect, with weights, or as ``PARAKEET_BOOST`` has them.
        chunk_ms: Shortest time between interims, milliseconds of audio.
        emit_partial: Whether interims are sent.
        min_confidence: Finals of lower confidence are dropped.
        preroll_ms: Audio kept from before the VAD's start of speech, milliseconds.
    """

    backend: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    precision: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    device: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    context_size: ContextSize | str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    attention_mode: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    streaming: str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    boost: dict[str, float] | str | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    chunk_ms: int | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    emit_partial: bool | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    min_confidence: float | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    preroll_ms: int | NotGiven = field(default_factory=lambda: NOT_GIVEN)


_FIELDS = (
    *_MODEL_FIELDS,
    "context_size",
    "attention_mode",
    "streaming",
    "boost",
    "chunk_ms",
    "emit_partial",
    "min_confidence",
    "preroll_ms",
)
_SETTINGS = (*_FIELDS, "language")

_Result = TypeVar("_Result", Hypothesis, Transcript)


@dataclass
class _SwitchedFrom(SystemFrame):
    """A ServiceSwitcher has switched from the service that gets this frame.

    Parameters:
        receiver: The service's task that makes frames of events.
        finished: Set when the final of what was said before is a frame.
    """

    receiver: asyncio.Task[None]
    finished: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _SwitchedTo(SystemFrame):
    """A ServiceSwitcher has switched to the service that gets this frame.

    Parameters:
        ends: What the other services got whose model is loaded.
        user_speaking: Whether the user was speaking.
    """

    ends: list[_SwitchedFrom]
    user_speaking: bool

    async def wait(self) -> None:
        """Wait until the other services have sent their finals, or have ended."""
        for end in self.ends:
            finished = asyncio.ensure_future(end.finished.wait())
            await asyncio.wait((finished, end.receiver), return_when=asyncio.FIRST_COMPLETED)
            finished.cancel()


class ParakeetSTTService(STTService):
    """Streaming speech-to-text with NVIDIA's Parakeet models, on this machine.

    Speech is what the VAD says it is: put a VAD into the pipeline, before this service or in the
    user aggregator behind it. Interims carry the whole text of the running segment; when the VAD
    stops there is exactly one final, with ``finalized=True`` and the
    :class:`~parakeet_stt.Transcript` as its ``result``.

    Args:
        engine: An engine to share with other services; its own by default. (Services with the
            same model share the model in any case.)
        settings: Overrides of the environment.
        ttfs_p99_latency: Seconds from the end of speech to the final that turn strategies reckon
            with.
        **kwargs: For :class:`pipecat.services.stt_service.STTService`.

    Event handlers:
        on_connected: Called when a model is ready, at the start or after a change of settings.
        on_connection_error: Called with a message when the model cannot be loaded. The service
            pushes a permanent error as well.

    Raises:
        ConfigurationError: An unknown argument, or a setting that cannot be used.

    Example::

        stt = ParakeetSTTService(
            settings=ParakeetSTTService.Settings(model="tiny", emit_partial=False)
        )
    """

    Settings = ParakeetMLXSTTSettings
    _settings: ParakeetMLXSTTSettings

    def __init__(
        self,
        *,
        engine: Engine | None = None,
        settings: ParakeetMLXSTTSettings | None = None,
        ttfs_p99_latency: float | None = PARAKEET_TTFS_P99,
        **kwargs: Any,
    ) -> None:
        """Initialize the service; arguments and errors as the class says."""
        _check_arguments(type(self), engine, settings, kwargs)
        values = load_settings()
        complete = self.Settings(language=None, **{name: getattr(values, name) for name in _FIELDS})
        if engine is not None:
            complete.model = engine.source
        if settings is not None:
            complete.apply_update(settings)
        complete.language = _as_language(complete.language)
        self._values = _validated(complete)
        super().__init__(settings=complete, ttfs_p99_latency=ttfs_p99_latency, **kwargs)
        self._engine = engine or Engine.from_settings(self._values)
        self._session: Session | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._converter: Converter | None = None
        self._format = (0, 1)  # Sample rate and channels of the audio that is coming in.
        self._stall: asyncio.TimerHandle | None = None
        self._frame_seconds = 0.0  # Audio in the newest frame.
        self._speakers: deque[tuple[float, str]] = deque()  # Since when whose audio comes.
        self._vad_progress = VADProgress()
        self._last_interim = ""
        self._failures = 0
        self._loading: asyncio.Task[None] | None = None
        self._ready: Engine | None = None  # The newest engine that was announced as ready.
        # Seconds of audio while no VAD has sent a frame; None once one has.
        self._seconds_without_vad: float | None = 0.0
        self._refusal: Exception | None = None  # Why audio is not accepted at present.
        self._refused_seconds = 0.0

    def can_generate_metrics(self) -> bool:
        """This service reports the time from the end of speech to the final."""
        return True

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override]
        """Open the session and load the model off the event loop.

        Returns when the model is ready or has failed to load, at the latest after
        :data:`SETUP_SECONDS`. Whenever loading fails, the service pushes a permanent error.
        """
        await super().setup(setup)
        values = self._values
        self._session = self._engine.open(SessionOptions.from_settings(values))
        self._receiver = self.create_task(self._receive(self._session), "parakeet_events")
        self._loading = self.create_task(self._load(), "parakeet_load")
        _, late = await asyncio.wait([self._loading], timeout=SETUP_SECONDS)
        if late:
            logger.warning(
                f"{self}: the model is not ready after {SETUP_SECONDS:.0f} s (a download?); speech "
                f"is kept and transcribed when it is"
            )

    async def stop(self, frame: EndFrame) -> None:
        """Send the final of the open segment, then stop.

        If the model is not loaded yet, this does not wait for it: speech that was kept for the
        model is reported as an error.
        """
        if self._session is not None and self._session.is_open:
            try:
                if not isinstance(self._refusal, BacklogError):
                    self._send_rest()
                if self._engine.model is None and self._session.backlog:
                    raise ModelUnavailableError(
                        f"{self._session.backlog:.1f} s of speech were waiting for the model, "
                        f"which was not loaded when the pipeline ended"
                    )
                async with asyncio.timeout(_FINISH_SECONDS):
                    await self._session.finish()
            except (ParakeetError, TimeoutError) as error:
                self._session.abort()
                reason = str(error) or f"inference took more than {_FINISH_SECONDS:.0f} s"
                await self.push_error(f"the last words got no final: {reason}", exception=error)
            await self._drain()
        await super().stop(frame)

    async def cancel(self, frame: CancelFrame) -> None:
        """Drop what is being said, and stop."""
        await self._close()
        await super().cancel(frame)

    async def cleanup(self) -> None:
        """Close the session; may be called more than once."""
        await self._close()
        await super().cleanup()  # type: ignore[no-untyped-call]

    async def process_audio_frame(
        self, frame: InputAudioRawFrame, direction: FrameDirection
    ) -> None:
        """Note the audio's format, which ``run_stt`` is not told, and go on."""
        self._format = (frame.sample_rate or self.sample_rate, frame.num_channels or 1)
        if self._seconds_without_vad is not None and not self._muted:
            self._seconds_without_vad += self._seconds(frame.audio)
            if self._seconds_without_vad >= _VAD_EXPECTED_SECONDS:
                self._seconds_without_vad = None
                logger.warning(
                    f"{self}: {_VAD_EXPECTED_SECONDS:.0f} s of audio came without a frame from a "
                    f"VAD, and nothing is transcribed without one. Put a VAD into the pipeline: "
                    f"LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()), or a VADProcessor "
                    f"in front of this service."
                )
        await super().process_audio_frame(frame, direction)
        if self._session is not None:
            self._vad_progress.receive(frame, self._session.seconds)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Hand audio over to the session; frames come from its events.

        Args:
            audio: 16-bit PCM, at the frame's own rate and number of channels.
        """
        yield None
        if self._session is None or not self._session.is_open:
            return
        rate, channels = self._format
        seconds = self._seconds(audio)
        resume = _RESUME_SHARE * MAX_BACKLOG_SECONDS
        if isinstance(self._refusal, BacklogError) and self._session.backlog > resume:
            self._refused_seconds += seconds
            return
        try:
            pcm = pcm16(audio, channels)
            convert = self._converter
            if convert is None or (convert.rate, convert.channels) != (rate, channels):
                self._send_rest()
                convert = self._converter = Converter(rate, channels)
            samples = convert(pcm)
            self._frame_seconds = len(samples) / SAMPLE_RATE
            self._note_speaker()
            if self._user_speaking:
                self._session.start_segment()  # A stall, a mute or a switch may have ended it.
                self._watch_for_stall()
            self._session.send(samples)
        except (AudioError, BacklogError) as error:
            self._refused_seconds += seconds
            if self._refusal is None:  # One error, not one for each frame.
                self._refusal = error
                await self.push_error(f"audio is not accepted: {error}", exception=error)
        else:
            if self._refusal is not None:
                logger.warning(
                    f"{self}: audio is accepted again; {self._refused_seconds:.2f} s were lost"
                )
                self._refusal, self._refused_seconds = None, 0.0

    async def queue_frame(
        self,
        frame: Frame,
        direction: FrameDirection = FrameDirection.DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> None:
        """Queue a frame. If it shows that a ServiceSwitcher has switched to this service, the
        services that it may have switched from end their segments, and this one waits for them."""
        if isinstance(frame, ServiceSwitcherRequestMetadataFrame) and frame.service is self:
            ends: list[_SwitchedFrom] = []
            speaking = False
            for other in self._alternatives():
                if other._receiver is not None:
                    end = _SwitchedFrom(other._receiver)
                    speaking = speaking or other._user_speaking
                    await other.queue_frame(end)
                    if other._engine.model is not None:  # Nobody waits for a download.
                        ends.append(end)
            # The request itself is no system frame: the audio behind it overtakes it.
            await super().queue_frame(_SwitchedTo(ends, speaking))
        await super().queue_frame(frame, direction, callback)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame. A mute or a switch ends the segment; what came before is not used."""
        if _shows_vad(frame):
            self._seconds_without_vad = None
        if isinstance(frame, _SwitchedFrom | _SwitchedTo):
            self._user_speaking = isinstance(frame, _SwitchedTo) and frame.user_speaking
            self._end_audio(frame)
            return
        await super().process_frame(frame, direction)
        if isinstance(frame, STTMuteFrame) and frame.mute:
            self._end_audio()

    async def _handle_vad_user_started_speaking(self, frame: VADUserStartedSpeakingFrame) -> None:
        await super()._handle_vad_user_started_speaking(frame)
        if self._muted or self._session is None or not self._session.is_open:
            return
        if not self.is_usable:
            return  # Pipecat withholds the audio.
        late = max(0.0, frame.start_secs - VAD_START_SECONDS)
        judged = self._vad_progress.judged(frame.timestamp)
        self._session.start_segment(self._values.preroll_ms / 1000 + late, judged)
        self._watch_for_stall()

    async def _handle_vad_user_stopped_speaking(self, frame: VADUserStoppedSpeakingFrame) -> None:
        started = self._user_speaking
        await super()._handle_vad_user_stopped_speaking(frame)
        if self._session is None or not self._session.is_open:
            return
        if not started and self.is_usable:
            # Speech whose start was not seen here: the service was switched to in its midst.
            self._session.start_segment(HISTORY_SECONDS)
        self._cancel_stall()
        judged = self._vad_progress.judged(frame.timestamp)
        self._session.flush(stop_seconds=frame.stop_secs, judged=judged)

    async def _update_settings(  # type: ignore[override]
        self, delta: ParakeetMLXSTTSettings
    ) -> dict[str, Any]:
        """Apply changed settings, from the next segment on.

        A new model is loaded before anything is changed; if that fails, all stays as it was. The
        first model may still be loading: then it is checked with the new settings afterwards.
        """
        wanted = copy.copy(self._settings)
        wanted.extra = dict(wanted.extra)
        try:
            wanted.apply_update(delta)
            wanted.language = _as_language(wanted.language)
            values = _validated(wanted)
            engine = self._engine
            if any(getattr(values, n) != getattr(self._values, n) for n in _MODEL_FIELDS):
                engine = Engine.from_settings(values)
            is_loading = self._loading is not None and not self._loading.done()
            if engine is not self._engine or not is_loading:
                await engine.check(StreamOptions.from_settings(values))
        except ParakeetError as error:
            await self.push_error(
                f"settings were not changed: {error}",
                exception=error,
                # The old model goes on: that this one cannot be had is not the service's end.
                category=ErrorCategory.APPLICATION,
            )
            return {}
        if is_given(delta.language):
            delta.language = wanted.language
        changed = await super()._update_settings(delta)
        self._values, self._engine = values, engine
        if self._session is not None and self._session.is_open:
            self._session.configure(SessionOptions.from_settings(values), engine)
        if engine.model is not None:
            await self._cancel_loading()  # The old model's, if it is still on its way.
            await self._model_ready()
        if changed.keys() & {"model", "language"}:
            self._check_language()
        return changed

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        if isinstance(exception, ModelNotFoundError | ModelFormatError | ConfigurationError):
            return ErrorCategory.INVALID_REQUEST
        if isinstance(exception, ModelUnavailableError):
            return ErrorCategory.CONNECTIVITY
        return super()._classify_error(exception)

    async def _load(self) -> None:
        """Load the model and report the outcome: Pipecat's tasks drop exceptions."""
        try:
            await self._engine.start()
            # The settings may have changed meanwhile.
            await self._engine.check(StreamOptions.from_settings(self._values))
        except Exception as error:
            await self.push_error(
                f"the model cannot be loaded: {error}",
                exception=error,
                force_treat_as_permanent=True,
            )
            await self._call_event_handler("on_connection_error", str(error))
        else:
            await self._model_ready()
            self._check_language()

    async def _model_ready(self) -> None:
        """Announce that the engine's model is loaded, once for each engine."""
        if self._ready is not self._engine:
            self._ready = self._engine
            logger.info(f"{self}: the model is ready")
            await self._call_event_handler("on_connected")

    def _check_language(self) -> None:
        """Warn about a language that the model does not know."""
        language, model = self._settings.language, self._engine.model
        known = model.languages if model is not None else ()
        if language and known and str(language).split("-")[0].lower() not in known:
            logger.warning(
                f"{self}: the language is set to {str(language)!r}, but {self._engine.source} "
                f"transcribes {', '.join(known)} only"
            )

    async def _cancel_loading(self) -> None:
        if self._loading is not None:
            await self.cancel_task(self._loading)
            self._loading = None

    async def _receive(self, session: Session) -> None:
        """Turn the session's events into frames, until it is closed."""
        speaker, speakers = "", dict[int, str]()  # Of the open segment, and of those that ended.
        async for event in session:
            match event:
                case SpeechStarted():
                    speaker = self._speaker_at(event.at)
                case Hypothesis():
                    await self._push_interim(event, speaker)
                case SegmentEnded():
                    speakers[event.segment] = speaker
                case Final():
                    self._failures = 0
                    await self._push_final(event.transcript, speakers.pop(event.segment))
                case Failed():
                    speakers.pop(event.segment, None)
                    await self._push_failure(event.error)
            if isinstance(event, Final | Failed):
                match event.tag:
                    case _SwitchedFrom():
                        event.tag.finished.set()
                    case _SwitchedTo():
                        await event.tag.wait()

    async def _push_interim(self, hypothesis: Hypothesis, user_id: str) -> None:
        text = hypothesis.text
        if not text or text == self._last_interim:
            return
        self._last_interim = text
        await self.push_frame(
            InterimTranscriptionFrame(
                text, user_id, time_now_iso8601(), self._language(None), _as_lists(hypothesis)
            )
        )
        await self._handle_transcription(text, False, self._language(None))

    async def _push_final(self, transcript: Transcript, user_id: str) -> None:
        self._last_interim = ""
        text = transcript.text
        if text and transcript.confidence < self._values.min_confidence:
            logger.debug(
                f"{self}: dropped {text!r}, whose confidence {transcript.confidence:.2f} is below "
                f"{self._values.min_confidence}"
            )
            text = ""
        if not text:
            # Nothing was said, so there is no time from speech to final either.
            await self._reset_stt_ttfb_state()  # type: ignore[no-untyped-call]
            return
        language = self._language(transcript)
        frame = TranscriptionFrame(
            text,
            user_id,
            time_now_iso8601(),
            language,
            _as_lists(transcript),
            finalized=True,
        )
        # A new turn's interruption empties the queues; the words before it were said all the same.
        frame.interruptible = False
        await self.emit_stt_usage_metrics()  # type: ignore[no-untyped-call]
        await self.push_frame(frame)
        await self._handle_transcription(text, True, language)

    async def _push_failure(self, error: BaseException) -> None:
        self._last_interim = ""
        self._failures += 1
        await self.push_error(
            f"a segment got no final: {error}",
            exception=error if isinstance(error, Exception) else None,
            force_treat_as_permanent=self._failures >= _FAILURES_IN_A_ROW,
        )

    @traced_stt
    async def _handle_transcription(
        self, transcript: str, is_final: bool, language: Language | None = None
    ) -> None:
        """Where Pipecat's tracing hooks in."""

    def _language(self, transcript: Transcript | None) -> Language | None:
        """The language that was set, else the one that the model tells."""
        code = self._settings.language or (transcript.language if transcript else None)
        if not code and self._engine.model is not None:
            code = self._engine.model.language
        try:
            return Language(str(code)) if code else None
        except ValueError:
            return None

    def _record_stt_audio_usage(self, audio: bytes | bytearray) -> None:
        """Count audio in its own format; Pipecat's method assumes the pipeline's rate, and mono."""
        self._stt_usage_pending_seconds += self._seconds(audio)

    def _seconds(self, audio: bytes | bytearray) -> float:
        """Length of 16-bit PCM in the format of the newest frame."""
        rate, channels = self._format
        return len(audio) / (2 * channels * rate)

    def _alternatives(self) -> list[ParakeetSTTService]:
        """The other services of this class in the same ServiceSwitcher."""
        waiting: list[FrameProcessor] = [self.pipeline_worker.pipeline]
        while waiting:
            processor = waiting.pop()
            if isinstance(processor, ServiceSwitcher) and self in processor.services:
                services = processor.services
                return [s for s in services if isinstance(s, ParakeetSTTService) and s is not self]
            waiting += processor.processors
        return []

    def _end_audio(self, tag: _SwitchedFrom | _SwitchedTo | None = None) -> None:
        """End the segment; audio that was received so far is not used for another."""
        if self._session is None or not self._session.is_open:
            return
        try:
            self._send_rest()
        finally:
            self._converter = None
            self._flush(tag)
            self._session.discard()

    def _flush(self, tag: _SwitchedFrom | _SwitchedTo | None = None) -> None:
        """End the segment, if one is open; its final comes as an event."""
        self._cancel_stall()
        if self._session is not None and self._session.is_open:
            self._session.flush(tag)

    def _note_speaker(self) -> None:
        """Note whose audio comes next."""
        assert self._session is not None
        now = self._session.seconds
        if not self._speakers or self._speakers[-1][1] != self._user_id:
            self._speakers.append((now, self._user_id))
        while len(self._speakers) > 1 and self._speakers[1][0] < now - MAX_BACKLOG_SECONDS:
            self._speakers.popleft()

    def _speaker_at(self, time: float) -> str:
        """Whose audio there is at a time, in seconds since the session opened."""
        earlier = [speaker for since, speaker in self._speakers if since <= time]
        return earlier[-1] if earlier else self._user_id

    def _send_rest(self) -> None:
        """Send what the converter holds back."""
        if self._converter is not None and self._session is not None:
            self._session.send(self._converter.flush())

    def _watch_for_stall(self) -> None:
        """Start waiting anew for audio to stay away."""
        self._cancel_stall()
        seconds = self._frame_seconds + STALL_SECONDS
        self._stall = self.get_event_loop().call_later(seconds, self._flush)

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    async def _drain(self) -> None:
        """Wait until every event of the closed session has become a frame."""
        if self._receiver is not None:
            await asyncio.wait([self._receiver])

    async def _close(self) -> None:
        self._cancel_stall()
        await self._cancel_loading()
        if self._session is not None:
            self._session.abort()
        if self._receiver is not None:
            await self.cancel_task(self._receiver)
            self._receiver = None


def _check_arguments(
    service: type[ParakeetSTTService],
    engine: Any,
    settings: Any,
    kwargs: Collection[str],
) -> None:
    """Check what the constructor was given: Pipecat accepts any keyword and ignores unknown ones.

    Raises:
        ConfigurationError: An unknown keyword, a value of the wrong type, or settings that the
            engine contradicts.
    """
    known = {
        name
        for base in service.__mro__
        if "__init__" in vars(base)
        for name in inspect.signature(vars(base)["__init__"]).parameters
    }
    for name in kwargs:
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, (*_SETTINGS, *known), 1)
        if nearest and nearest[0] not in _SETTINGS:
            advice = f"did you mean {nearest[0]!r}?"
        else:
            example = nearest[0] if nearest else "model"
            advice = f"settings are passed as settings={service.__name__}.Settings({example}=...)"
        raise ConfigurationError(f"{service.__name__} has no argument {name!r}: {advice}")
    if engine is not None and not isinstance(engine, Engine):
        raise ConfigurationError(f"engine={engine!r}: expected a parakeet_stt.Engine")
    if settings is not None and not isinstance(settings, ParakeetMLXSTTSettings):
        raise ConfigurationError(f"settings={settings!r}: expected {service.__name__}.Settings")
    if engine is None or settings is None:
        return
    for name in _MODEL_FIELDS:
        value = getattr(settings, name, NOT_GIVEN)
        if is_given(value) and not (name == "model" and value == engine.source):
            raise ConfigurationError(
                f"Settings({name}={value!r}) has no effect with engine=..., which has its model "
                f"already: give {name} to the Engine instead"
            )


def _validated(settings: ParakeetMLXSTTSettings) -> ParakeetSettings:
    """Check settings as those of the environment are checked.

    Raises:
        ConfigurationError: A value cannot be used.
    """
    if settings.extra:
        raise ConfigurationError(
            f"no such setting: {', '.join(settings.extra)}; expected {', '.join(_SETTINGS)}"
        )
    return load_settings(**{name: getattr(settings, name) for name in _FIELDS})


def _as_language(code: Any) -> Language | None:
    """The language of a BCP 47 code in any case; None stays None.

    Raises:
        ConfigurationError: Pipecat has no such language.
    """
    if code is None:
        return None
    for language in Language:
        if language.lower() == str(code).lower():
            return language
    raise ConfigurationError(
        f"language={code!r}: expected a BCP 47 code such as 'en' or 'de-DE', or None for the "
        f"model's own language"
    )


def _shows_vad(frame: Frame) -> bool:
    """Whether a frame shows that there is a VAD, or that it may have sent its frames to another
    service of a switcher. Before anybody speaks, a VAD sends its parameters only."""
    match frame:
        case SpeechControlParamsFrame():
            return frame.vad_params is not None
        case VADUserStartedSpeakingFrame() | VADUserStoppedSpeakingFrame():
            return True
    return isinstance(frame, ServiceSwitcherRequestMetadataFrame)


def _as_lists(result: _Result) -> _Result:
    """Copy with lists for tuples: Pipecat's JSON bus drops tuples, with a warning for each."""
    lists: Any = {
        f.name: list(value)
        for f in fields(result)
        if isinstance(value := getattr(result, f.name), tuple)
    }
    return replace(result, **lists)


ParakeetMLXSTTService = ParakeetSTTService
"""The name that existing bots import."""

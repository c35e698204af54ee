"""A Pipecat speech-to-text service over Parakeet models on this machine.

Translates Pipecat's frames to calls of a :class:`~parakeet_stt.engine.session.Session`, and the
session's events to frames: audio and VAD frames in, interim and final transcription frames out.
Inference never runs on the event loop.

The methods of :class:`ParakeetSTTService` stand in this order: Pipecat's lifecycle (``__init__``,
``setup``, ``stop``, ``cancel``, ``cleanup``), audio and frames in, the VAD, changed settings,
loading the model, session events to frames.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    ServiceSwitcherRequestMetadataFrame,
    STTMuteFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategy
from pipecat.processors.frame_processor import (
    FrameCallback,
    FrameDirection,
    FrameProcessor,
    FrameProcessorSetup,
)
from pipecat.services.stt_service import STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import traced_stt
from pipecat.utils.types import is_given

from parakeet_stt.engine.engine import Engine
from parakeet_stt.engine.events import Failed, Final, SegmentEnded, SpeechStarted
from parakeet_stt.engine.locator import VAD_START_SECONDS
from parakeet_stt.engine.options import SessionOptions
from parakeet_stt.engine.preroll import HISTORY_SECONDS
from parakeet_stt.engine.session import MAX_BACKLOG_SECONDS
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
from parakeet_stt.pipecat.audio_input import AudioInput
from parakeet_stt.pipecat.results import final_frame, interim_frame
from parakeet_stt.pipecat.segments import Flush, SegmentControl, SegmentSettings, Speakers
from parakeet_stt.pipecat.settings import (
    FIELDS,
    MODEL_FIELDS,
    ParakeetSTTSettings,
    as_language,
    check_arguments,
    validated,
)
from parakeet_stt.pipecat.switching import SwitchedFrom, SwitchedTo, switcher_of
from parakeet_stt.pipecat.vad_presence import VAD_EXPECTED_SECONDS, VADPresence
from parakeet_stt.pipecat.vad_progress import VADProgress
from parakeet_stt.settings import load_settings
from parakeet_stt.transcript import Hypothesis, Transcript

SETUP_SECONDS = 10.0
"""Maximum time that :meth:`ParakeetSTTService.setup` waits for the model, in seconds. Pipecat
cancels a pipeline whose setup takes 20 s. Loading continues after it, and audio is kept."""

_FINISH_SECONDS = 30.0  # Maximum time that the end of a pipeline waits for the last final.
_MAX_FAILURES = 3  # Failures in a row after which the service reports a permanent error.
# After an overflow, audio is accepted again below this share of the maximum backlog: one long gap
# instead of one after every frame.
_RESUME_SHARE = 0.9


class ParakeetSTTService(STTService):
    """Streaming speech-to-text with NVIDIA's Parakeet models, on this machine.

    A VAD decides what is speech: put one into the pipeline, before this service or in the user
    aggregator behind it. An interim has the whole text of the current segment. When the VAD reports
    the end of speech, the service sends exactly one final, with ``finalized=True`` and the
    :class:`~parakeet_stt.Transcript` as its ``result``; without words, it sends none.

    Args:
        engine: An engine to share with other services. Default: an engine of its own. (Services
            with the same model share the model in both cases.)
        settings: Settings that take precedence over the environment. Default: none.
        ttfs_p99_latency: Seconds from the end of speech to the final, at the 99th percentile,
            that are announced to turn strategies. Default: ``PARAKEET_TTFS_P99`` (0.35).
        **kwargs: Arguments of :class:`pipecat.services.stt_service.STTService`.

    Event handlers:
        on_connected: Called when a model is ready, at the start or after a change of model.
        on_connection_error: Called with a message when the model cannot be loaded. The service
            pushes a permanent error as well.

    Raises:
        ConfigurationError: An unknown argument, or a setting that cannot be used.

    Example::

        stt = ParakeetSTTService(
            settings=ParakeetSTTService.Settings(model="tiny", emit_partial=False)
        )
    """

    Settings = ParakeetSTTSettings
    _settings: ParakeetSTTSettings

    def __init__(
        self,
        *,
        engine: Engine | None = None,
        settings: ParakeetSTTSettings | None = None,
        ttfs_p99_latency: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize the service; the class documents arguments and errors."""
        check_arguments(type(self), engine, settings, kwargs)
        values = load_settings()
        complete = self.Settings(language=None, **{name: getattr(values, name) for name in FIELDS})
        if engine is not None:
            complete.model = engine.source
        if settings is not None:
            complete.apply_update(settings)
        complete.language = as_language(complete.language)
        self._values = validated(complete)
        if ttfs_p99_latency is None:
            ttfs_p99_latency = self._values.ttfs_p99
        super().__init__(settings=complete, ttfs_p99_latency=ttfs_p99_latency, **kwargs)
        self._engine = engine or Engine.from_settings(self._values)
        self._loading: asyncio.Task[None] | None = None
        self._ready: Engine | None = None  # The newest engine that was announced as ready.
        self._segments: SegmentControl | None = None  # From setup on.
        self._receiver: asyncio.Task[None] | None = None
        self._audio = AudioInput()
        self._speakers = Speakers()
        self._refusal: Exception | None = None  # Why audio is not accepted at present.
        self._refused_seconds = 0.0
        self._vad_presence = VADPresence()
        self._vad_progress = VADProgress()
        self._selected = False  # Whether a ServiceSwitcher, if there is one, has selected this one.
        self._last_interim = ""
        self._dropped = 0  # Finals whose confidence was too low.
        self._failures = 0

    def can_generate_metrics(self) -> bool:
        """Return True: the service reports the time from the end of speech to the final."""
        return True

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override]
        """Open the session and load the model off the event loop.

        Returns when the model is ready or has failed to load, at the latest after
        :data:`SETUP_SECONDS`. Whenever loading fails, the service pushes a permanent error.
        """
        await super().setup(setup)
        session = self._engine.open(SessionOptions.from_settings(self._values))
        self._segments = SegmentControl(session, self._segment_settings())
        self._receiver = self.create_task(self._receive(self._segments), "parakeet_events")
        switcher = switcher_of(self, self.pipeline_worker.pipeline)
        if switcher is not None:
            self._selected = switcher.strategy.active_service is self
            switcher.strategy.add_event_handler("on_service_switched", self._note_switch)
        self._loading = self.create_task(self._load(), "parakeet_load")
        _, late = await asyncio.wait([self._loading], timeout=SETUP_SECONDS)
        if late:
            logger.warning(
                f"{self}: the model is not ready after {SETUP_SECONDS:.0f} s (a download?); speech "
                f"is kept, and transcribed when the model is ready"
            )

    async def stop(self, frame: EndFrame) -> None:
        """Send the final of the open segment, then stop.

        If the model is not loaded yet, this does not wait for it: speech that was kept for the
        model is reported as an error.
        """
        if self._open is not None:
            session = self._open.session
            try:
                if not isinstance(self._refusal, BacklogError):
                    session.send(self._audio.flush())
                if self._engine.model is None and session.backlog:
                    raise ModelUnavailableError(
                        f"{session.backlog:.1f} s of speech were waiting for the model, "
                        f"which was not loaded when the pipeline ended"
                    )
                async with asyncio.timeout(_FINISH_SECONDS):
                    await session.finish()
            except (ParakeetError, TimeoutError) as error:
                session.abort()
                reason = str(error) or f"inference took more than {_FINISH_SECONDS:.0f} s"
                await self.push_error(f"the last words got no final: {reason}", exception=error)
            if self._receiver is not None:  # All events become frames before the EndFrame.
                await asyncio.wait([self._receiver])
        await super().stop(frame)

    async def cancel(self, frame: CancelFrame) -> None:
        """Drop the open segment and stop at once."""
        await self._close()
        await super().cancel(frame)

    async def cleanup(self) -> None:
        """Close the session; may be called more than once."""
        await self._close()
        await super().cleanup()  # type: ignore[no-untyped-call]

    async def _close(self) -> None:
        await self._cancel_loading()
        if self._segments is not None:
            self._segments.abort()
        if self._dropped > 1:
            logger.warning(f"{self}: {self._dropped} finals of low confidence were dropped")
        self._dropped = 0
        if self._receiver is not None:
            await self.cancel_task(self._receiver)
            self._receiver = None

    @property
    def _open(self) -> SegmentControl | None:
        """The session's segments, while the session is open."""
        return self._segments if self._segments is not None and self._segments.is_open else None

    async def queue_frame(
        self,
        frame: Frame,
        direction: FrameDirection = FrameDirection.DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> None:
        """Queue a frame.

        If it shows that a ServiceSwitcher has switched to this service, the service takes over from
        the one before. Selecting it again does nothing.
        """
        match frame:
            case ServiceSwitcherRequestMetadataFrame(service=service) if service is self:
                if not self._selected:
                    # The request itself is no system frame: the audio behind it overtakes it.
                    await super().queue_frame(await self._take_over())
        await super().queue_frame(frame, direction, callback)

    async def _take_over(self) -> SwitchedTo:
        """Make the services that a switcher may have switched from end their segments.

        Returns:
            The frame that makes this service wait for their finals.
        """
        ends: list[SwitchedFrom] = []
        speaking = False
        switcher = switcher_of(self, self.pipeline_worker.pipeline)
        for other in switcher.services if switcher is not None else []:
            if not isinstance(other, ParakeetSTTService) or other is self:
                continue
            other._selected = False
            if other._receiver is not None:
                end = SwitchedFrom(other._receiver)
                speaking = speaking or other._user_speaking
                await other.queue_frame(end)
                if other._engine.model is not None:  # A final must not wait for a download.
                    ends.append(end)
        self._selected = True
        return SwitchedTo(ends, speaking)

    async def _note_switch(self, strategy: ServiceSwitcherStrategy, _: FrameProcessor) -> None:
        """Note a switch to a service of another class, which does not notify this one."""
        self._selected = strategy.active_service is self

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame.

        A mute or a switch ends the segment; audio from before is not used for another.
        """
        self._vad_presence.receive_frame(frame)
        if isinstance(frame, SwitchedFrom | SwitchedTo):
            self._user_speaking = isinstance(frame, SwitchedTo) and frame.user_speaking
            self._discard_audio(frame)
            return
        await super().process_frame(frame, direction)
        if isinstance(frame, STTMuteFrame) and frame.mute:
            self._discard_audio()

    async def process_audio_frame(
        self, frame: InputAudioRawFrame, direction: FrameDirection
    ) -> None:
        """Process an audio frame; note its format, which ``run_stt`` does not receive."""
        self._audio.set_format(frame, self.sample_rate)
        if not self._muted and self._vad_presence.receive_audio(self._audio.seconds(frame.audio)):
            logger.warning(
                f"{self}: received {VAD_EXPECTED_SECONDS:.0f} s of audio, but no frame from a VAD. "
                f"Without a VAD nothing is transcribed. Put one into the pipeline: "
                f"LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()), or a VADProcessor "
                f"in front of this service."
            )
        await super().process_audio_frame(frame, direction)
        if self._segments is not None:
            self._vad_progress.receive(frame, self._segments.session.seconds)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Send audio to the session; the session's events become frames elsewhere.

        Args:
            audio: 16-bit PCM, at the frame's own rate and number of channels.
        """
        yield None
        segments = self._open
        if segments is None:
            return
        session, seconds = segments.session, self._audio.seconds(audio)
        resume = _RESUME_SHARE * MAX_BACKLOG_SECONDS
        if isinstance(self._refusal, BacklogError) and session.backlog > resume:
            self._refused_seconds += seconds
            return
        try:
            samples = self._audio.convert(audio)
            self._speakers.note(session.seconds, self._user_id)
            if self._user_speaking:
                segments.start()  # A stall, a mute or a switch may have ended it.
                segments.expect_audio(self._audio.frame_seconds)
            session.send(samples)
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

    def _discard_audio(self, reason: SwitchedFrom | SwitchedTo | None = None) -> None:
        """End the segment, and use none of the audio received so far for another."""
        segments = self._open
        if segments is None:
            return
        try:
            segments.session.send(self._audio.flush())
        finally:
            self._audio.reset()
            segments.discard(reason)

    def _record_stt_audio_usage(self, audio: bytes | bytearray) -> None:
        """Count audio in its own format; Pipecat's method assumes mono at the pipeline's rate."""
        self._stt_usage_pending_seconds += self._audio.seconds(audio)

    async def _handle_vad_user_started_speaking(self, frame: VADUserStartedSpeakingFrame) -> None:
        await super()._handle_vad_user_started_speaking(frame)
        segments = self._open
        if segments is None or self._muted or not self.is_usable:
            return  # Pipecat withholds the audio of a service that is muted or not usable.
        late = max(0.0, frame.start_secs - VAD_START_SECONDS)
        judged = self._vad_progress.judged(frame.timestamp)
        segments.start(self._values.preroll_ms / 1000 + late, judged)
        segments.expect_audio(self._audio.frame_seconds)

    async def _handle_vad_user_stopped_speaking(self, frame: VADUserStoppedSpeakingFrame) -> None:
        started = self._user_speaking
        await super()._handle_vad_user_stopped_speaking(frame)
        segments = self._open
        if segments is None:
            return
        if not started and self.is_usable:
            # The service did not see this speech start: it was switched to in the midst of it.
            segments.start(HISTORY_SECONDS)
        segments.flush(
            stop_seconds=frame.stop_secs, judged=self._vad_progress.judged(frame.timestamp)
        )

    async def _update_settings(  # type: ignore[override]
        self, delta: ParakeetSTTSettings
    ) -> dict[str, Any]:
        """Apply changed settings, from the next segment on.

        A new model is loaded first; if that fails, no setting changes. If the first model is still
        loading, it is checked with the new settings afterwards.
        """
        wanted = copy.copy(self._settings)
        wanted.extra = dict(wanted.extra)
        try:
            wanted.apply_update(delta)
            wanted.language = as_language(wanted.language)
            values = validated(wanted)
            engine = self._engine
            if any(getattr(values, n) != getattr(self._values, n) for n in MODEL_FIELDS):
                engine = Engine.from_settings(values)
            is_loading = self._loading is not None and not self._loading.done()
            if engine is not self._engine or not is_loading:
                await engine.check(StreamOptions.from_settings(values))
        except ParakeetError as error:
            await self.push_error(
                f"settings were not changed: {error}",
                exception=error,
                # The service keeps its old model, so the error is not the service's end.
                category=ErrorCategory.APPLICATION,
            )
            return {}
        if is_given(delta.language):
            delta.language = wanted.language
        changed = await super()._update_settings(delta)
        self._values, self._engine = values, engine
        if self._open is not None:
            self._open.session.configure(SessionOptions.from_settings(values), engine)
            self._open.configure(self._segment_settings())
        if engine.model is not None:
            await self._cancel_loading()  # The old model's, if it is still on its way.
            await self._model_ready()
        if changed.keys() & {"model", "language"}:
            self._check_language()
        return changed

    def _segment_settings(self) -> SegmentSettings:
        """Return the settings of segments that start now."""
        language = self._settings.language or None
        return SegmentSettings(self._values.min_confidence, language, self._engine)

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
        """Warn if the language is not one of the model's."""
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

    async def _receive(self, segments: SegmentControl) -> None:
        """Turn the session's events into frames, until it is closed."""
        speaker = ""  # Of the open segment.
        speakers: dict[int, str] = {}  # Of segments that have ended, by their numbers.
        async for event in segments.session:
            match event:
                case SpeechStarted():
                    speaker = self._speakers.at(event.at)
                case Hypothesis():
                    await self._push_interim(event, speaker, segments.settings)
                case SegmentEnded():
                    speakers[event.segment] = speaker
                case Final():
                    self._failures = 0
                    settings = segments.settings_of(event)
                    await self._push_final(event.transcript, speakers.pop(event.segment), settings)
                case Failed():
                    speakers.pop(event.segment, None)
                    await self._push_failure(event.error)
            if isinstance(event, Final | Failed) and isinstance(event.tag, Flush):
                match event.tag.reason:
                    case SwitchedFrom() as end:
                        end.finished.set()
                    case SwitchedTo() as switch:
                        await switch.wait()

    async def _push_interim(
        self, hypothesis: Hypothesis, user_id: str, settings: SegmentSettings
    ) -> None:
        if not hypothesis.text or hypothesis.text == self._last_interim:
            return
        self._last_interim = hypothesis.text
        language = _language(None, settings)
        await self.push_frame(interim_frame(hypothesis, user_id, language))
        await self._handle_transcription(hypothesis.text, False, language)

    async def _push_final(
        self, transcript: Transcript, user_id: str, settings: SegmentSettings
    ) -> None:
        self._last_interim = ""
        text = transcript.text
        if text and transcript.confidence < settings.min_confidence:
            self._drop(transcript, settings.min_confidence)
            text = ""
        if not text:
            # Without a final there is no time from the end of speech to the final.
            await self._reset_stt_ttfb_state()  # type: ignore[no-untyped-call]
            return
        language = _language(transcript, settings)
        await self.emit_stt_usage_metrics()  # type: ignore[no-untyped-call]
        await self.push_frame(final_frame(transcript, user_id, language))
        await self._handle_transcription(text, True, language)

    def _drop(self, transcript: Transcript, min_confidence: float) -> None:
        """Log and count a final whose confidence is too low."""
        self._dropped += 1
        if self._dropped == 1:
            logger.warning(
                f"{self}: dropped a final whose confidence {transcript.confidence:.2f} is below "
                f"PARAKEET_MIN_CONFIDENCE={min_confidence}, so that its turn has no text; 0 drops "
                f"none. Further ones are counted."
            )
        logger.debug(f"{self}: dropped {transcript.text!r}")

    async def _push_failure(self, error: BaseException) -> None:
        self._last_interim = ""
        self._failures += 1
        await self.push_error(
            f"a segment got no final: {error}",
            exception=error if isinstance(error, Exception) else None,
            force_treat_as_permanent=self._failures >= _MAX_FAILURES,
        )

    @traced_stt
    async def _handle_transcription(
        self, transcript: str, is_final: bool, language: Language | None = None
    ) -> None:
        """Do nothing but be traced: Pipecat's tracing wraps this method."""


def _language(transcript: Transcript | None, settings: SegmentSettings) -> Language | None:
    """Return the language of a segment's settings, otherwise the transcript's or the model's."""
    code = settings.language or (transcript.language if transcript else None)
    if not code and settings.engine.model is not None:
        code = settings.engine.model.language
    try:
        return Language(str(code)) if code else None
    except ValueError:
        return None


ParakeetMLXSTTService = ParakeetSTTService
"""The name that existing bots import."""

ParakeetMLXSTTSettings = ParakeetSTTSettings
"""The name that existing bots import."""

"""The table of variables, and that what is written about it is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.settings import ServerSettings, own_fields
from parakeet_stt.settings import (
    DEFAULT_BOOST,
    ParakeetSettings,
    load_settings,
    table,
    variable_name,
)
from tests.support.recordings import ROOT

FIELDS = ServerSettings.model_fields  # The engine's and the server's.
VARIABLES = {variable_name(name) for name in FIELDS}


def test_the_ancestors_variables_have_the_ancestors_defaults() -> None:
    settings = load_settings()
    assert settings.model == "mlx-community/parakeet-tdt-0.6b-v2"
    assert settings.context_size == (256, 256)
    assert settings.attention_mode == "auto"  # `local`, if the encoder supports it.
    assert settings.chunk_ms == 100
    assert settings.emit_partial is True
    assert settings.min_confidence == 0.1


def test_variables_are_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_CONTEXT_SIZE", " 128, 64 ")
    monkeypatch.setenv("PARAKEET_ATTENTION_MODE", "FULL")
    monkeypatch.setenv("PARAKEET_EMIT_PARTIAL", "false")
    monkeypatch.setenv("PARAKEET_CACHE_DIR", "/somewhere")
    settings = load_settings(chunk_ms=50, model=None)
    assert settings.context_size == (128, 64)
    assert settings.attention_mode == "full"
    assert settings.emit_partial is False
    assert settings.cache_dir == Path("/somewhere")
    assert settings.chunk_ms == 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKEND", "cuda"),
        ("PRECISION", "int4"),
        ("CONTEXT_SIZE", "256"),
        ("CONTEXT_SIZE", "0,256"),
        ("ATTENTION_MODE", "global"),
        ("STREAMING", "theirs"),
        ("BOOST", "radio:loud"),
        ("BOOST", "radio:-1"),
        ("BOOST", "radio:nan"),
        ("BOOST", ":2"),
        ("CHUNK_MS", "5"),
        ("EMIT_PARTIAL", "perhaps"),
        ("MIN_CONFIDENCE", "1.5"),
        ("PREROLL_MS", "100"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PARAKEET_{name}", value)
    with pytest.raises(ConfigurationError, match=f"PARAKEET_{name}="):
        load_settings()


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("", {}),
        ("Kubernetes", {"Kubernetes": DEFAULT_BOOST}),
        (" Ada Lovelace , Kubernetes:2.5,,", {"Ada Lovelace": DEFAULT_BOOST, "Kubernetes": 2.5}),
    ],
)
def test_phrases_to_boost_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, phrases: dict[str, float]
) -> None:
    monkeypatch.setenv("PARAKEET_BOOST", text)
    assert load_settings().boost == phrases
    assert load_settings(boost=phrases).boost == phrases


@pytest.mark.parametrize(
    ("document", "fields"),
    [("configuration.md", ParakeetSettings.model_fields), ("server.md", own_fields())],
)
def test_the_documents_hold_the_tables(document: str, fields: dict[str, FieldInfo]) -> None:
    assert table(fields) in (ROOT / "docs" / document).read_text(encoding="utf-8")


def test_env_example_names_every_variable_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"PARAKEET_[A-Z_]+(?==)", text)) == VARIABLES
    for name, field in FIELDS.items():
        (value,) = re.findall(rf"^# ?{variable_name(name)}=(.*)$", text, re.MULTILINE)
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        assert value.strip() == ("" if default in (None, {}, "") else str(default)).replace(
            "True", "true"
        )


def test_no_document_names_a_variable_that_does_not_exist() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    composed = set(re.findall(r"\$\{(PARAKEET_\w+)", compose))
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"PARAKEET_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8")))
        assert named <= VARIABLES | {"PARAKEET_TTFS_P99"} | composed, path.name


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_MODEL", "")
    monkeypatch.setenv("PARAKEET_WYOMING_PORT", "")
    assert load_settings(ServerSettings) == ServerSettings()
    assert load_settings().model == ParakeetSettings.model_fields["model"].default


@pytest.mark.parametrize(
    ("other", "value", "message"),
    [
        ("BACKEND", "onnx", "PARAKEET_STREAMING='upstream' with PARAKEET_BACKEND='onnx'"),
        ("BOOST", "Ada", "PARAKEET_STREAMING='upstream' with PARAKEET_BOOST={'Ada': 3.0}"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_when_they_are_read(
    monkeypatch: pytest.MonkeyPatch, other: str, value: str, message: str
) -> None:
    monkeypatch.setenv("PARAKEET_STREAMING", "upstream")
    monkeypatch.setenv(f"PARAKEET_{other}", value)
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        load_settings()

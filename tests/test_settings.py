"""The table of variables, and that what is written about it is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.server.settings import ServerSettings
from parakeet_stt.settings import (
    COMPOSE_VARIABLES,
    DEFAULT_BOOST,
    SERVER_VARIABLES,
    ParakeetSettings,
    load_settings,
    variable_name,
)
from scripts.settings_tables import DOCUMENTS, SERVER_FIELDS, env_example, table
from tests.support.command import parakeet
from tests.support.recordings import ROOT

VARIABLES = {variable_name(name) for name in ServerSettings.model_fields}  # And the engine's.


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
        ("CONTEXT_SIZE", "0"),
        ("CONTEXT_SIZE", "many"),
        ("CONTEXT_SIZE", "256,256,256"),
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
        ("TTFS_P99", "0"),
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documents_hold_the_tables(document: str) -> None:
    """If this fails, run scripts/settings_tables.py."""
    assert table(DOCUMENTS[document]) in (ROOT / "docs" / document).read_text(encoding="utf-8")


def test_env_example_is_written_from_the_settings() -> None:
    """If this fails, run scripts/settings_tables.py."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert text == env_example()
    assert (
        set(re.findall(r"^# (PARAKEET_\w+)=", text, re.MULTILINE)) == VARIABLES | COMPOSE_VARIABLES
    )


def test_a_value_in_quotes_in_an_env_file_is_read_without_them(tmp_path: Path) -> None:
    """As .env.example recommends for spaces; examples/bot_v2.py reads the file so."""
    example = re.search(r'PARAKEET_BOOST="(.+)"', env_example())
    assert example is not None
    (tmp_path / ".env").write_text(f"{example[0]}\nPARAKEET_CHUNK_MS=50\n")
    values = dotenv_values(tmp_path / ".env")
    assert values == {"PARAKEET_BOOST": example[1], "PARAKEET_CHUNK_MS": "50"}


def test_env_example_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name, value in re.findall(r"^# (PARAKEET_\w+)=(.*)$", text, re.MULTILINE):
        monkeypatch.setenv(name, value)
    assert load_settings(ServerSettings) == ServerSettings.model_construct()


@pytest.mark.parametrize(
    ("document", "variable", "values"),
    [
        ("configuration.md", "CHUNK_MS", "20 to 2000"),
        ("configuration.md", "PREROLL_MS", "500 to 5000"),
        ("configuration.md", "MIN_CONFIDENCE", "0 to 1"),
        ("configuration.md", "BACKEND", "`auto`, `mlx`, `onnx`"),
        ("configuration.md", "EMIT_PARTIAL", "`true`, `false`"),
        ("configuration.md", "TTFS_P99", "above 0, up to 60"),
        ("server.md", "WS_PORT", "0 to 65535"),
        ("server.md", "MAX_SESSIONS", "at least 1"),
    ],
)
def test_the_tables_hold_ranges_and_choices(document: str, variable: str, values: str) -> None:
    (row,) = [
        line
        for line in (ROOT / "docs" / document).read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `PARAKEET_{variable}` |")
    ]
    assert row.split(" | ")[2] == values


def test_the_servers_variables_are_known_without_the_server() -> None:
    assert {variable_name(name) for name in SERVER_FIELDS} == SERVER_VARIABLES


def test_no_document_names_a_variable_that_does_not_exist() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    composed = set(re.findall(r"\$\{(PARAKEET_\w+)", compose))
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"PARAKEET_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
        assert named <= VARIABLES | composed, path.name
    assert composed - VARIABLES == COMPOSE_VARIABLES


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


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("PARAKEET_MODLE", "did you mean PARAKEET_MODEL?"),
        ("PARAKEET_MAX_SESSION", "did you mean PARAKEET_MAX_SESSIONS?"),
        ("PARAKEET_VERBOSITY_OF_LOGS", "see docs/configuration.md"),
    ],
)
def test_a_variable_that_does_not_exist_is_one_warning_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], name: str, advice: str
) -> None:
    monkeypatch.setenv(name, "1")
    load_settings()
    load_settings(ServerSettings)
    (line,) = warnings
    assert line.startswith(f"{name} is set, but there is no such setting")
    assert line.strip().endswith(advice)


def test_variables_of_the_server_of_compose_and_of_kubernetes_are_no_misspelt_ones(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    for name in (
        *SERVER_VARIABLES,
        *COMPOSE_VARIABLES,
        "PARAKEET_SERVICE_HOST",
        "PARAKEET_SERVICE_PORT_HTTP",
        "PARAKEET_PORT_8000_TCP_ADDR",
        "PARAKEET_STT_PORT_8000_TCP",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PARAKEET_EMPTY", "")
    load_settings()
    assert not warnings


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("DEVICE", "CUDA", "device", "gpu"),
        ("DEVICE", " Mps ", "device", "gpu"),
        ("DEVICE", "CPU", "device", "cpu"),
        ("BACKEND", "ONNX", "backend", "onnx"),
        ("PRECISION", "FP32", "precision", "fp32"),
        ("STREAMING", "Windowed", "streaming", "windowed"),
        ("EMIT_PARTIAL", "FALSE", "emit_partial", False),
        ("CONTEXT_SIZE", "128", "context_size", (128, 128)),
        ("MODEL", "~/models/mine", "model", str(Path.home() / "models/mine")),
        ("CACHE_DIR", "~/cache", "cache_dir", Path.home() / "cache"),
    ],
)
def test_values_are_read_as_people_write_them(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(f"PARAKEET_{name}", value)
    assert getattr(load_settings(), field) == expected
    monkeypatch.delenv(f"PARAKEET_{name}")
    assert getattr(load_settings(**{field: value}), field) == expected


def test_one_number_of_context_counts_for_both_sides() -> None:
    assert load_settings(context_size=128).context_size == (128, 128)


def test_a_fraction_of_a_frame_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PARAKEET_CONTEXT_SIZE"):
        load_settings(context_size=(1.5, 2))


@pytest.mark.parametrize("value", ["many", "256,", "1,2,3", ""])
def test_what_context_is_expected_is_in_the_message(value: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(context_size=value)
    assert str(error.value) == (
        f"PARAKEET_CONTEXT_SIZE={value!r}: expected left and right context in encoder frames of "
        f"80 ms, such as 256,256, or one number for both"
    )


def test_the_command_line_names_a_misspelt_variable() -> None:
    done = parakeet("models", PARAKEET_MODLE="tiny")
    assert done.returncode == 0
    assert done.stderr.count("did you mean PARAKEET_MODEL?") == 1


def test_the_command_line_finds_a_contradiction_with_the_model_before_it_listens() -> None:
    """Only the loaded model shows that its encoder runs in ONNX Runtime."""
    arguments = ("--model", "tiny", "--audio", ROOT / "samples" / "spelling.flac")
    done = parakeet("listen", *arguments, PARAKEET_STREAMING="upstream")
    assert done.returncode == 1
    assert "which needs backend=mlx" in done.stderr
    assert "listening" not in done.stderr


def test_choices_on_the_command_line_are_accepted_in_any_case() -> None:
    arguments = ("--model", "tiny", "--device", "CPU", "--backend", "Onnx")
    done = parakeet("transcribe", *arguments, ROOT / "samples" / "spelling.flac")
    assert done.returncode == 0, done.stderr

"""Write the tables of settings: docs/configuration.md, docs/server.md and .env.example.

Run it after a setting has changed: ``uv run scripts/settings_tables.py``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from parakeet_stt.server.settings import own_fields
from parakeet_stt.settings import ParakeetSettings, variable_name

ROOT = Path(__file__).parents[1]

ENGINE_FIELDS: Mapping[str, FieldInfo] = ParakeetSettings.model_fields
SERVER_FIELDS: Mapping[str, FieldInfo] = own_fields()

DOCUMENTS = {"configuration.md": ENGINE_FIELDS, "server.md": SERVER_FIELDS}
"""Documents in docs/, and the fields whose table each holds."""

_HEADER = "| variable | default | values | what it does |"

_ENV_HEAD = """\
# Every variable with its default. Copy this file to .env and uncomment what you change.
#
# compose.yaml and examples/bot_v2.py read .env. The command line and the library do not: they read
# the environment only. For the command line: uv run --env-file .env parakeet-stt ...
# Put a value with spaces into quotes: PARAKEET_BOOST="Ada Lovelace, Kubernetes:5"
#
# scripts/settings_tables.py writes this file. docs/configuration.md has the same in tables.

# examples/bot_v2.py: its speech-to-text (parakeet-mlx, whisper, whisper-mlx or moonshine).
# STT_BACKEND=parakeet-mlx
# A local language model (OpenAI-compatible) and a voice (kokoro or piper), so that the bot answers.
# LLM_BASE_URL=http://localhost:11434/v1
# LLM_MODEL=llama3.2
# LLM_API_KEY=
# TTS_BACKEND=kokoro
# PIPER_VOICE=en_US-ryan-high

# Log level of the bot and of the command line: DEBUG, INFO, WARNING or ERROR.
# LOG_LEVEL=WARNING

# compose.yaml: addresses of this machine on which the ports are published.
# PARAKEET_PUBLISH=127.0.0.1
# PARAKEET_PUBLISH_WYOMING=127.0.0.1
"""


def default_of(field: FieldInfo) -> str:
    """The default of a field as the environment spells it; empty if there is none."""
    default = field.default
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default)


def values_of(field: FieldInfo) -> str:
    """The range or the choices of a field as Markdown; empty if its description says it all."""
    choices, bounds = _constraints(field.annotation, list(field.metadata))
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    least, most = bounds.get("ge"), bounds.get("le")
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    words = {"ge": "at least", "gt": "above", "le": "up to", "lt": "below"}
    return ", ".join(f"{word} {bounds[key]:g}" for key, word in words.items() if key in bounds)


def table(fields: Mapping[str, FieldInfo]) -> str:
    """Fields of settings as a Markdown table."""
    rows = [_HEADER, "|---|---|---|---|"]
    for name, field in fields.items():
        default = default_of(field)
        shown = f"`{default}`" if default else ""
        rows.append(
            f"| `{variable_name(name)}` | {shown} | {values_of(field)} | {field.description} |"
        )
    return "\n".join(rows)


def env_example() -> str:
    """The content of .env.example."""
    parts = [_ENV_HEAD, "# Recognition", *_env_lines(ENGINE_FIELDS)]
    parts += ["", "# The server (parakeet-stt serve; docs/server.md)", *_env_lines(SERVER_FIELDS)]
    return "\n".join(parts) + "\n"


def _env_lines(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    for name, field in fields.items():
        values = values_of(field)
        about = f"{field.description}{f' ({values})' if values else ''}".replace("`", "")
        yield ""
        yield from textwrap.wrap(about, 100, initial_indent="# ", subsequent_indent="# ")
        yield f"# {variable_name(name)}={default_of(field)}"


def _constraints(annotation: Any, metadata: list[Any]) -> tuple[list[str], dict[str, float]]:
    """Choices and bounds of a type, also of the parts of an optional or annotated one."""
    choices: list[str] = []
    bounds: dict[str, float] = {}
    for item in metadata:
        match item:
            case FieldInfo():
                bounds |= _constraints(None, item.metadata)[1]
            case Ge():
                bounds["ge"] = float(item.ge)  # type: ignore[arg-type]
            case Gt():
                bounds["gt"] = float(item.gt)  # type: ignore[arg-type]
            case Le():
                bounds["le"] = float(item.le)  # type: ignore[arg-type]
            case Lt():
                bounds["lt"] = float(item.lt)  # type: ignore[arg-type]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        choices = ["true", "false"]
    elif origin is Literal:
        choices = list(arguments)
    elif origin is Annotated:
        bounds |= _constraints(None, list(arguments[1:]))[1]
    elif origin in (Union, UnionType):
        for part in arguments:
            bounds |= _constraints(part, [])[1]
    return choices, bounds


def main() -> None:
    """Write the files."""
    for name, fields in DOCUMENTS.items():
        path = ROOT / "docs" / name
        text = path.read_text(encoding="utf-8")
        pattern = r"^\| variable \| default \|(?: values \|)? what it does \|\n(?:\|.*\n)+"
        matches = list(re.finditer(pattern, text, flags=re.MULTILINE))
        if len(matches) != 1:
            raise SystemExit(f"{path}: expected one table of settings, found {len(matches)}")
        start, end = matches[0].span()
        path.write_text(f"{text[:start]}{table(fields)}\n{text[end:]}", encoding="utf-8")
    (ROOT / ".env.example").write_text(env_example(), encoding="utf-8")


if __name__ == "__main__":
    main()

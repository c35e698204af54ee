"""The names of languages in OpenAI's responses."""

from __future__ import annotations

NAMES = {
    "bg": "bulgarian",
    "hr": "croatian",
    "cs": "czech",
    "da": "danish",
    "nl": "dutch",
    "en": "english",
    "et": "estonian",
    "fi": "finnish",
    "fr": "french",
    "de": "german",
    "el": "greek",
    "hu": "hungarian",
    "it": "italian",
    "lv": "latvian",
    "lt": "lithuanian",
    "mt": "maltese",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sk": "slovak",
    "sl": "slovenian",
    "es": "spanish",
    "sv": "swedish",
    "uk": "ukrainian",
}
"""Whisper's names of the languages that Parakeet models transcribe, by code."""

CODES = {name: code for code, name in NAMES.items()}
"""Codes of languages by Whisper's names."""

